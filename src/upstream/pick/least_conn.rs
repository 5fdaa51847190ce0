//! Least connections: the node with the fewest requests of this worker under way, by weight. APISIX request.md §3.9.

/// The candidate with the lowest (1 + load) / weight; of equals the first from `start` on, so that they take turns. A
/// weight of 0 is picked only where every candidate has it.
pub fn least(candidates: impl Iterator<Item = (usize, u32, u32)> + Clone, start: usize) -> Option<usize> {
    let any_weight = candidates.clone().any(|(_, weight, _)| weight > 0);
    let usable = candidates.filter(|(_, weight, _)| *weight > 0 || !any_weight);
    let score = |weight: u32, load: u32| (u64::from(load) + 1, u64::from(weight.max(1)));
    let mut best: Option<(usize, (u64, u64))> = None;
    for (node, weight, load) in usable {
        let (load, weight) = score(weight, load);
        let better = best.is_none_or(|(have, (other, other_weight))| {
            let (mine, others) = (load * other_weight, other * weight); // below 2^33 × 2^32
            mine < others || (mine == others && (have < start) && node >= start)
        });
        if better {
            best = Some((node, (load, weight)));
        }
    }
    best.map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lightest_by_weight_is_picked_and_equals_take_turns() {
        let least_of =
            |nodes: &[(u32, u32)], start| least(nodes.iter().enumerate().map(|(at, (weight, load))| (at, *weight, *load)), start);
        assert_eq!(least_of(&[(1, 3), (1, 2), (1, 5)], 0), Some(1));
        assert_eq!(least_of(&[(4, 7), (1, 2)], 0), Some(0), "8/4 is less than 3/1");
        assert_eq!(least_of(&[(1, 0), (1, 0), (1, 0)], 0), Some(0));
        assert_eq!(least_of(&[(1, 0), (1, 0), (1, 0)], 2), Some(2));
        assert_eq!(least_of(&[(0, 0), (1, 9)], 0), Some(1), "weight 0 waits");
        assert_eq!(least_of(&[(0, 1), (0, 0)], 0), Some(1), "unless there is nothing else");
        assert_eq!(least_of(&[], 0), None);
    }
}
