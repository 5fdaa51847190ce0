//! A worker's runtime: the driver and its ring flags, tasks, sleeping and yielding.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::ops::DerefMut;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use monoio::utils::kept::{self, KeptBox};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::base::clock;
use crate::config::gateway::Driver;

/// What carries a worker's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// io_uring.
    IoUring,
    /// epoll.
    Epoll,
}

/// Driver and flags that were taken, and why not better ones.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The driver.
    pub carrier: Carrier,
    /// For people: `io_uring (SINGLE_ISSUER|DEFER_TASKRUN)` or `epoll`.
    pub name: String,
    /// Why a better rung of the ladder was not taken.
    pub refused: Vec<String>,
}

/// Entries of a worker's ring: it is submitted long before it is full. The kernel brings some dozen completions per turn where
/// they are deferred, and as many as there are where they are not.
const RING_ENTRIES: u32 = 256;
const RING_COMPLETIONS: u32 = 4096;
const RING_COMPLETIONS_UNDEFERRED: u32 = 65_536;

thread_local! {
    static CARRIER: Cell<Carrier> = const { Cell::new(Carrier::Epoll) };
    static PANICS: Cell<u64> = const { Cell::new(0) };
    static YIELDERS: RefCell<Vec<Yielder>> = const { RefCell::new(Vec::new()) };
}

/// Runs a future on this thread under the best driver that `choice` and the kernel allow. Must be called on the thread
/// that will do all the work (SINGLE_ISSUER).
///
/// # Errors
/// If no allowed driver could be set up; the text names the cause of each rung.
pub fn run<F: Future>(choice: Driver, main: impl FnOnce(Taken) -> F) -> io::Result<F::Output> {
    let mut refused = Vec::new();
    if choice != Driver::Epoll {
        for (flags, builder) in ladder() {
            let ring = RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES).uring_builder(builder);
            match ring.enable_timer().build() {
                Ok(mut runtime) => {
                    CARRIER.set(Carrier::IoUring);
                    let name = format!("io_uring ({flags})");
                    let taken = Taken { carrier: Carrier::IoUring, name, refused };
                    return Ok(runtime.block_on(whole(main(taken))));
                }
                Err(error) => refused.push(format!("{flags}: {error}")),
            }
        }
    }
    if choice == Driver::IoUring {
        return Err(io::Error::other(format!("io_uring is not available ({})", refused.join("; "))));
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    CARRIER.set(Carrier::Epoll);
    let taken = Taken { carrier: Carrier::Epoll, name: "epoll".into(), refused };
    Ok(runtime.block_on(whole(main(taken))))
}

/// Leaves nothing of this runtime to the thread's next one.
async fn whole<F: Future>(main: F) -> F::Output {
    let output = main.await;
    drop(YIELDERS.take());
    output
}

/// Ring flags from best to plainest: Linux 6.1, 5.19, and whatever has a ring at all.
fn ladder() -> Vec<(&'static str, io_uring::Builder)> {
    let base = |completions| {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_cqsize(completions).setup_clamp();
        builder
    };
    let mut deferred = base(RING_COMPLETIONS);
    deferred.setup_single_issuer().setup_defer_taskrun();
    let mut cooperative = base(RING_COMPLETIONS_UNDEFERRED);
    cooperative.setup_coop_taskrun();
    vec![
        ("SINGLE_ISSUER|DEFER_TASKRUN", deferred),
        ("COOP_TASKRUN", cooperative),
        ("no flags", base(RING_COMPLETIONS_UNDEFERRED)),
    ]
}

/// Pins this thread to a CPU. A CPU that is not there leaves the thread where it is.
pub fn pin(cpu: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
}

/// What carries this thread's operations.
pub fn carrier() -> Carrier {
    CARRIER.get()
}

/// Starts a task. A panic in it ends that task alone; it is counted and handed to the panic hook, which logs its place.
#[expect(clippy::disallowed_methods, reason = "this is the wrapper that others are to use")]
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(Guarded(future)));
}

/// Tasks of this thread that panicked.
pub fn panics() -> u64 {
    PANICS.get()
}

