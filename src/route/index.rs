//! The index: exact texts in a hash map, prefixes in a compressed trie whose entries know the next shorter one.
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

/// A trie of byte strings.
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

    /// The value of the longest text that the bytes begin with.
    pub(super) fn longest(&self, mut bytes: impl Iterator<Item = u8>) -> Option<u32> {
        let mut node = self.nodes.first()?;
        let mut best = node.value;
        while let Some(first) = bytes.next() {
            let Ok(child) = node.children.binary_search_by_key(&first, |child| child.0) else { break };
            let Some(next) = node.children.get(child).and_then(|child| self.nodes.get(child.1 as usize)) else { break };
            if !next.label.iter().skip(1).all(|&want| bytes.next() == Some(want)) {
                break;
            }
            node = next;
            best = node.value.or(best);
        }
        best
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
        let longest = |text: &str| trie.longest(text.bytes());
        assert_eq!(longest("/abcd"), Some(3));
        assert_eq!(longest("/ab/x"), Some(2));
        assert_eq!(longest("/ab"), Some(1));
        assert_eq!(longest("/x"), Some(0));
        assert_eq!(longest("x"), Some(4));
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
