//! Consistent hashing on APISIX's ring, point for point (nginx `hash ... consistent`, ketama): 160 points for each unit of
//! weight, owners found by CRC-32 of the key. APISIX request.md §3.9.

use crate::base::limits;

/// Points for each unit of weight, once the weights are divided by their greatest common divisor.
const POINTS: u32 = 160;

/// The ring of one priority's nodes.
#[derive(Debug, Default)]
pub struct Ring {
    points: Vec<(u32, u16)>, // by hash
}

impl Ring {
    /// The ring of nodes given as (index, `host:port`, weight). Weights 0 have no point. Where the points would be more than
    /// [`limits::RING_POINTS`], every node has fewer, in proportion.
    pub fn new<'n>(nodes: impl Iterator<Item = (u16, &'n str, u32)> + Clone) -> Self {
        let divisor = nodes.clone().fold(0, |divisor, (.., weight)| common_divisor(divisor, weight)).max(1);
        let whole: u64 = nodes.clone().map(|(.., weight)| u64::from(weight / divisor) * u64::from(POINTS)).sum();
        let shrink = whole.div_ceil(limits::RING_POINTS).max(1);
        let mut points = Vec::new();
        for (node, name, weight) in nodes {
            let wanted = (u64::from(weight / divisor) * u64::from(POINTS)).div_ceil(shrink);
            let base = crc32fast::hash(name.replace(':', "\0").as_bytes());
            let mut point = 0_u32;
            for _ in 0..wanted {
                let mut hasher = crc32fast::Hasher::new_with_initial(base);
                hasher.update(&point.to_le_bytes());
                point = hasher.finalize();
                points.push((point, node));
            }
        }
        points.sort_by_key(|(hash, _)| *hash); // stable: of equal hashes the earlier node's counts
        Self { points }
    }

    /// The owner of a key: the first eligible node from its place on. Each node is asked once at the most.
    pub fn owner(&self, key: &[u8], eligible: impl Fn(u16) -> bool) -> Option<u16> {
        let hash = crc32fast::hash(key);
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, from) = self.points.split_at_checked(start)?;
        let mut refused = [u16::MAX; limits::TRIES_MAX];
        let mut count = 0;
        for (_, node) in from.iter().chain(before) {
            if refused.get(..count).is_some_and(|refused| refused.contains(node)) {
                continue;
            }
            if eligible(*node) {
                return Some(*node);
            }
            if let Some(slot) = refused.get_mut(count) {
                *slot = *node;
                count += 1;
            }
        }
        None
    }
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(nodes: &[(&str, u32)]) -> Ring {
        Ring::new(nodes.iter().enumerate().map(|(at, (name, weight))| (at as u16, *name, *weight)))
    }

    /// nginx's own arithmetic, bit by bit: base before the final inversion, each point from the one before.
    fn plainly(name: &str, count: usize) -> Vec<u32> {
        let update = |mut crc: u32, bytes: &[u8]| {
            for byte in bytes {
                crc ^= u32::from(*byte);
                for _ in 0..8 {
                    crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                }
            }
            crc
        };
        let base = update(u32::MAX, name.replace(':', "\0").as_bytes());
        let mut previous = 0_u32;
        (0..count)
            .map(|_| {
                previous = !update(base, &previous.to_le_bytes());
                previous
            })
            .collect()
    }

    #[test]
    fn the_points_are_those_of_nginx() {
        let ring = ring(&[("127.0.0.1:1980", 2), ("[::1]:1981", 4)]); // 1 and 2 units
        let mut expected: Vec<(u32, u16)> = plainly("127.0.0.1:1980", 160).into_iter().map(|point| (point, 0)).collect();
        expected.extend(plainly("[::1]:1981", 320).into_iter().map(|point| (point, 1)));
        expected.sort_unstable();
        let mut points = ring.points.clone();
        points.sort_unstable();
        assert_eq!(points, expected);
    }

    #[test]
    fn a_node_that_goes_takes_only_its_own_keys_along() {
        let names = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"];
        let all = ring(&names.map(|name| (name, 1)));
        let fewer = ring(&[(names[0], 1), (names[1], 1), (names[3], 1), (names[4], 1)]);
        let renamed = [0, 1, 3, 4];
        let (mut moved, mut share) = (0, [0; 5]);
        for key in 0..20_000_u32 {
            let key = format!("user-{key}");
            let before = all.owner(key.as_bytes(), |_| true).unwrap();
            let after = renamed[usize::from(fewer.owner(key.as_bytes(), |_| true).unwrap())];
            let refused = all.owner(key.as_bytes(), |node| node != 2).unwrap();
            assert_eq!(refused, after, "a node that is refused hands over as one that is gone");
            assert!(before == 2 || before == after, "keys of nodes that stay do not move");
            moved += u32::from(before == 2);
            share[usize::from(before)] += 1;
        }
        assert!((3000..5000).contains(&moved), "about a fifth: {moved}");
        assert!(share.iter().all(|share| (2800..5200).contains(share)), "{share:?}");
    }

    #[test]
    fn rings_are_bounded_and_weight_zero_owns_nothing() {
        assert!(ring(&[("a:1", u32::MAX), ("b:1", 1)]).points.len() as u64 <= limits::RING_POINTS + 2);
        let one = ring(&[("a:1", 0), ("b:1", 3)]);
        assert!((0..500_u32).all(|key| one.owner(&key.to_le_bytes(), |_| true) == Some(1)));
        assert_eq!(ring(&[("a:1", 0)]).owner(b"k", |_| true), None);
        assert_eq!(one.owner(b"k", |_| false), None);
    }
}
