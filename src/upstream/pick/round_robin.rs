//! Smooth weighted round robin (nginx's): spreads a heavy node's turns evenly between the others'.

/// What a turn needs to know of a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Configured weight.
    pub weight: u32,
    /// Running balance; starts at 0 and sums up to 0 over all candidates.
    pub balance: i64,
}

/// Takes a turn among the eligible candidates and gives back the index of the one that has it. Candidates of weight 0 have a
/// turn only when every eligible one has weight 0.
pub fn turn(shares: &mut [Share], eligible: impl Fn(usize) -> bool) -> Option<usize> {
    let all_zero = shares.iter().enumerate().filter(|(at, _)| eligible(*at)).all(|(_, share)| share.weight == 0);
    let weight = |share: &Share| if all_zero { 1 } else { i64::from(share.weight) };
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (at, share) in shares.iter_mut().enumerate() {
        let weight = weight(share);
        if weight == 0 || !eligible(at) {
            continue;
        }
        total += weight;
        share.balance = share.balance.saturating_add(weight);
        if best.is_none_or(|(_, balance)| share.balance > balance) {
            best = Some((at, share.balance));
        }
    }
    let (at, _) = best?;
    shares[at].balance -= total;
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        weights.iter().map(|&weight| Share { weight, balance: 0 }).collect()
    }

    #[test]
    fn turns_are_smooth_and_exact() {
        let mut five = shares(&[5, 1, 1]);
        let turns: Vec<_> = (0..7).filter_map(|_| turn(&mut five, |_| true)).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
        assert!(five.iter().all(|share| share.balance == 0));
    }

    #[test]
    fn weight_zero_waits_for_the_others_to_be_gone() {
        let mut two = shares(&[0, 3]);
        assert!((0..10).all(|_| turn(&mut two, |_| true) == Some(1)));
        assert_eq!(turn(&mut two, |at| at == 0), Some(0));
        assert_eq!(turn(&mut two, |_| false), None);
    }

    #[test]
    fn any_weights_are_served_in_proportion() {
        let weights = [7, 3, 0, 11, 1];
        let mut all = shares(&weights);
        let mut seen = [0_u32; 5];
        for _ in 0..22 * 50 {
            seen[turn(&mut all, |_| true).unwrap()] += 1;
        }
        assert_eq!(seen, weights.map(|weight| weight * 50));
    }
}
