//! The steps of a request's way by themselves: heads, canonical paths, route lookup, a plugin chain, the log's line, the
//! epoch's swap.

use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{Criterion, criterion_group, criterion_main};

use ringway::base::buf::Chunk;
use ringway::base::clock;
use ringway::config::gateway::{LogFormat, Paths, RouterMode};
use ringway::config::{Input, LoadOptions, load};
use ringway::plugin::ctx::{ConnInfo, Parts};
use ringway::plugin::{Ctx, Phases};
use ringway::proto::h1::{HeadLimits, request};
use ringway::proto::message::{Method, MethodSet, RequestHead};
use ringway::proto::uri;
use ringway::proto::vars::{Value, Var, Vars};
use ringway::proxy::access_log::Format;
use ringway::route::{Ask, Spec, Table};
use ringway::snapshot::{Route, compile, published::Published};
use ringway::upstream::names::Names;

const BROWSER: &[u8] = b"GET /assets/app.js?v=42 HTTP/1.1\r\nHost: www.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,application/xhtml+xml\r\nAccept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";

fn head_parse(c: &mut Criterion) {
    let limits = HeadLimits { bytes: 32768, fields: 100, target_bytes: 8192 };
    let mut head = RequestHead::default();
    let mut chunk = Chunk::small();
    assert!(chunk.append(BROWSER));
    *head.fields.received_mut() = chunk;
    c.bench_function("head parse, browser", |b| {
        b.iter(|| {
            head.clear();
            black_box(request::parse(&mut head, &limits, &Paths::default()).is_ok())
        });
    });
    let mut path = Vec::new();
    for raw in ["/assets/app.js", "/a/./b%20c/../d"] {
        c.bench_function(&format!("canonical path {raw}"), |b| {
            b.iter(|| {
                path.clear();
                black_box(uri::canonical(raw.as_bytes(), &Paths::default(), &mut path).is_ok())
            });
        });
    }
}

struct Nothing;

impl Vars for Nothing {
    fn var(&self, _var: &Var) -> Option<Value<'_>> {
        None
    }
}

fn route_lookup(c: &mut Criterion) {
    for count in [1, 100, 10_000, 100_000] {
        let uris: Vec<Vec<String>> = (0..count).map(|n| vec![format!("/many/{n:06}/*")]).collect();
        let specs: Vec<Spec<'_>> = uris
            .iter()
            .map(|uris| Spec { uris, hosts: &[], methods: MethodSet::default(), remote_addrs: &[], vars: None, priority: 0 })
            .collect();
        let Ok(table) = Table::build(RouterMode::Ringway, &specs) else { panic!("the table is good") };
        let paths: Vec<String> = (0..1024).map(|n| format!("/many/{:06}/x/y", n * 7919 % count)).collect();
        let mut next = 0;
        c.bench_function(&format!("route lookup, {count} routes"), |b| {
            b.iter(|| {
                next = (next + 1) % paths.len();
                let path = paths[next].as_bytes();
                let ask = Ask { path, host: b"a", authority: b"a", method: Method::Get, vars: &Nothing };
                black_box(table.find(&ask).is_some())
            });
        });
    }
}

/// Runs `with` on an exchange whose route has three plugins.
fn with_exchange(with: impl FnOnce(&Route, &mut Ctx<'_>)) {
    let text = "routes:\n  - id: r\n    uri: /*\n    upstream: {nodes: {\"127.0.0.1:1\": 1}}\n    plugins:\n      \
        ip-restriction: {whitelist: [127.0.0.0/8]}\n      proxy-rewrite: {headers: {set: {X-Api: v1}}}\n      \
        response-rewrite: {headers: {set: {X-Done: \"yes\"}}}\n";
    let input = Input::Text { name: "bench".into(), text: text.into() };
    let Ok(loaded) = load(&LoadOptions { input, strict: false, env: &|_| None }) else { panic!("good") };
    let Ok(compiled) = compile(loaded, 1, None, &Names::default()) else { panic!("good") };
    let snapshot = compiled.snapshot;
    let mut parts = Parts::default();
    let mut chunk = Chunk::small();
    assert!(chunk.append(BROWSER));
    *parts.request.fields.received_mut() = chunk;
    let limits = HeadLimits { bytes: 32768, fields: 100, target_bytes: 8192 };
    assert!(request::parse(&mut parts.request, &limits, &Paths::default()).is_ok());
    let conn = ConnInfo {
        peer: Some(([127, 0, 0, 1], 5000).into()),
        local: None,
        proxy_protocol: None,
        scheme: "http",
        requests: Cell::new(1),
        peer_text: "127.0.0.1".into(),
    };
    let mut ctx = Ctx::begin(&mut parts, &conn, &snapshot.consumers, clock::refresh());
    with(&snapshot.routes[0].route, &mut ctx);
}

fn plugin_chain(c: &mut Criterion) {
    with_exchange(|route, ctx| {
        c.bench_function("plugin chain: three plugins, rewrite to header_filter", |b| {
            b.iter(|| {
                ctx.response.clear();
                for phase in [Phases::REWRITE, Phases::ACCESS] {
                    let mut run = pin!(route.chain.run(phase, ctx));
                    let polled = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    assert!(matches!(polled, Poll::Ready(None)), "no plugin of these waits or answers");
                }
                route.chain.run_header_filter(ctx);
            });
        });
    });
}

fn log_line(c: &mut Criterion) {
    with_exchange(|_, ctx| {
        (ctx.sent.status, ctx.sent.body_bytes) = (200, 1234);
        for format in [LogFormat::Combined, LogFormat::Json] {
            let Ok(compiled) = Format::compile(&format) else { panic!("good") };
            let mut out = Vec::new();
            c.bench_function(&format!("log line, {format:?}"), |b| {
                b.iter(|| {
                    out.clear();
                    compiled.write(ctx, &mut out);
                    black_box(out.len())
                });
            });
        }
    });
}

fn epoch_swap(c: &mut Criterion) {
    let text: String = (0..1000).fold("routes:\n".to_owned(), |text, n| {
        text + &format!("  - {{id: r{n}, uri: /r{n}, upstream: {{nodes: {{\"127.0.0.1:1\": 1}}}}}}\n")
    });
    let names = Names::default();
    let build = |previous| {
        let input = Input::Text { name: "bench".into(), text: text.clone() };
        let Ok(loaded) = load(&LoadOptions { input, strict: false, env: &|_| None }) else { panic!("good") };
        let Ok(compiled) = compile(loaded, 1, previous, &names) else { panic!("good") };
        compiled.snapshot
    };
    let first = build(None);
    c.bench_function("compile 1,000 routes, nothing changed", |b| b.iter(|| black_box(build(Some(&first)))));
    let published = Published::new(first.clone());
    c.bench_function("epoch: look and take", |b| {
        b.iter(|| black_box((published.epoch(), Arc::strong_count(&published.current()))));
    });
}

criterion_group!(hot_path, head_parse, route_lookup, plugin_chain, log_line, epoch_swap);
criterion_main!(hot_path);
