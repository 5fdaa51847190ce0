//! `prometheus`: counts the requests of its route. APISIX plugins-first.md. Each worker counts into its own series; the
//! coordinator adds them up. In steady state a request costs one lookup and a few additions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState; // a look-up per request, and labels may be the client's: quick, and keyed
use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::template::Template;
use super::{BuildContext, ConfFault, Ctx, Phases, Plugin, Sample, SampleValue};
use crate::base::clock::{self, Tick};
use crate::base::limits;
use crate::proto::vars::Var;

/// Its fields.
pub const FIELDS: &[Field] = &[field("prefer_name", Shape::Bool, "false", "Labels carry names instead of ids.")];

/// Upper bounds of the latency buckets, in milliseconds.
pub const BUCKETS: [f64; 15] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 30_000.0, 60_000.0];

struct Prometheus {
    prefer_name: bool,
    buckets: Arc<[f64]>,
    disabled: Arc<Disabled>,
    extra: Extra,
    expire: [Duration; 3],
}

/// The metrics, in the order in which `expire` has them.
const METRICS: [&str; 3] = ["http_status", "http_latency", "bandwidth"];

/// Labels whose values are left empty, by metric.
#[derive(Debug, Default)]
struct Disabled {
    status: Vec<String>,
    latency: Vec<String>,
    bandwidth: Vec<String>,
}

/// Labels of the user's own, by metric.
#[derive(Default)]
struct Extra {
    status: Vec<(String, Template)>,
    latency: Vec<(String, Template)>,
    bandwidth: Vec<(String, Template)>,
}

impl Extra {
    fn templates(&self) -> impl Iterator<Item = &(String, Template)> {
        self.status.iter().chain(&self.latency).chain(&self.bandwidth)
    }
}

/// Builds an instance.
pub fn build(conf: &Json, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let given = context.attr.and_then(|attr| attr.get("default_buckets")).and_then(Json::as_array);
    let buckets = given.map(|list| list.iter().filter_map(Json::as_f64).collect()).filter(|list: &Arc<[f64]>| !list.is_empty());
    let labels = |metric: &str| -> Vec<String> {
        let list = context.metadata.and_then(|meta| meta.get("disabled_labels")?.get(metric)?.as_array());
        list.into_iter().flatten().filter_map(|label| label.as_str().map(str::to_owned)).collect()
    };
    let extra = |metric: &str| -> Vec<(String, Template)> {
        let list = context.attr.and_then(|attr| attr.get("metrics")?.get(metric)?.get("extra_labels")?.as_array());
        let pairs = list.into_iter().flatten().filter_map(Json::as_object).flatten();
        pairs.filter_map(|(label, value)| Some((label.clone(), Template::compile(value.as_str()?)))).collect()
    };
    let expire = METRICS.map(|metric| {
        let seconds = context.attr.and_then(|attr| attr.get("metrics")?.get(metric)?.get("expire")?.as_f64());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
    });
    Ok(Arc::new(Prometheus {
        expire,
        prefer_name: conf.get("prefer_name").and_then(Json::as_bool) == Some(true),
        buckets: buckets.unwrap_or_else(|| Arc::from(BUCKETS)),
        disabled: Arc::new(Disabled {
            status: labels("http_status"),
            latency: labels("http_latency"),
            bandwidth: labels("bandwidth"),
        }),
        extra: Extra { status: extra("http_status"), latency: extra("http_latency"), bandwidth: extra("bandwidth") },
    }))
}

/// What tells a request's series from others, without any text.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    slot: u32,
    uri: u16,
    host: Option<u16>,
    status: u16,
    source: u8,
    node: Option<IpAddr>,
    consumer: usize,
    instance: usize,
    extra: Option<Box<[Vec<u8>]>>,
}

struct Series {
    labels: Labels,
    count: u64,
    latency: [Histogram; 3], // request, upstream, apisix
    ingress: u64,
    egress: u64,
    touched: Tick,
    expire: [Duration; 3], // zero: never
    has_upstream: bool,
}

/// Label values of a series, made when it is.
struct Labels {
    status: Vec<(String, String)>,
    latency: Vec<(String, String)>,
    bandwidth: Vec<(String, String)>,
}

#[derive(Clone)]
struct Histogram {
    buckets: Arc<[f64]>,
    counts: Vec<u64>, // one more than the bounds: +Inf
    sum: f64,
}

thread_local! {
    static SERIES: RefCell<HashMap<Key, Series, RandomState>> = RefCell::default();
}

impl Plugin for Prometheus {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn reads_forwarded(&self) -> bool {
        self.extra.templates().any(|(_, template)| template.reads(Var::is_forwarded))
    }

    fn log(&self, ctx: &Ctx<'_>) {
        SERIES.with_borrow_mut(|all| {
            let mut key = self.key(ctx);
            if !all.contains_key(&key) && all.len() >= limits::SERIES_MAX {
                key = Key { slot: u32::MAX, uri: 0, host: None, node: None, consumer: 0, extra: None, ..key };
            }
            let series = all.entry(key).or_insert_with(|| self.series(ctx));
            series.count += 1;
            series.touched = clock::now();
            let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
            let request = millis(ctx.sent.total);
            series.latency[0].add(request);
            let upstream: f64 = ctx.tries.iter().map(|tried| millis(tried.total)).sum();
            if series.has_upstream {
                series.latency[1].add(upstream);
            }
            series.latency[2].add((request - upstream).max(0.0));
            series.ingress += ctx.request_bytes;
            series.egress += ctx.sent.bytes;
        });
    }
}

