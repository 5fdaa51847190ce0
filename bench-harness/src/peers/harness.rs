//! The peers that are this program itself: the floors, and the way without any proxy.

use std::process::Command;

use super::{Kind, Role, Site, Terms};

/// The TCP forwarder on epoll.
pub(super) static FLOOR: Kind = Kind { name: super::FLOOR, command: |c, s, t| forward(c, s, t, "epoll"), ..BASE };
/// The TCP forwarder on a raw io_uring.
pub(super) static FLOOR_RING: Kind = Kind { name: "floor-ring", command: |c, s, t| forward(c, s, t, "io-uring"), ..BASE };
/// The load goes straight to the backend.
pub(super) static DIRECT: Kind = Kind { name: "direct", role: Role::Direct, ..Kind::BASE };

const BASE: Kind = Kind { role: Role::Floor, ..Kind::BASE };

fn forward(command: &mut Command, site: &Site, terms: &Terms, driver: &str) {
    let (listen, upstream) = (site.listen.to_string(), terms.upstream.to_string());
    command.args(["floor", "--driver", driver, "--listen", &listen, "--upstream", &upstream]);
}
