//! Every constant bound of the product, by name. What a user may change is in `config::gateway` and only defaulted here.

/// Bytes of a chunk lent to a client connection for the begin of a request: idle ones keep one each.
pub const CHUNK_HEAD_BYTES: usize = 8 * 1024;
/// Bytes of a chunk lent for heads and small bodies.
pub const CHUNK_SMALL_BYTES: usize = 16 * 1024;
/// Bytes of a chunk lent once a body has shown to be large.
pub const CHUNK_LARGE_BYTES: usize = 256 * 1024;
/// Head and small chunks a worker keeps of each for reuse; more are given back to the allocator.
pub const CHUNK_SMALL_KEPT: usize = 4096;
/// Large chunks a worker keeps for reuse.
pub const CHUNK_LARGE_KEPT: usize = 32;
/// Default bytes of a request head (`gateway.limits.header_bytes`).
pub const HEADER_BYTES: usize = 32 * 1024;
/// Upper bound a user may give for a head; spans are 32 bits and chunks are copied while they grow.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Default number of request fields (`gateway.limits.headers`).
pub const HEADERS: usize = 100;
/// Upper bound a user may give for the number of fields; the parser keeps this many on its stack.
pub const HEADERS_MAX: usize = 256;
/// Default bytes of a request target (`gateway.limits.uri_bytes`).
pub const URI_BYTES: usize = 8 * 1024;
/// Bytes of an upstream's response head.
pub const UPSTREAM_HEADER_BYTES: usize = 64 * 1024;
/// Interim (1xx) responses passed or skipped before a final one.
pub const INTERIM_RESPONSES: usize = 32;
/// Bytes of one chunk-size line with its extensions.
pub const CHUNK_LINE_BYTES: usize = 1024;
/// Bytes of a trailer section.
pub const TRAILER_BYTES: usize = 8 * 1024;
/// Response body bytes a plugin may collect when it names no bound of its own (APISIX `max_resp_body_size`).
pub const COLLECT_BYTES: usize = 64 * 1024 * 1024;
/// Upstream tries of one exchange, whatever `retries` says.
pub const TRIES_MAX: usize = 32;
/// Nodes of one upstream.
pub const NODES_MAX: usize = 4096;
/// Room for exchange reasons in a worker's counters; `proto::message::Reason` has fewer.
pub const REASONS_MAX: usize = 32;
/// Messages waiting for a worker.
pub const INBOX_MESSAGES: usize = 1024;
/// Bytes of access log a worker gathers before handing them to the writer.
pub const LOG_BATCH_BYTES: usize = 64 * 1024;
/// Batches of access log waiting for the writer, per process; past it lines are dropped and counted.
pub const LOG_BATCHES_WAITING: usize = 256;
/// Client connections of a worker up to which an idle one keeps a receive posted (and its chunk pinned); above it an idle
/// connection waits for readiness first and gives up what exchanges need, at the price of one operation and one allocation more
/// per request.
pub const POSTED_RECEIVES: usize = 320;
/// Bytes of a request's unread rest that are read and dropped before a connection is closed.
pub const LINGER_BYTES: u64 = 1024 * 1024;
/// Seconds a closing connection waits for its client's FIN.
pub const LINGER_SECS: u64 = 2;
/// Chains merged with consumers that a worker keeps per epoch.
pub const MERGED_CHAINS: usize = 4096;
/// Bytes of a body above which large chunks are lent for it.
pub const LARGE_BODY_BYTES: u64 = 64 * 1024;
/// Room for the fields that Ringway writes into a request or response head, besides those it passes on.
pub const OWN_FIELDS_BYTES: usize = 1024;
/// Series of the prometheus plugin per worker; further ones are counted under one that names no route.
pub const SERIES_MAX: usize = 50_000;
/// Descriptors that connections leave to logs, listeners, the control plane and resolvers.
pub const DESCRIPTORS_KEPT: usize = 256;

/// Points on a consistent hash ring (8 bytes each, per worker and upstream).
pub const RING_POINTS: u64 = 1 << 20;

/// Hosts and paths whose failures `api-breaker` remembers, per worker.
pub const BREAKERS: usize = 50_000;

/// Of so many requests of a worker the time inside it is taken of one.
pub const SAMPLED: u64 = 64;

/// Bytes of a counter's key that are kept as they are; longer ones are kept as their digest.
pub const LIMIT_KEY_BYTES: usize = 256;

/// Rules of `traffic-split` whose turns a worker remembers.
pub const SPLITS: usize = 4096;

/// Pools of upstream connections that are told apart by more than an address (TLS names, which clients may choose), per worker;
/// past it connections are not kept.
pub const POOL_KINDS: usize = 4096;

/// How long a connection lies in its worker's pool before the other workers may have it. Where the worker had not asked its pool
/// for one as long, they may at once: connections of a busy pool stay, those of a seldom used one serve all workers.
pub const SPARE_AFTER: std::time::Duration = std::time::Duration::from_millis(250);

/// Connections to one node that lie between the workers, also at most what one pool of it may hold; further ones stay in their
/// pools.
pub const SPARES_PER_NODE: usize = 256;

/// Watches of connections that are gone, kept for those to come, per worker.
pub const WATCHES_KEPT: usize = 1024;

/// Idle connections a pool keeps while memory is short.
pub const IDLE_UNDER_PRESSURE: usize = 4;

/// Copies of requests (`proxy-mirror`) under way, per worker; further ones are not made.
pub const MIRRORS: usize = 1024;

/// Keys of limits that the process counts; past it the oldest windows are forgotten, then others.
pub const LIMIT_KEYS: usize = 1 << 18;
/// Keys of limits of which a worker holds leases.
pub const LEASES: usize = 50_000;
/// A lease is this part of a limit.
pub const LEASE_SHARE: u64 = 100;

/// Parts of exchanges that a worker keeps for connections to come.
pub const PARTS_KEPT: usize = 256;

/// Bytes of a body up to which they are copied behind the head that goes out, rather than the head put in front of them.
pub const COPIED_BYTES: usize = 2048;