impl Prometheus {
    fn key(&self, ctx: &Ctx<'_>) -> Key {
        let templates = || self.extra.templates();
        let has_extra = templates().next().is_some();
        Key {
            slot: ctx.route.map_or(u32::MAX - 1, |route| route.slot),
            uri: ctx.matched_uri,
            host: ctx.matched_host,
            status: ctx.sent.status,
            source: ctx.source as u8,
            node: ctx.tries.last().and_then(|last| last.node).and_then(|node| node.ip()),
            consumer: ctx.consumer.as_ref().map_or(0, |consumer| consumer.index + 1),
            instance: std::ptr::from_ref(self) as usize,
            extra: has_extra.then(|| templates().map(|(_, template)| template.render(ctx)).collect()),
        }
    }

    fn series(&self, ctx: &Ctx<'_>) -> Series {
        let histogram = Histogram { buckets: self.buckets.clone(), counts: vec![0; self.buckets.len() + 1], sum: 0.0 };
        Series {
            labels: self.labels(ctx),
            count: 0,
            latency: std::array::from_fn(|_| histogram.clone()),
            ingress: 0,
            egress: 0,
            touched: clock::now(),
            expire: self.expire,
            has_upstream: !ctx.tries.is_empty(),
        }
    }

    fn labels(&self, ctx: &Ctx<'_>) -> Labels {
        let route = ctx.route;
        let pick = |id: Option<&str>, name: Option<&Arc<str>>| {
            let name = name.map(|name| name.to_string()).filter(|_| self.prefer_name);
            name.or_else(|| id.map(str::to_owned)).unwrap_or_default()
        };
        let route_label = pick(route.map(|route| &*route.id), route.and_then(|route| route.name.as_ref()));
        let service =
            pick(route.and_then(|route| route.service_id.as_deref()), route.and_then(|route| route.service_name.as_ref()));
        let consumer = ctx.consumer.as_ref().map(|consumer| consumer.username.to_string()).unwrap_or_default();
        let node = ctx.tries.last().and_then(|last| last.node?.ip()).map(|ip| ip.to_string()).unwrap_or_default();
        let common = || {
            [("service", service.clone()), ("consumer", consumer.clone()), ("node", node.clone())].into_iter().chain([
                ("request_type", "traditional_http".to_owned()),
                ("request_llm_model", String::new()),
                ("llm_model", String::new()),
            ])
        };
        let matched_uri = ctx.matched_uri().unwrap_or_default().to_owned();
        let matched_host = ctx.matched_host().unwrap_or_default().to_owned();
        let status = [("code", ctx.sent.status.to_string()), ("route", route_label.clone())]
            .into_iter()
            .chain([("matched_uri", matched_uri), ("matched_host", matched_host)])
            .chain(common())
            .chain([("response_source", ctx.source.name().to_owned())]);
        let latency = || [("route", route_label.clone())].into_iter().chain(common());
        Labels {
            status: finish(status, &self.disabled.status, &self.extra.status, ctx),
            latency: finish(latency(), &self.disabled.latency, &self.extra.latency, ctx),
            bandwidth: finish(latency(), &self.disabled.bandwidth, &self.extra.bandwidth, ctx),
        }
    }
}

fn finish(
    labels: impl Iterator<Item = (&'static str, String)>,
    disabled: &[String],
    extra: &[(String, Template)],
    ctx: &Ctx<'_>,
) -> Vec<(String, String)> {
    let own = labels.map(|(name, value)| {
        let value = if disabled.iter().any(|label| label == name) { String::new() } else { value };
        (name.to_owned(), value)
    });
    let extra = extra.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(&value.render(ctx)).into_owned()));
    own.chain(extra).collect()
}

impl Histogram {
    fn add(&mut self, millis: f64) {
        let at = self.buckets.iter().position(|bound| millis <= *bound).unwrap_or(self.buckets.len());
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum += millis;
    }
}

/// What this thread has counted. Histogram counts are per bucket, not cumulated.
pub fn collect() -> Vec<Sample> {
    SERIES.with_borrow(|all| all.values().flat_map(samples).collect())
}

fn samples(series: &Series) -> Vec<Sample> {
    let idle = clock::now().since(series.touched);
    let [status_fresh, latency_fresh, bandwidth_fresh] = series.expire.map(|expire| expire.is_zero() || idle < expire);
    let with = |name: &str, value: &str, labels: &[(String, String)]| -> Vec<(String, String)> {
        std::iter::once((name.to_owned(), value.to_owned())).chain(labels.iter().cloned()).collect()
    };
    let mut out = vec![Sample {
        family: "http_status",
        labels: series.labels.status.clone(),
        value: SampleValue::Counter(series.count),
        fresh: status_fresh,
    }];
    for (kind, histogram) in ["request", "upstream", "apisix"].into_iter().zip(&series.latency) {
        if kind == "upstream" && !series.has_upstream {
            continue;
        }
        out.push(Sample {
            family: "http_latency",
            labels: with("type", kind, &series.labels.latency),
            value: SampleValue::Histogram(histogram.counts.clone(), histogram.sum),
            fresh: latency_fresh,
        });
    }
    for (kind, bytes) in [("ingress", series.ingress), ("egress", series.egress)] {
        let labels = with("type", kind, &series.labels.bandwidth);
        out.push(Sample { family: "bandwidth", labels, value: SampleValue::Counter(bytes), fresh: bandwidth_fresh });
    }
    out
}
