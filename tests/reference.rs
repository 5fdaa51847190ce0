//! The reference pages are what the tables say.

use std::io::Write;
use std::process::{Command, Stdio};

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

#[test]
fn the_configurations_in_the_docs_are_good() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for directory in ["docs", "docs/how-to"] {
        let entries = std::fs::read_dir(root.join(directory)).unwrap().flatten().map(|entry| entry.path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut seen = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            seen += 1;
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
            let command = command.args(["check", "-c", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(block.as_bytes()).unwrap();
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{}: {}\n{block}", page.display(), String::from_utf8_lossy(&out.stderr));
        }
    }
    assert!(seen >= 5, "the docs have configurations");
}
