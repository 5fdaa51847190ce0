//! Floor 6: the coordinator. One thread (tokio), never on a request's way: it opens the listeners, starts the workers, watches
//! the configuration and broadcasts epochs, resolves names, serves the Control API and obeys signals. [`run::run`] is the way
//! through.

pub mod api;
pub mod bind;
pub mod discovery;
pub mod fleet;
pub mod health;
pub mod listeners;
pub mod load;
pub mod log_writer;
pub mod metrics;
pub mod names;
pub mod notify;
pub mod overload;
pub mod plan;
pub mod port_holder;
pub mod reload;
pub mod run;
pub mod schemas;
pub mod serve;
pub mod signals;
pub mod source;
pub mod status;
pub mod stop;
