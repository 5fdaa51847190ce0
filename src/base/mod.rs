//! Floor 0: what everything stands on, without policy.

pub mod address;
pub mod buf;
pub mod clock;
pub mod count;
pub mod date;
pub mod error;
pub mod limits;
pub mod log;
pub mod wheel;
