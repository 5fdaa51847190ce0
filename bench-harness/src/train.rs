//! Gives a Ringway that counts its own branches (`-Cprofile-generate`) something to count: all loads, on both drivers, with and
//! without plugins. What it writes down at its end is what the compiler lays the release out by (`.ci/release`).

use std::io;
use std::time::Duration;

use crate::args::TrainArgs;
use crate::children::{Scratch, free_address};
use crate::compare::start_backend;
use crate::load;
use crate::peers::{Peer, Terms, connections, kind};
use crate::sys;
use crate::workload;

/// Routes beside the one for everything.
const ROUTES: usize = 1_000;
/// How long a gateway may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
const PEERS: [&str; 4] = ["ringway", "ringway-epoll", "ringway-limit", "ringway-plugins"];
const LOADS: &str = "c1,c64,c256,browser,1k,10k,100k,1m,post4k,conn,pipeline,spread,open";

/// Runs every load against every kind of Ringway. One whose driver the host has not is left out.
///
/// # Errors
/// Where none runs, or one does not answer or end as it should.
pub fn train(args: &TrainArgs) -> io::Result<()> {
    let scratch = Scratch::new("bench-train")?;
    let terms = Terms {
        upstream: free_address()?,
        directory: scratch.path().to_owned(),
        access_log: true,
        forwarded: true,
        cpu: args.proxy_cpu,
        load_cpu: args.load_cpu,
        connections: connections(sys::raise_descriptors()),
        routes: ROUTES,
    };
    let _backend = start_backend(&terms, args.load_cpu)?;
    sys::pin(args.load_cpu)?;
    let loads = workload::pick(LOADS).map_err(io::Error::other)?;
    let mut trained = 0;
    for name in PEERS {
        let kind = kind(name).ok_or_else(|| io::Error::other("no such peer"))?;
        let started = Peer::new(kind, &args.ringway).map_err(io::Error::other)?.start(&terms);
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                eprintln!("{name} is left out: {error}");
                continue;
            }
        };
        let mut requests = 0;
        for load in &loads {
            requests += load::answered(&load.spec(running.address, Duration::from_secs_f64(args.seconds), ROUTES))?;
        }
        running.end(PATIENCE)?;
        println!("{name}: {requests} requests");
        trained += 1;
    }
    if trained > 0 { Ok(()) } else { Err(io::Error::other("no Ringway ran")) }
}
