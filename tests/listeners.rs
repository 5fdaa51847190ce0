//! How connections come in: accept modes, PROXY protocol v2, and the driver that is left where rings are forbidden.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;

use support::{DEADLINE, Gateway, Upstream, control, drivers, until};

fn everything_to(upstream: &Upstream) -> String {
    format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes())
}

#[test]
fn both_accept_modes_serve_every_connection_with_two_workers() {
    for driver in drivers() {
        for mode in ["reuseport", "shared"] {
            let upstream = Upstream::echoing();
            let settings = format!("  workers: {{count: 2, driver: {driver}, accept: {mode}}}\n");
            let gateway = Gateway::start(driver, &settings, &everything_to(&upstream));
            let mut clients: Vec<_> = (0..120).map(|_| gateway.connect()).collect();
            for round in 0..2 {
                clients.iter_mut().for_each(|client| client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
                for client in &mut clients {
                    assert_eq!(client.answer().status, 200, "{driver} {mode} {round}");
                }
                let another = format!("{}\n  - {{uri: /other{round}, upstream: {}}}", everything_to(&upstream), upstream.nodes());
                gateway.reload(&another); // connections stay where they are
            }
            let metrics = control(&gateway, "/metrics");
            let of = |worker: u32| -> u64 {
                let name = format!("ringway_requests_total{{worker=\"{worker}\"}} ");
                metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
            };
            assert_eq!(of(0) + of(1), 240, "{driver} {mode}");
            if mode == "reuseport" {
                assert!(of(0) > 0 && of(1) > 0, "the kernel spreads 120 connections over two sockets: {} {}", of(0), of(1));
            }
        }
    }
}

/// The 16 octets that every header of version 2 begins with, its command, family and length among them.
fn version_two(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend((addresses.len() as u16).to_be_bytes());
    header.extend(addresses);
    header
}

#[test]
fn proxy_protocol_version_two_tells_the_client() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let port = support::free_port();
        let settings = format!("  listeners: [{{address: \"127.0.0.1:{port}\", proxy_protocol: true}}]\n");
        let _gateway = Gateway::start(driver, &settings, &everything_to(&upstream));
        let ask = |header: &[u8], split: usize| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.set_nodelay(true).unwrap();
            let all = [header, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat();
            stream.write_all(&all[..split]).unwrap();
            stream.write_all(&all[split..]).unwrap();
            let mut text = String::new();
            let _reset = stream.read_to_string(&mut text);
            text
        };
        let mut four = [192, 0, 2, 9, 192, 0, 2, 1].to_vec();
        four.extend([0x13, 0x88, 0, 80]);
        let mut six = [0x20, 1, 0x0d, 0xb8].to_vec();
        six.resize(32, 0);
        (six[15], six[31]) = (7, 1);
        six.extend([0x13, 0x88, 0, 80]);
        let with_tlv = [four.as_slice(), &[0x04, 0, 3, 1, 2, 3]].concat(); // a NOOP that is to be stepped over
        for split in [0, 1, 12, 16, 20, 30] {
            let split_header = |header: Vec<u8>| ask(&header, split);
            assert!(split_header(version_two(1, 0x11, &four)).contains("X-Real-IP: 192.0.2.9\r\n"), "{driver} {split}");
            assert!(split_header(version_two(1, 0x21, &six)).contains("X-Real-IP: 2001:db8::7\r\n"), "{driver} {split}");
            assert!(split_header(version_two(1, 0x11, &with_tlv)).contains("X-Real-IP: 192.0.2.9\r\n"), "{driver} {split}");
            assert!(split_header(version_two(0, 0, &[])).contains("X-Real-IP: 127.0.0.1\r\n"), "LOCAL: a health check");
        }
        let mut torn = version_two(1, 0x11, &four);
        torn[11] = b'?';
        assert_eq!(ask(&torn, 0), "", "a broken signature gets no answer");
        assert_eq!(ask(&version_two(1, 0x11, &four[..6]), 0), "", "addresses that are too short");
        assert_eq!(ask(&version_two(7, 0x11, &four), 0), "", "a command that does not exist");
    }
}

/// Makes `io_uring_setup` fail with EPERM in the process to be started, as a container's default seccomp profile does.
fn forbid_rings(command: &mut std::process::Command) {
    const SETUP: u32 = 425; // on every architecture
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the number of the call
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SETUP) },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec only two prctl calls are made, on memory that the closure owns.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            let forbidden = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if forbidden { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

#[test]
fn where_rings_are_forbidden_epoll_serves_and_the_start_says_why() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::start_as("auto", "", &everything_to(&upstream), forbid_rings);
    assert_eq!(gateway.get("/").status, 200);
    let told = gateway.stderr();
    assert!(told.contains("epoll"), "{told}");
    assert!(told.contains("Operation not permitted"), "the cause: {told}");
    assert!(told.contains("DEFER_TASKRUN"), "each rung that was tried: {told}");
    drop(gateway);

    let scratch = support::Scratch::new();
    let port = support::free_port();
    let file = scratch.file(
        "ringway.yaml",
        &format!(
            "gateway:\n  workers: {{count: 1, driver: io_uring}}\n  listeners: [{{address: \"127.0.0.1:{port}\"}}]\n  \
             control: {{address: \"127.0.0.1:{}\"}}\n",
            support::free_port()
        ),
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["run", "-c"]).arg(file).stderr(std::process::Stdio::piped());
    forbid_rings(&mut command);
    let mut child = command.spawn().unwrap();
    let status = until("the end of a gateway that insists on rings", || child.try_wait().unwrap());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(!status.success());
    assert!(told.contains("io_uring is not available"), "{told}");
}
