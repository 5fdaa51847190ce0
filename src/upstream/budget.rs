//! The retry budget: a failing upstream must not get twice the load because it fails. Requests fill it, retries empty it.

use crate::base::clock::Tick;
use crate::config::model::RetryBudget;

/// What is left, in thousandths of a retry.
#[derive(Debug, Default)]
pub struct Budget {
    left: u64,
    at: Option<Tick>,
}

/// One retry.
const WHOLE: u64 = 1000;

impl Budget {
    /// A request came.
    pub fn earn(&mut self, policy: &RetryBudget) {
        self.left = (self.left + u64::from(policy.percent) * WHOLE / 100).min(u64::from(policy.burst) * WHOLE);
    }

    /// Takes a retry out, if there is one left.
    pub fn take(&mut self, policy: &RetryBudget, now: Tick) -> bool {
        let burst = u64::from(policy.burst) * WHOLE;
        self.left = match self.at {
            None => burst,
            Some(at) => {
                let millis = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
                self.left.saturating_add(millis.saturating_mul(u64::from(policy.per_second))).min(burst)
            }
        };
        self.at = Some(now);
        let enough = self.left >= WHOLE;
        if enough {
            self.left -= WHOLE;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_once_the_first_lot_is_gone() {
        let policy = RetryBudget { percent: 20, per_second: 10, burst: 5 };
        let mut budget = Budget::default();
        let now = Tick(1_000_000_000);
        assert_eq!((0..20).filter(|_| budget.take(&policy, now)).count(), 5);
        (0..10).for_each(|_| budget.earn(&policy));
        assert_eq!((0..20).filter(|_| budget.take(&policy, now)).count(), 2);
        let later = now.after(std::time::Duration::from_millis(300));
        assert_eq!((0..20).filter(|_| budget.take(&policy, later)).count(), 3, "ten a second besides");
        let much_later = now.after(std::time::Duration::from_secs(1000));
        assert_eq!((0..20).filter(|_| budget.take(&policy, much_later)).count(), 5, "never more than its burst");
    }
}
