//! Unix sockets, source addresses and the PROXY protocol towards upstreams, with nginx behind the gateway.

mod support;

use support::{Gateway, Nginx, drivers, free_port};

fn nginx(proxy_port: u16) -> Nginx {
    let says = "$remote_addr|$http_host|$proxy_protocol_addr|$proxy_protocol_port|$proxy_protocol_server_port|$connection";
    Nginx::start(move |port, dir| {
        format!(
            "  server {{ listen 127.0.0.1:{port}; listen unix:{dir}/nginx.sock; location / {{ return 200 \"{says}\"; }} }}\n  \
             server {{ listen 127.0.0.1:{proxy_port} proxy_protocol; location / {{ return 200 \"{says}\"; }} }}"
        )
    })
}

fn told(gateway: &Gateway) -> Vec<String> {
    let answer = gateway.get("/");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().split('|').map(str::to_owned).collect()
}

fn route(upstream: &str) -> String {
    format!("routes: [{{uri: /*, upstream: {{{upstream}}}}}]")
}

#[test]
fn a_node_may_be_a_unix_socket() {
    let nginx = nginx(free_port());
    let socket = format!("{}/nginx.sock", nginx.scratch.0.display());
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &route(&format!("nodes: {{\"unix:{socket}\": 1}}")));
        let first = told(&gateway);
        assert_eq!((first[0].as_str(), first[1].as_str()), ("unix:", "a.example"));
        assert_eq!(told(&gateway)[5], first[5], "the connection is used again");
        assert_eq!(gateway.log(1)[0]["tries"][0]["address"], format!("unix:{socket}"));
        gateway.reload(&route(&format!("pass_host: node, nodes: [{{host: \"unix:{socket}\", weight: 1}}]")));
        assert_eq!(told(&gateway)[1], "localhost");
        // One that is not there is a node like another that is down.
        gateway.reload(&route(&format!("nodes: {{\"unix:{socket}.gone\": 1, \"127.0.0.1:{}\": 1}}", nginx.port)));
        for _ in 0..4 {
            assert_eq!(told(&gateway)[0], "127.0.0.1");
        }
        gateway.reload(&route(&format!("nodes: {{\"unix:{socket}.gone\": 1}}")));
        assert_eq!(gateway.get("/").status, 502);
    }
}

#[test]
fn connections_leave_from_the_address_that_is_asked_for() {
    let nginx = nginx(free_port());
    for driver in drivers() {
        let nodes = format!("nodes: {{\"127.0.0.1:{}\": 1}}", nginx.port);
        let gateway = Gateway::start(driver, "", &route(&format!("{nodes}, source_address: 127.0.0.7")));
        let first = told(&gateway);
        assert_eq!(first[0], "127.0.0.7");
        assert_eq!(told(&gateway)[5], first[5]);
        // Another source never takes its connections.
        gateway.reload(&route(&format!("{nodes}, source_address: 127.0.0.8")));
        assert_eq!(told(&gateway)[0], "127.0.0.8");
        gateway.reload(&route(&nodes));
        assert_eq!(told(&gateway)[0], "127.0.0.1");
    }
}

#[test]
fn nodes_learn_the_client_by_the_proxy_protocol() {
    let proxy_port = free_port();
    let _nginx = nginx(proxy_port);
    for driver in drivers() {
        for version in ["v1", "v2"] {
            let upstream = format!("nodes: {{\"127.0.0.1:{proxy_port}\": 1}}, proxy_protocol: {version}");
            let gateway = Gateway::start(driver, "", &route(&upstream));
            let mut client = gateway.connect();
            let own_port = client.stream.local_addr().unwrap().port().to_string();
            let mut connections = Vec::new();
            for _ in 0..2 {
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                let text = client.answer().text();
                let parts: Vec<&str> = text.split('|').collect();
                assert_eq!(parts[2..5], ["127.0.0.1", &own_port, &gateway.address.port().to_string()], "{version}");
                connections.push(parts[5].to_owned());
            }
            assert_ne!(connections[0], connections[1], "a connection that names a client serves nobody else");
        }
    }
}
