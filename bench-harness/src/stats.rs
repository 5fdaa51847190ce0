//! Medians, spreads and paired ratios: what rounds on a noisy host can say.

use hdrhistogram::Histogram;

/// Rounds from which on a ratio counts as evidence (design.md §6).
pub const ROUNDS_FOR_A_VERDICT: usize = 7;

/// A figure over rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median; the mean of the middle two where their count is even.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Summary {
    /// Of `values`; `None` where there are none. Values that are no number are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (rounds, half) = (values.len(), values.len() / 2);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = if rounds % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { median, min, max, rounds })
    }

    /// Distance of the extremes as a share of the median.
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / self.median }
    }
}

/// Ratios of the same rounds: `ours[r] / theirs[r]` where both were measured.
pub fn paired(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<Summary> {
    Summary::of(ours.iter().zip(theirs).filter_map(|(a, b)| match (a, b) {
        (Some(a), Some(b)) if *b > 0.0 => Some(a / b),
        _ => None,
    }))
}

/// The geometric mean of the same ratios with its standard error: what many rounds say together. `None` for fewer than two.
pub fn mean(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<(f64, f64)> {
    let both = ours.iter().zip(theirs).filter_map(|(a, b)| Some(((*a)? / (*b)?).ln()));
    let logs: Vec<f64> = both.filter(|log| log.is_finite()).collect();
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (logs.len() > 1).then(|| (mean.exp(), mean.exp() * (variance / count).sqrt()))
}

/// What a ratio over rounds says about a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At or below the goal.
    Met,
    /// Above it.
    Missed,
    /// Too few rounds, or the floor itself wandered too far.
    Unsettled,
}

/// Judges by design.md §6: the median of 7 or more interleaved rounds at or below `goal`, or the ratio to the floor at most
/// `floor_goal`.
/// `noisy` (the floor's spread over its bound) leaves a miss, and a median less than 10 % below the goal, unsettled.
pub fn judge(ratio: Summary, goal: f64, to_floor: Option<Summary>, floor_goal: f64, noisy: bool) -> Verdict {
    if ratio.rounds < ROUNDS_FOR_A_VERDICT {
        return Verdict::Unsettled;
    }
    let at_floor = to_floor.is_some_and(|f| f.rounds >= ROUNDS_FOR_A_VERDICT && f.median <= floor_goal);
    match (ratio.median <= goal || at_floor, noisy) {
        (true, false) => Verdict::Met,
        (true, true) if ratio.median <= goal * 0.9 => Verdict::Met,
        (false, false) => Verdict::Missed,
        (_, true) => Verdict::Unsettled,
    }
}

/// A latency histogram: 1 ns to a minute, three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap_or_else(|_| unreachable_bounds())
}

/// The bounds above are constants that the library accepts; three digits and a growing range always are.
fn unreachable_bounds() -> Histogram<u64> {
    let mut histogram = Histogram::<u64>::new(3).unwrap_or_else(|_| std::process::abort());
    histogram.auto(true);
    histogram
}

/// A quantile in microseconds.
pub fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(ratio: f64, rounds: usize) -> Summary {
        Summary::of(vec![ratio; rounds]).unwrap()
    }

    #[test]
    fn medians_and_spreads() {
        let odd = Summary::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.rounds), (2.0, 1.0, 3.0, 3));
        assert_eq!(odd.spread(), 1.0);
        assert_eq!(Summary::of([1.0, 2.0, 3.0, 10.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of([f64::NAN]), None);
    }

    #[test]
    fn ratios_pair_only_rounds_that_both_have() {
        let ours = [Some(1.0), None, Some(3.0), Some(8.0)];
        let theirs = [Some(2.0), Some(5.0), Some(4.0), Some(0.0)];
        let ratio = paired(&ours, &theirs).unwrap();
        assert_eq!((ratio.rounds, ratio.median), (2, 0.625));
        let (mean, error) = mean(&ours, &theirs).unwrap();
        assert!((mean - 0.375_f64.sqrt()).abs() < 1e-9, "{mean}"); // of 1/2 and 3/4
        assert!((error - mean * 1.5_f64.ln() / 2.0).abs() < 1e-9, "{error}");
        assert_eq!(super::mean(&ours[..2], &theirs[..2]), None);
    }

    #[test]
    fn a_verdict_needs_seven_rounds_and_calm() {
        assert_eq!(judge(flat(0.5, 6), 0.9, None, 1.1, false), Verdict::Unsettled);
        assert_eq!(judge(flat(0.9, 7), 0.9, None, 1.1, false), Verdict::Met);
        assert_eq!(judge(flat(0.91, 7), 0.9, None, 1.1, false), Verdict::Missed);
        assert_eq!(judge(flat(0.95, 7), 0.9, Some(flat(1.05, 7)), 1.1, false), Verdict::Met);
        assert_eq!(judge(flat(0.88, 7), 0.9, None, 1.1, true), Verdict::Unsettled);
        assert_eq!(judge(flat(0.7, 7), 0.9, None, 1.1, true), Verdict::Met);
        assert_eq!(judge(flat(1.2, 7), 0.9, None, 1.1, true), Verdict::Unsettled);
    }

    #[test]
    fn the_histogram_keeps_three_digits_over_its_range() {
        let mut h = histogram();
        for nanos in [1_500, 150_000, 15_000_000, 1_500_000_000] {
            h.reset();
            h.record(nanos).unwrap();
            let got = micros(&h, 0.5) * 1_000.0;
            assert!((got - nanos as f64).abs() <= nanos as f64 / 500.0, "{nanos} read back as {got}");
        }
        h.reset();
        (1..=1_000u64).for_each(|n| h.record(n * 1_000_000).unwrap());
        assert!((micros(&h, 0.99) - 990_000.0).abs() < 2_000.0);
    }
}
