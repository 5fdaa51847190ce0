//! A raw io_uring with a ring of provided buffers, behind safe functions: what the forwarder on it needs and no more.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

/// Operations that one `io_uring_enter` can take.
const SUBMISSIONS: u32 = 4096;
/// Completions that can wait: a multishot operation has many.
const COMPLETIONS: u32 = 32 * 1024;
/// Buffers, a power of two.
const BUFFERS: u16 = 2048;
const BUFFER_BYTES: usize = 16 * 1024;
const GROUP: u16 = 0;
/// Page size and more: what the kernel asks of the buffer ring's address.
const ALIGNMENT: usize = 64 * 1024;

/// The token of what the listener gives.
pub const ACCEPTED: u64 = u64::MAX;

/// What an operation came to.
#[derive(Debug)]
pub struct Done {
    /// The token it was started with.
    pub token: u64,
    /// What it gives, such as a number of octets; negative for an error.
    pub result: i32,
    /// The connection that was accepted.
    pub connection: Option<TcpStream>,
    /// The operation goes on: more completions will come.
    pub more: bool,
    /// The buffer that holds what was received; the caller gives it back.
    pub buffer: Option<u16>,
}

/// The error of an operation that found no buffer.
pub const NO_BUFFER: i32 = -libc::ENOBUFS;

/// One ring with its buffers. The memory that the kernel reads and writes is never freed: an operation may still be under way
/// when the ring is dropped, and a forwarder lives as long as its process.
pub struct Ring {
    ring: IoUring,
    buffers: Buffers,
    upstream: &'static SockAddr,
}

impl Ring {
    /// A ring for the calling thread, whose connections go to `upstream`.
    ///
    /// # Errors
    /// Where the kernel has no io_uring, or one without what is needed (6.1).
    pub fn new(upstream: SocketAddr) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(SUBMISSIONS)?;
        let buffers = Buffers::new();
        // SAFETY: the entries are aligned, have room for BUFFERS of them, and live for ever.
        unsafe {
            ring.submitter().register_buf_ring(buffers.entries as u64, BUFFERS, GROUP)?;
        }
        Ok(Self { ring, buffers, upstream: Box::leak(Box::new(upstream.into())) })
    }

    /// Accepts connections, under the token [`ACCEPTED`], until it completes without `more`.
    ///
    /// # Errors
    /// What `io_uring_enter` gives where the queue was full.
    pub fn accept(&mut self, listener: &impl AsRawFd) -> io::Result<()> {
        self.push(opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build(), ACCEPTED)
    }

    /// Connects a socket to the upstream.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn connect(&mut self, socket: RawFd, token: u64) -> io::Result<()> {
        let entry = opcode::Connect::new(Fd(socket), self.upstream.as_ptr().cast(), self.upstream.len()).build();
        self.push(entry, token)
    }

    /// Receives until it completes without `more`; each result says how much is in its buffer.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn receive(&mut self, socket: RawFd, token: u64) -> io::Result<()> {
        self.push(opcode::RecvMulti::new(Fd(socket), GROUP).build(), token)
    }

    /// Sends `length` octets of a buffer, from `start` on; the kernel goes on until all are sent.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn send(&mut self, socket: RawFd, buffer: u16, start: usize, length: usize, token: u64) -> io::Result<()> {
        let (at, length) = self.buffers.part(buffer, start, length);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        self.push(opcode::Send::new(Fd(socket), at, length).flags(flags).build(), token)
    }

    /// The kernel has buffers to receive into.
    pub fn has_buffers(&self) -> bool {
        self.buffers.free > 0
    }

    /// Lets the kernel fill a buffer again.
    pub fn give_back(&mut self, buffer: u16) {
        self.buffers.give(buffer);
    }

    /// Submits what was started, waits at most `timeout` for completions and appends them to `done`.
    ///
    /// # Errors
    /// What `io_uring_enter` gives, but for signals and the end of the wait.
    pub fn wait(&mut self, timeout: Duration, done: &mut Vec<Done>) -> io::Result<()> {
        let time = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(e) => return Err(e),
        }
        for entry in self.ring.completion() {
            let (token, result) = (entry.user_data(), entry.result());
            // SAFETY: a descriptor that the kernel made for this completion is owned by nobody else.
            let connection = (token == ACCEPTED && result >= 0).then(|| unsafe { TcpStream::from_raw_fd(result) });
            let buffer = cqueue::buffer_select(entry.flags());
            self.buffers.free -= usize::from(buffer.is_some());
            done.push(Done { token, result, connection, more: cqueue::more(entry.flags()), buffer });
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry, token: u64) -> io::Result<()> {
        let entry = entry.user_data(token);
        loop {
            // SAFETY: every pointer in an entry is into memory that is never freed; a descriptor that was closed is an error.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}

/// Buffers shared with the kernel: whole ones belong either to the ring of free ones, which the kernel takes from, or to whoever
/// got them with a completion.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
    /// How many the kernel has.
    free: usize,
}

impl Buffers {
    fn new() -> Self {
        let entries = forever(usize::from(BUFFERS) * size_of::<BufRingEntry>()).cast();
        let memory = forever(usize::from(BUFFERS) * BUFFER_BYTES);
        let mut buffers = Self { entries, memory, tail: 0, free: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give(buffer));
        buffers
    }

    fn give(&mut self, buffer: u16) {
        let slot = usize::from(self.tail % BUFFERS);
        let (address, _) = self.part(buffer, 0, BUFFER_BYTES);
        // SAFETY: the slot is within the entries; the kernel does not read it before the tail says so.
        let entry = unsafe { &mut *self.entries.add(slot) };
        entry.set_addr(address as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        // SAFETY: the tail lies within the first entry and is only touched as an atomic from here on.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Where a part of a buffer is, cut at the buffer's end.
    fn part(&self, buffer: u16, start: usize, length: usize) -> (*const u8, u32) {
        let start = start.min(BUFFER_BYTES);
        let offset = usize::from(buffer % BUFFERS) * BUFFER_BYTES + start;
        // SAFETY: the offset is at most the end of one of BUFFERS buffers.
        (unsafe { self.memory.add(offset) }, length.min(BUFFER_BYTES - start) as u32)
    }
}

/// Zeroed memory that is never freed.
fn forever(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).unwrap_or(Layout::new::<u8>());
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}
