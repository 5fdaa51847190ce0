//! Health of nodes: probes eject and restore, requests judge, and both are to be seen.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Gateway, Upstream, control, drivers, free_port, ok, until};

/// An upstream that is well while the switch is on: it says its name, and 503 to everything else.
fn switched(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let switch = well.clone();
    let upstream = Upstream::answering(move |_| match switch.load(Ordering::SeqCst) {
        true => ok(name.as_bytes()),
        false => b"HTTP/1.1 503 Unwell\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    (upstream, well)
}

fn status(gateway: &Gateway, port: u16) -> String {
    let text = control(gateway, "/v1/healthcheck/upstreams/u");
    let page: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let nodes = page["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["port"] == port).unwrap()["status"].as_str().unwrap().to_owned()
}

fn resources(checks: &str, ports: &[u16]) -> String {
    let nodes: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\": 1")).collect();
    format!(
        "upstreams:\n  - {{id: u, retries: 0, nodes: {{{}}}, checks: {checks}}}\nroutes:\n  - {{uri: /*, upstream_id: u}}",
        nodes.join(", ")
    )
}

#[test]
fn probes_eject_a_node_and_restore_it() {
    for driver in drivers() {
        let (sick, well) = switched("sick");
        let (other, _) = switched("other");
        let checks =
            "{active: {http_path: /live, healthy: {interval: 1, successes: 1}, unhealthy: {interval: 1, http_failures: 2}}}";
        let gateway = Gateway::start(driver, "", &resources(checks, &[sick.port, other.port]));
        until("requests at both", || {
            let both: std::collections::HashSet<String> = (0..4).map(|_| gateway.get("/").text()).collect();
            (both.len() == 2).then_some(())
        });
        well.store(false, Ordering::SeqCst);
        until("the node to be ejected", || (status(&gateway, sick.port) == "unhealthy").then_some(()));
        assert!((0..20).all(|_| gateway.get("/").text() == "other"), "{driver}: nobody is sent to a sick node");
        let metrics = control(&gateway, "/metrics");
        let line = |port: u16| format!("apisix_upstream_status{{name=\"/upstreams/u\",ip=\"127.0.0.1\",port=\"{port}\"}}");
        assert!(metrics.contains(&format!("{} 0\n", line(sick.port))), "{metrics}");
        assert!(metrics.contains(&format!("{} 1\n", line(other.port))), "{metrics}");
        // A reload that leaves the node where it is keeps what is known of it.
        gateway.reload(&(resources(checks, &[sick.port, other.port]) + "\n  - {uri: /another, upstream_id: u}"));
        assert_eq!(status(&gateway, sick.port), "unhealthy", "{driver}");
        well.store(true, Ordering::SeqCst);
        until("the node to be restored", || (status(&gateway, sick.port) == "healthy").then_some(()));
        until("requests at both again", || {
            let both: std::collections::HashSet<String> = (0..4).map(|_| gateway.get("/").text()).collect();
            (both.len() == 2).then_some(())
        });
    }
}

#[test]
fn a_bare_connection_is_a_probe_and_where_nobody_is_well_everybody_is_asked() {
    let (alive, _) = switched("alive");
    let dead = free_port();
    let checks = "{active: {type: tcp, healthy: {interval: 1}, unhealthy: {interval: 1, tcp_failures: 1}}}";
    let gateway = Gateway::start("epoll", "", &resources(checks, &[alive.port, dead]));
    until("the dead node to be ejected", || (status(&gateway, dead) == "unhealthy").then_some(()));
    assert!((0..10).all(|_| gateway.get("/").status == 200));
    assert_eq!(status(&gateway, alive.port), "healthy");
    gateway.reload(&resources(checks, &[dead, free_port()]));
    until("both to be ejected", || {
        let text = control(&gateway, "/v1/healthcheck");
        (text.matches("\"unhealthy\"").count() == 2).then_some(())
    });
    assert_eq!(gateway.get("/").status, 502, "they are asked all the same");
}

#[test]
fn requests_judge_the_nodes_they_meet() {
    for driver in drivers() {
        let (sick, well) = switched("sick");
        let (other, _) = switched("other");
        // No probes of usable nodes; unhealthy ones are probed and so come back.
        let checks = "{active: {unhealthy: {interval: 1}, healthy: {interval: 3600, successes: 1}}, \
            passive: {unhealthy: {http_statuses: [503], http_failures: 3}}}";
        let gateway = Gateway::start(driver, "", &resources(checks, &[sick.port, other.port]));
        well.store(false, Ordering::SeqCst);
        let mut unwell = 0;
        until("the node to be ejected by what requests met", || {
            unwell += u32::from(gateway.get("/").status == 503);
            (status(&gateway, sick.port) == "unhealthy").then_some(())
        });
        assert!(unwell >= 2, "{driver}: it takes three failures, {unwell} were met by requests");
        assert!((0..10).all(|_| gateway.get("/").text() == "other"), "{driver}");
        well.store(true, Ordering::SeqCst);
        until("the node to be restored", || (status(&gateway, sick.port) == "healthy").then_some(()));
    }
}
