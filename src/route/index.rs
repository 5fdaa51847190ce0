//! The index: exact texts in a hash map, prefixes in a compressed trie, packed once it is whole. What it leads to knows the next
//! shorter one.
//!
//! Not matchit: it allocates where a literal hides a wildcard, takes `&str` only (a decoded path is bytes), gives one match
//! without the shorter ones behind it, and slows down with the number of routes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Maps texts of the configuration; what clients send is only looked up, never put in, so the hash needs no secret.
pub(super) type TextMap<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<TextHasher>>;

/// Multiply and fold, eight bytes at a time.
#[derive(Default)]
pub(super) struct TextHasher(u64);

impl Hasher for TextHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut fold = |word: u64| {
            let wide = u128::from(self.0 ^ word ^ 0xf39c_c060_5ced_c835) * 0x9e37_79b9_7f4a_7c15_u128;
            self.0 = (wide >> 64) as u64 ^ wide as u64;
        };
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            fold(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut last = [0; 8];
        let rest = chunks.remainder();
        last[..rest.len()].copy_from_slice(rest);
        fold(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }
}

/// A trie of byte strings, while it is built.
#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    label: Box<[u8]>,
    value: Option<u32>,
    children: Vec<(u8, u32)>, // by first byte, sorted
}

impl Trie {
    /// Puts a text in; gives back what it had as value, or puts `value` there.
    pub(super) fn entry(&mut self, text: &[u8], value: u32) -> u32 {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let (mut at, mut rest) = (0, text);
        loop {
            let common = self.nodes[at].label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < self.nodes[at].label.len() {
                self.split(at, common);
            }
            rest = &rest[common..];
            let Some(&first) = rest.first() else {
                return *self.nodes[at].value.get_or_insert(value);
            };
            match self.nodes[at].children.binary_search_by_key(&first, |child| child.0) {
                Ok(child) => at = self.nodes[at].children[child].1 as usize,
                Err(place) => {
                    let new = self.nodes.len() as u32;
                    self.nodes.push(Node { label: rest.into(), value: Some(value), children: Vec::new() });
                    self.nodes[at].children.insert(place, (first, new));
                    return value;
                }
            }
        }
    }

    /// Cuts a node's label; the lower part becomes its only child.
    fn split(&mut self, at: usize, keep: usize) {
        let node = &mut self.nodes[at];
        let lower =
            Node { label: node.label[keep..].into(), value: node.value.take(), children: std::mem::take(&mut node.children) };
        node.label = node.label[..keep].into();
        let first = lower.label[0];
        let index = self.nodes.len() as u32;
        self.nodes.push(lower);
        self.nodes[at].children.push((first, index));
    }

    /// The same for lookups alone, in one piece; `becomes` says what stands in a value's place.
    pub(super) fn pack(&self, becomes: impl Fn(u32) -> u32) -> Packed {
        let order = self.order();
        let mut offsets = vec![0_u32; self.nodes.len()];
        let mut length = 0;
        for &number in &order {
            offsets[number] = length as u32;
            length += self.nodes[number].packed_len();
        }
        debug_assert!(length <= u32::MAX as usize, "a configuration is shorter");
        let mut bytes = Vec::with_capacity(length);
        for &number in &order {
            self.nodes[number].pack(&offsets, &becomes, &mut bytes);
        }
        Packed(bytes.into())
    }

    /// Level by level, but for nodes without children: they follow the one they are children of, where a lookup that ends with
    /// them is already.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut inner: Vec<usize> = (0..self.nodes.len().min(1)).collect();
        let mut at = 0;
        while let Some(&number) = inner.get(at) {
            order.push(number);
            for child in self.nodes[number].children.iter().map(|child| child.1 as usize) {
                let list = if self.nodes[child].children.is_empty() { &mut order } else { &mut inner };
                list.push(child);
            }
            at += 1;
        }
        order
    }

    /// Calls `with` for every (value, value of the next shorter text) pair.
    pub(super) fn each_parent(&self, mut with: impl FnMut(u32, Option<u32>)) {
        let mut open = vec![(0_usize, None)];
        while let Some((at, above)) = open.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            if let Some(value) = node.value {
                with(value, above);
            }
            open.extend(node.children.iter().map(|child| (child.1 as usize, node.value.or(above))));
        }
    }
}