struct Guarded<F>(F);

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: the field is pinned with its wrapper and never moved out of it.
        let future = unsafe { self.map_unchecked_mut(|guarded| &mut guarded.0) };
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                PANICS.set(PANICS.get() + 1);
                Poll::Ready(())
            }
        }
    }
}

/// Something was received: the thread's time moves on, once in a turn of its loop.
#[inline]
pub fn time_moves() {
    clock::refresh_once(monoio::turn::number());
}

/// Puts a future aside, in memory that the thread keeps for the next one like it: for what comes and goes with connections.
#[inline]
pub fn aside<F: Future>(future: F) -> Pin<impl DerefMut<Target = F>> {
    KeptBox::pin(future)
}

/// Gives the memory that is kept for what is put aside, and for tasks, back to the allocator.
pub fn give_back() {
    kept::give_back();
}

/// Sleeps; whole milliseconds, rounded up. The thread's time has moved on then.
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
    clock::refresh();
}

/// Lets every other task, timer and completion have its turn. A task that only wakes itself would starve them: the loop
/// parks only when no task is ready. Each driver needs its own way (reference/runtime.md §3.3).
pub async fn yield_now() {
    let kept = YIELDERS.with_borrow_mut(Vec::pop);
    let Some(mut yielder) = kept.or_else(|| Yielder::new().ok()) else {
        return sleep(Duration::from_millis(1)).await; // out of descriptors: slower, but it yields
    };
    if yielder.turn().await.is_ok() {
        YIELDERS.with_borrow_mut(|kept| kept.push(yielder));
    }
}

/// One task at a time waits on a pair: the epoll driver keeps one waker per descriptor and direction.
struct Yielder {
    near: monoio::net::UnixStream,
    far: std::os::unix::net::UnixStream,
}

impl Yielder {
    fn new() -> io::Result<Self> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(carrier() == Carrier::Epoll)?;
        Ok(Self { near: monoio::net::UnixStream::from_std(near)?, far })
    }

    async fn turn(&mut self) -> io::Result<()> {
        use monoio::io::AsyncReadRent;
        use std::io::Write;
        if carrier() == Carrier::IoUring {
            return self.near.writable(false).await;
        }
        // First wait, then make it ready: readiness that is already there would be taken without parking.
        let mut read = std::pin::pin!(self.near.read(vec![0_u8; 1]));
        let mut written = false;
        std::future::poll_fn(|cx| {
            let polled = read.as_mut().poll(cx);
            if polled.is_pending() && !written {
                written = true;
                if let Err(error) = (&self.far).write_all(b"y") {
                    return Poll::Ready(Err(error));
                }
            }
            polled.map(|(result, _)| result.map(drop))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn what_is_put_aside_takes_the_place_of_what_was_and_is_dropped_once() {
        let held = Rc::new(());
        let one = |held: Rc<()>| async move {
            std::future::pending::<()>().await;
            drop(held)
        };
        let place = |future: &Pin<_>| std::ptr::from_ref::<_>(&**future) as usize;
        let first = aside(one(held.clone()));
        let second = aside(one(held.clone()));
        let (at, other) = (place(&first), place(&second));
        drop(first);
        assert_eq!(Rc::strong_count(&held), 2);
        let third = aside(one(held.clone()));
        assert_eq!(place(&third), at);
        assert_ne!(at, other);
        drop((second, third));
        assert_eq!(Rc::strong_count(&held), 1);
        give_back();
        drop(aside(one(held.clone())));
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn memory_of_what_panics_while_it_is_dropped_is_kept_once() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("as the test wants it");
            }
        }
        let one = || async {
            let _panics = Panics;
            std::future::pending::<()>().await;
        };
        let mut future = aside(one());
        let polled = future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
        let at = std::ptr::from_ref(&*future).addr();
        assert!(std::panic::catch_unwind(AssertUnwindSafe(|| drop(future))).is_err());
        let (first, second) = (aside(one()), aside(one()));
        assert_eq!(std::ptr::from_ref(&*first).addr(), at);
        assert_ne!(std::ptr::from_ref(&*second).addr(), at);
    }
}
