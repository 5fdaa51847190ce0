//! `ringway version`

use clap::Args;
use serde_json::json;

use crate::net::host;

/// Cargo features of this build.
const FEATURES: &[(&str, bool)] = &[
    ("http3", cfg!(feature = "http3")),
    ("wasm", cfg!(feature = "wasm")),
    ("etcd", cfg!(feature = "etcd")),
    ("redis", cfg!(feature = "redis")),
    ("legacy-tls", cfg!(feature = "legacy-tls")),
];

/// Print the version, the driver this kernel allows, and what is missing for a better one.
#[derive(Debug, Args)]
pub struct Version {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Version {
    /// Prints it.
    pub fn run(&self) -> u8 {
        let ladder = host::ladder();
        let driver = ladder.iter().find(|rung| rung.missing.is_none()).map_or("none", |rung| rung.name);
        let features: Vec<&str> = FEATURES.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
        let (kernel, _) = host::kernel();
        if self.json {
            let rung = |rung: &host::Rung| json!({"name": rung.name, "since": rung.since, "missing": rung.missing});
            let page = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "features": features,
                "kernel": kernel,
                "driver": driver,
                "ladder": ladder.iter().map(rung).collect::<Vec<_>>(),
            });
            super::print(&format!("{page:#}\n"));
            return 0;
        }
        let mut page = format!(
            "ringway {}\nfeatures: {}\nkernel:   {kernel}\ndriver:   {driver}\n",
            env!("CARGO_PKG_VERSION"),
            features.join(" ")
        );
        for rung in &ladder {
            match &rung.missing {
                None => page += &format!("  yes  {} (Linux {})\n", rung.name, rung.since),
                Some(why) => page += &format!("  no   {} (Linux {}): {why}\n", rung.name, rung.since),
            }
        }
        super::print(&page);
        0
    }
}
