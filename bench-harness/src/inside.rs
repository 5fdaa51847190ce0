//! The time that requests spend inside Ringway's worker, read from the histogram it exports.

use std::io;
use std::net::SocketAddr;

use crate::fetch::fetch;

const NAME: &str = "ringway_request_inside_seconds_bucket";

/// Upper bounds in seconds and how many requests were at or below each, of all workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inside(Vec<(f64, f64)>);

impl Inside {
    /// What the gateway with this control address has counted until now.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn read(control: SocketAddr) -> io::Result<Self> {
        Ok(Self::of(&fetch(control, &control.to_string(), "/metrics")?))
    }

    fn of(page: &str) -> Self {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for line in page.lines().filter_map(|line| line.strip_prefix(NAME)) {
            let bound =
                line.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"')?.0.replace("+Inf", "inf").parse().ok());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            let (Some(bound), Some(count)) = (bound, count) else { continue };
            match buckets.iter_mut().find(|(at, _)| *at == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        Self(buckets)
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |bound| before.0.iter().find(|(at, _)| *at == bound).map_or(0.0, |(_, count)| *count);
        Self(self.0.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect())
    }

    /// A quantile in microseconds, by lines within the buckets, as Prometheus' `histogram_quantile`; none where nothing was
    /// counted or it lies beyond the last bound.
    pub fn micros(&self, quantile: f64) -> Option<f64> {
        let all = self.0.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let rank = all * quantile;
        let at = self.0.iter().position(|(_, count)| *count >= rank)?;
        let (upper, up_to) = self.0[at];
        let (lower, below) = at.checked_sub(1).map_or((0.0, 0.0), |at| self.0[at]);
        let micros = (lower + (upper - lower) * (rank - below) / (up_to - below).max(f64::MIN_POSITIVE)) * 1e6;
        micros.is_finite().then_some(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE ringway_request_inside_seconds histogram\n\
        ringway_request_inside_seconds_bucket{worker=\"0\",le=\"0.00001\"} 90\n\
        ringway_request_inside_seconds_bucket{worker=\"0\",le=\"0.00002\"} 98\n\
        ringway_request_inside_seconds_bucket{worker=\"0\",le=\"+Inf\"} 98\n\
        ringway_request_inside_seconds_bucket{worker=\"1\",le=\"0.00001\"} 0\n\
        ringway_request_inside_seconds_bucket{worker=\"1\",le=\"0.00002\"} 1\n\
        ringway_request_inside_seconds_bucket{worker=\"1\",le=\"+Inf\"} 2\n\
        ringway_request_inside_seconds_count{worker=\"1\"} 2\n";

    #[test]
    fn quantiles_over_all_workers() {
        let inside = Inside::of(PAGE);
        assert_eq!(inside.0, [(1e-5, 90.0), (2e-5, 99.0), (f64::INFINITY, 100.0)]);
        assert!((inside.micros(0.45).unwrap() - 5.0).abs() < 1e-9);
        assert!((inside.micros(0.99).unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(inside.micros(0.999), None, "beyond the last bound");
        assert_eq!(Inside::default().micros(0.5), None);
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let later = Inside::of(&PAGE.replace("\"0.00002\"} 98", "\"0.00002\"} 198").replace("+Inf\"} 98", "+Inf\"} 198"));
        let since = later.since(&Inside::of(PAGE));
        assert_eq!(since.0, [(1e-5, 0.0), (2e-5, 100.0), (f64::INFINITY, 100.0)]);
        assert!((since.micros(0.5).unwrap() - 15.0).abs() < 1e-9);
    }
}
