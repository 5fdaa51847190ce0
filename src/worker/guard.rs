//! Panics: one costs one connection. `net::rt::spawn` catches it; here it gets its line in the error log.

use std::sync::Once;

/// Logs panics with their place instead of printing a backtrace. Installed once per process.
pub fn name_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
            let text = panic.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(place, thread, "panic: {text}");
        }));
    });
}
