//! Backend, floor and load work together over loopback, in every mode of the load.
// In a test a failed unwrap is the report.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bench_harness::load::{self, Errors, Load, Mark, Spec};
use bench_harness::{backend, floor, floor_ring, sys};

struct Stage {
    direct: SocketAddr,
    floors: [SocketAddr; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Stage {
    fn new() -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let [back, epoll, ring] = [(); 3].map(|()| sys::listen(any).unwrap());
        let [direct, floors @ ..] = [&back, &epoll, &ring].map(|listener| listener.local_addr().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b, c) = (stop.clone(), stop.clone(), stop.clone());
        let threads = vec![
            thread::spawn(move || backend::serve(&back, until, &|| a.load(Ordering::Relaxed))),
            thread::spawn(move || floor::forward(&epoll, direct, until, &|| b.load(Ordering::Relaxed))),
            thread::spawn(move || floor_ring::forward(&ring, direct, until, &|| c.load(Ordering::Relaxed))),
        ];
        Self { direct, floors, stop, threads }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap().unwrap();
        }
    }
}

fn short(target: SocketAddr, path: &str, bytes: u64) -> Spec {
    let warmup = Duration::from_millis(20);
    Spec { warmup, expect_bytes: Some(bytes), ..Spec::get(target, path, 8, Duration::from_millis(80)) }
}

#[test]
fn every_mode_is_answered_without_an_error() {
    let stage = Stage::new();
    let post = |target| Spec { method: "POST".into(), body_bytes: 4096, ..short(target, "/", 13) };
    for target in [stage.direct, stage.floors[0], stage.floors[1]] {
        let modes = [
            ("small", short(target, "/", 13)),
            ("1 MB", short(target, "/bytes/1048576", 1 << 20)),
            ("POST", post(target)),
            ("POST 1 MB", Spec { body_bytes: 1 << 20, ..post(target) }),
            ("closing", Spec { close: true, ..short(target, "/", 13) }),
            ("pipelined", Spec { pipeline: 8, ..short(target, "/bytes/100", 100) }),
            ("variants", Spec { variants: 50, ..short(target, "/many/{}/x", 13) }),
            ("HEAD", Spec { method: "HEAD".into(), ..short(target, "/", 0) }),
        ];
        for (name, spec) in modes {
            let outcome = load::run(&spec, &mut |_| {}).unwrap();
            assert!(outcome.requests > 10, "{name} at {target}: {} requests", outcome.requests);
            assert_eq!((outcome.errors, outcome.reopened), (Errors::default(), 0), "{name}");
            assert_eq!(outcome.service.len(), outcome.requests, "{name}");
        }
    }
}

#[test]
fn a_load_waits_between_its_windows_with_its_connections() {
    let stage = Stage::new();
    let open = Spec { rate: Some(500.0), ..short(stage.direct, "/", 13) };
    for spec in [short(stage.floors[0], "/", 13), Spec { pipeline: 8, ..short(stage.direct, "/bytes/100", 100) }, open] {
        let mut load = Load::open(spec.clone()).unwrap();
        for window in 0..3 {
            let mut marks = Vec::new();
            let outcome = load.window(&mut |mark| marks.push(mark)).unwrap();
            assert_eq!(marks, [Mark::Begin, Mark::End]);
            assert!(outcome.requests > 10, "window {window} of {spec:?}: {} requests", outcome.requests);
            assert_eq!((outcome.errors, outcome.reopened), (Errors::default(), 0), "window {window} of {spec:?}");
            assert_eq!(outcome.service.len(), outcome.requests, "window {window} of {spec:?}");
        }
    }
}

#[test]
fn the_open_loop_keeps_its_rate_and_sees_a_stall() {
    let stage = Stage::new();
    let spec = Spec { rate: Some(500.0), duration: Duration::from_millis(400), ..short(stage.direct, "/", 13) };
    let outcome = load::run(&spec, &mut |_| {}).unwrap();
    assert_eq!(outcome.errors, Errors::default());
    assert!((195..=205).contains(&outcome.requests), "{} requests", outcome.requests);

    // A listener that never accepts: nothing is answered, so every intended request must show as late.
    let silent = sys::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let spec = Spec { target: silent.local_addr().unwrap(), connections: 2, rate: Some(100.0), ..spec };
    let outcome = load::run(&Spec { duration: Duration::from_millis(100), ..spec }, &mut |_| {}).unwrap();
    assert_eq!(outcome.requests, 0);
    assert!(outcome.errors.timeout >= 10, "{:?}", outcome.errors);
    assert!(outcome.scheduled.unwrap().max() >= 950_000_000);
}

#[test]
fn errors_are_counted() {
    let stage = Stage::new();
    let outcome = load::run(&short(stage.direct, "/bytes/5", 6), &mut |_| {}).unwrap();
    assert!(outcome.errors.length > 0);
    let nobody = bench_harness::children::free_address().unwrap();
    let outcome = load::run(&short(nobody, "/", 13), &mut |_| {}).unwrap();
    assert!(outcome.errors.total() > 0 && outcome.requests == 0);
}
