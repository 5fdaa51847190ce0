//! Addresses of nodes in a few plain words. The standard library's type is copied byte by odd byte, which stalls where a
//! request moves it about.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// An IP address and a port, or a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    high: u64,
    low: u64,
    port: u16,
    family: Family,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
    Unix,
}

/// Paths of Unix sockets by number. A configuration names few of them; what was named once is kept for the process's life.
static PATHS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

thread_local! {
    /// What this thread has seen of [`PATHS`].
    static SEEN: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

impl Address {
    /// The address of a Unix socket.
    pub fn unix(path: &str) -> Self {
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = paths.iter().position(|known| *known == path).unwrap_or_else(|| {
            paths.push(String::leak(path.to_owned()));
            paths.len() - 1
        });
        Self { high: 0, low: number as u64, port: 0, family: Family::Unix }
    }

    /// The IP address; `None` for a Unix socket.
    pub fn ip(self) -> Option<IpAddr> {
        match self.family {
            Family::V6 => Some(Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low)).into()),
            Family::V4 => Some(Ipv4Addr::from_bits(self.low as u32).into()),
            Family::Unix => None,
        }
    }

    /// The port; 0 for a Unix socket.
    pub fn port(self) -> u16 {
        self.port
    }

    /// IP address and port; `None` for a Unix socket.
    pub fn socket(self) -> Option<SocketAddr> {
        self.ip().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// The path of a Unix socket.
    pub fn path(self) -> Option<&'static str> {
        if self.family != Family::Unix {
            return None;
        }
        let number = self.low as usize;
        SEEN.with_borrow_mut(|seen| {
            if number >= seen.len() {
                seen.clone_from(&PATHS.lock().unwrap_or_else(PoisonError::into_inner));
            }
            seen.get(number).copied()
        })
    }
}

/// An IP address as text. IPv4 without the formatting machinery: a connection's is written when it is accepted.
pub fn ip_text(ip: IpAddr) -> String {
    let IpAddr::V4(v4) = ip else { return ip.to_string() };
    let mut out = String::with_capacity("255.255.255.255".len());
    for (at, octet) in v4.octets().into_iter().enumerate() {
        out.push_str(if at > 0 { "." } else { "" });
        out.push_str(itoa::Buffer::new().format(octet));
    }
    out
}

impl From<SocketAddr> for Address {
    /// Scope and flow of an IPv6 address are left out: a node has none.
    fn from(address: SocketAddr) -> Self {
        let (bits, family) = match address.ip() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), Family::V4),
            IpAddr::V6(ip) => (ip.to_bits(), Family::V6),
        };
        Self { high: (bits >> 64) as u64, low: bits as u64, port: address.port(), family }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket() {
            Some(socket) => socket.fmt(f),
            None => write!(f, "unix:{}", self.path().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_ip_address_is_the_standard_librarys() {
        for octet in 0..=255_u8 {
            let ip = IpAddr::from([octet, 0, 255 - octet, octet]);
            assert_eq!(ip_text(ip), ip.to_string());
        }
        assert_eq!(ip_text(Ipv6Addr::LOCALHOST.into()), "::1");
    }

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[2001:db8::7:1]:1", "[::ffff:1.2.3.4]:9", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).socket(), Some(address));
        }
        let (four, six): (SocketAddr, SocketAddr) = ("1.2.3.4:5".parse().unwrap(), "[::102:304]:5".parse().unwrap());
        assert_ne!(Address::from(four), Address::from(six), "the same bits of two families");
    }

    #[test]
    fn unix_sockets_are_told_apart_by_path_on_any_thread() {
        let (one, two) = (Address::unix("/run/one.sock"), Address::unix("/run/two.sock"));
        assert_eq!(one, Address::unix("/run/one.sock"));
        assert_ne!(one, two);
        let seen = std::thread::spawn(move || (one.to_string(), two.path())).join().unwrap();
        assert_eq!(seen, ("unix:/run/one.sock".to_owned(), Some("/run/two.sock")));
        assert_eq!((one.ip(), one.socket()), (None, None));
    }
}
