//! Floor 2: the only floor that names monoio and libc. Streams lend chunks; operations in flight live in slots.
