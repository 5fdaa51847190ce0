//! The fuzz corpus and seeded mutations of it, on stable: what the fuzz targets check holds for all of them.

use ringway::proto::fuzzing;

/// A named target and its check.
const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("request_head", fuzzing::request_head),
    ("response_head", fuzzing::response_head),
    ("chunked", fuzzing::chunked),
    ("path", fuzzing::path),
    ("proxy_header", fuzzing::proxy_header),
];

/// Mutations per file of the corpus.
const MUTATIONS: usize = 4000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Bytes that parsers trip over.
const TRICKY: &[&[u8]] = &[
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"%2e", b"%2F", b"..", b"//", b";", b"%", b"\t", b"\x80", b"0", b"f", b"chunked",
    b",",
];

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 if at < bytes.len() => drop(bytes.remove(at)),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => {
                let piece = TRICKY[random.below(TRICKY.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
}

#[test]
fn the_corpus_and_its_mutations_hold() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    for (target, check) in TARGETS {
        let mut files: Vec<_> =
            std::fs::read_dir(format!("{corpus}/{target}")).unwrap().flatten().map(|entry| entry.path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has a corpus");
        for file in files {
            let seed = std::fs::read(&file).unwrap();
            check(&seed);
            let mut random = Random(seed.len() as u64);
            for _ in 0..MUTATIONS {
                let mut bytes = seed.clone();
                mutate(&mut bytes, &mut random);
                check(&bytes);
            }
        }
    }
}