impl Node {
    fn packed_len(&self) -> usize {
        HEAD_BYTES + self.label.len().saturating_sub(1) + self.children.len() * (1 + size_of::<u32>())
    }

    fn pack(&self, offsets: &[u32], becomes: impl Fn(u32) -> u32, out: &mut Vec<u8>) {
        let label = self.label.get(1..).unwrap_or_default(); // the first byte stands with the parent
        out.extend_from_slice(&self.value.map_or(NO_VALUE, becomes).to_le_bytes());
        out.extend_from_slice(&(label.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.children.len() as u16).to_le_bytes());
        out.extend_from_slice(label);
        out.extend(self.children.iter().map(|child| child.0));
        out.extend(self.children.iter().flat_map(|child| offsets[child.1 as usize].to_le_bytes()));
    }
}

/// A trie for lookups: its nodes one behind the other, so that what a lookup touches last (and nobody else touched lately, where
/// routes are many) lies close together. A node is its value, the lengths of its label and its list of
/// children, the label, the children's first bytes in order, and where they begin.
pub(super) struct Packed(Box<[u8]>);

const NO_VALUE: u32 = u32::MAX;
const HEAD_BYTES: usize = 10;

impl Packed {
    /// The value of the longest text that the bytes begin with.
    pub(super) fn longest(&self, mut bytes: impl Iterator<Item = u8>) -> Option<u32> {
        let mut at = 0;
        let mut best = None;
        loop {
            let node = self.0.get(at..)?;
            let (head, behind) = node.split_at_checked(HEAD_BYTES)?;
            let [v0, v1, v2, v3, l0, l1, l2, l3, c0, c1] = *head.first_chunk::<HEAD_BYTES>()?;
            let label_len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            let children = usize::from(u16::from_le_bytes([c0, c1]));
            let (label, behind) = behind.split_at_checked(label_len)?;
            if !label.iter().all(|&want| bytes.next() == Some(want)) {
                return best;
            }
            let value = u32::from_le_bytes([v0, v1, v2, v3]);
            best = if value == NO_VALUE { best } else { Some(value) };
            let Some(first) = bytes.next() else { return best };
            let (firsts, offsets) = behind.split_at_checked(children)?;
            let Ok(child) = firsts.binary_search(&first) else { return best };
            at = u32::from_le_bytes(*offsets.get(child * size_of::<u32>()..)?.first_chunk()?) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_and_the_ones_behind_it() {
        let mut trie = Trie::default();
        for (value, text) in ["/", "/a", "/ab/", "/abc", "", "/b"].iter().enumerate() {
            assert_eq!(trie.entry(text.as_bytes(), value as u32), value as u32);
        }
        assert_eq!(trie.entry(b"/ab/", 99), 2);
        let packed = trie.pack(|value| value);
        let longest = |text: &str| packed.longest(text.bytes());
        assert_eq!(longest("/abcd"), Some(3));
        assert_eq!(longest("/ab/x"), Some(2));
        assert_eq!(longest("/ab"), Some(1));
        assert_eq!(longest("/x"), Some(0));
        assert_eq!(longest("x"), Some(4));
        assert_eq!(Trie::default().pack(|value| value).longest(b"/".iter().copied()), None);
        let mut parents = vec![None; 6];
        trie.each_parent(|value, above| parents[value as usize] = above);
        assert_eq!(parents, [Some(4), Some(0), Some(1), Some(1), None, Some(0)]);
    }

    #[test]
    fn lengths_and_contents_hash_apart() {
        use std::hash::BuildHasher;
        let hash = |bytes: &[u8]| {
            let mut hasher = BuildHasherDefault::<TextHasher>::default().build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        let mut seen: Vec<_> = (0..2000_u32).map(|n| hash(format!("/route/{n}").as_bytes())).collect();
        seen.extend([hash(b""), hash(b"\0"), hash(b"\0\0")]);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2003);
    }
}
