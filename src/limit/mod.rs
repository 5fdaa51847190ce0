//! Floor 3: counters and rates that limits are made of. Per process here; leased to workers, so that one worker's requests touch
//! no line that another one writes.

pub mod store;
pub mod window;
