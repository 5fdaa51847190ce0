//! Peak latency: of two nodes drawn at random the one whose answers came faster lately. APISIX request.md §3.9; weights have
//! no say. Each worker has its own measurements, where APISIX's workers share theirs: a worker sees enough of its own.

use std::cell::Cell;
use std::rc::Rc;

use crate::base::clock::Tick;

/// After so many seconds a measurement has lost all but 1/e of its say.
const DECAY_SECS: f64 = 10.0;

/// Moving average of a node's answer times.
#[derive(Clone, Debug, Default)]
pub struct Latency(Rc<Cell<(f64, Tick)>>);

impl Latency {
    /// A request was answered, or given up, after so many seconds.
    pub fn note(&self, seconds: f64, now: Tick) {
        let (average, at) = self.0.get();
        let keep = weight_of_old(now, at);
        self.0.set((average * keep + seconds * (1.0 - keep), now));
    }

    /// What counts when nodes are compared; a node nobody has asked yet scores 0 and gets requests at once.
    pub fn score(&self, now: Tick) -> f64 {
        let (average, at) = self.0.get();
        average * weight_of_old(now, at)
    }
}

fn weight_of_old(now: Tick, at: Tick) -> f64 {
    (-now.since(at).as_secs_f64() / DECAY_SECS).exp()
}

/// The better of two candidates out of `count`, drawn by `random`; the first of equals. `score` is asked for both.
pub fn better_of_two(count: usize, mut random: impl FnMut() -> u64, score: impl Fn(usize) -> f64) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        count => {
            let first = random() as usize % count;
            let second = (first + 1 + random() as usize % (count - 1)) % count;
            Some(if score(second) < score(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_and_fade() {
        let (latency, second) = (Latency::default(), |n: u64| Tick(n * 1_000_000_000));
        assert_eq!(latency.score(second(5)), 0.0);
        latency.note(1.0, second(100));
        assert!(latency.score(second(100)) > 0.99, "the first measurement after a long time counts whole");
        latency.note(3.0, second(110));
        let expected = (-1.0_f64).exp() + 3.0 * (1.0 - (-1.0_f64).exp());
        assert!((latency.score(second(110)) - expected).abs() < 0.01);
        assert!(latency.score(second(200)) < 0.01, "old news has no say");
    }

    #[test]
    fn two_different_ones_are_drawn_and_the_better_wins() {
        let scores = [5.0, 1.0, 3.0];
        let mut draws = [0_u64, 0, 0, 1, 1, 0, 1, 1, 2, 0, 2, 1].into_iter();
        let picked: Vec<_> = (0..6).map(|_| better_of_two(3, || draws.next().unwrap(), |at| scores[at])).collect();
        assert_eq!(picked, [Some(1), Some(2), Some(1), Some(1), Some(2), Some(1)]);
        assert_eq!(better_of_two(1, || 7, |_| 0.0), Some(0));
        assert_eq!(better_of_two(0, || 7, |_| 0.0), None);
    }
}
