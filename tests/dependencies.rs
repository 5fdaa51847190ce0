//! What the lock file may hold: rules that `cargo deny` would keep, checked without a network.

/// Crates that must not come in, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "one TLS library of our choice, none of the system's"),
    ("native-tls", "as openssl-sys"),
    ("reqwest", "brings a second HTTP client and its TLS"),
    ("fred", "not maintained since February 2025"),
    ("rskafka", "not maintained since March 2025"),
    ("serde_yaml", "deprecated, and reads YAML otherwise than APISIX"),
    ("serde_yaml_ng", "not maintained, and reads YAML otherwise than APISIX"),
    ("monoio-http", "buffers whole bodies; not for the data path"),
    ("actix-web", "not for the control plane"),
];

/// Least versions below which an advisory is open (reference/reliability.md).
const LEAST: &[(&str, [u64; 3])] =
    &[("h2", [0, 4, 16]), ("rustls", [0, 23, 46]), ("bytes", [1, 11, 1]), ("tokio", [1, 40, 0]), ("hyper", [1, 0, 0])];

/// Crates that may be there in two versions.
const TWICE: &[(&str, &str)] = &[
    ("base64", "rcgen of the tests holds the newer"),
    ("core-foundation", "not built here"),
    ("synstructure", "macros of different age"),
    ("untrusted", "aws-lc-rs holds the older"),
    ("bit-set", "fancy-regex and proptest"),
    ("bit-vec", "fancy-regex and proptest"),
    ("flume", "monoio holds the older"),
    ("getrandom", "hickory and tests"),
    ("itertools", "criterion"),
    ("matchit", "axum holds its own"),
    ("memoffset", "monoio holds the older nix"),
    ("mio", "monoio holds the older"),
    ("nix", "monoio holds the older"),
    ("rand", "proptest and hickory"),
    ("rand_chacha", "proptest and hickory"),
    ("rand_core", "proptest and hickory"),
    ("bitflags", "io-uring holds the older"),
    ("socket2", "monoio holds the older"),
    ("spin", "flume of monoio"),
    ("syn", "macros of different age"),
    ("thiserror", "different age"),
    ("thiserror-impl", "different age"),
    ("windows-sys", "not built here"),
    ("windows-targets", "not built here"),
    ("winnow", "toml of a build script"),
    ("r-efi", "not built here"),
    ("wasi", "not built here"),
    ("hashbrown", "indexmap and others"),
    ("foldhash", "hashbrown"),
    ("cpufeatures", "different age"),
    ("unicode-width", "clap and annotate-snippets"),
    ("derive_more", "different age"),
    ("heck", "macros of different age"),
];

#[test]
fn the_lock_file_keeps_the_rules() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let mut packages: Vec<(String, String)> = Vec::new();
    let mut name = String::new();
    for line in lock.lines() {
        let value = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
        if line.starts_with("name = ") {
            name = value(line);
        } else if line.starts_with("version = ") && !name.is_empty() {
            packages.push((std::mem::take(&mut name), value(line)));
        } else if line.starts_with("source = ") {
            assert!(line.contains("registry+"), "only crates of the registry: {line}");
        }
    }
    assert!(packages.len() > 50, "the lock file was read");
    let mut faults = Vec::new();
    for (name, version) in &packages {
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| banned == name) {
            faults.push(format!("{name} is banned: {why}"));
        }
        let parts: Vec<u64> = version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
        if let Some((_, least)) = LEAST.iter().find(|(wanted, _)| wanted == name)
            && parts.as_slice() < least.as_slice()
        {
            faults.push(format!("{name} {version} is older than {least:?}"));
        }
        let versions = packages.iter().filter(|(other, _)| other == name).count();
        if versions > 1 && !name.starts_with("windows") && !TWICE.iter().any(|(allowed, _)| allowed == name) {
            faults.push(format!("{name} is there {versions} times"));
        }
    }
    faults.dedup();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
