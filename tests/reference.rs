//! The reference pages are what the tables say.

use std::process::Command;

fn is_current(flag: &str, page: &str) {
    let made = Command::new(env!("CARGO_BIN_EXE_ringway")).args(["schema", flag]).output().unwrap();
    assert!(made.status.success());
    let path = format!("{}/docs/reference/{page}", env!("CARGO_MANIFEST_DIR"));
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == String::from_utf8_lossy(&made.stdout), "make it anew: ringway schema {flag} > docs/reference/{page}");
}

#[test]
fn the_reference_pages_are_current() {
    is_current("--markdown", "configuration.md");
    is_current("--plugins-markdown", "plugins.md");
}

#[test]
fn the_schema_is_json_and_knows_the_plugins() {
    let made = Command::new(env!("CARGO_BIN_EXE_ringway")).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(schema["properties"]["routes"]["items"]["properties"]["uri"].is_object());
    assert!(schema["$defs"]["plugins"]["properties"]["key-auth"].is_object());
}
