//! Gives a Ringway that counts its own branches (`-Cprofile-generate`) something to count: all loads, on both drivers, with and
//! without plugins. What it writes down at its end is what the compiler lays the release out by (`.ci/release`).

use std::io;
use std::time::Duration;

use crate::args::TrainArgs;
use crate::children::Scratch;
use crate::compare::start_backend;
use crate::load;
use crate::peers::{Peer, Terms, kind};
use crate::sys;
use crate::workload;

/// Routes beside the one for everything.
const ROUTES: usize = 1_000;
/// How long a gateway may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
const PEERS: [&str; 4] = ["ringway", "ringway-epoll", "ringway-limit", "ringway-plugins"];
const LOADS: &str = "c1,c64,c256,browser,1k,10k,100k,1m,post4k,conn,pipeline,spread,open";

/// Runs every load against every kind of Ringway.
///
/// # Errors
/// Where one does not run, answer or end as it should: what was not counted would be laid out as if it never ran. So the host
/// must have io_uring.
pub fn train(args: &TrainArgs) -> io::Result<()> {
    let scratch = Scratch::new("bench-train")?;
    let terms = Terms::usual(scratch.path(), args.proxy_cpu, args.load_cpu, ROUTES)?;
    let _backend = start_backend(&terms, args.load_cpu)?;
    sys::pin(args.load_cpu)?;
    let loads = workload::pick(LOADS).map_err(io::Error::other)?;
    for name in PEERS {
        let kind = kind(name).ok_or_else(|| io::Error::other("no such peer"))?;
        let running = Peer::new(kind, &args.ringway).map_err(io::Error::other)?.start(&terms)?;
        let mut requests = 0;
        for load in &loads {
            requests += load::answered(&load.spec(running.address, Duration::from_secs_f64(args.seconds), ROUTES))?;
        }
        running.end(PATIENCE)?;
        println!("{name}: {requests} requests");
    }
    Ok(())
}
