//! Socket addresses in three plain words. The standard library's type is copied byte by odd byte, which stalls where a
//! request moves it about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    high: u64,
    low: u64,
    port: u16,
    v6: bool,
}

impl Address {
    /// The IP address.
    pub fn ip(self) -> IpAddr {
        match self.v6 {
            true => Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low)).into(),
            false => Ipv4Addr::from_bits(self.low as u32).into(),
        }
    }

    /// The port.
    pub fn port(self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Address {
    /// Scope and flow of an IPv6 address are left out: a node has none.
    fn from(address: SocketAddr) -> Self {
        let (bits, v6) = match address.ip() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), false),
            IpAddr::V6(ip) => (ip.to_bits(), true),
        };
        Self { high: (bits >> 64) as u64, low: bits as u64, port: address.port(), v6 }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        Self::new(address.ip(), address.port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
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
    fn addresses_come_back_as_they_were() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[2001:db8::7:1]:1", "[::ffff:1.2.3.4]:9", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Address::from(address)), address);
        }
        let (four, six): (SocketAddr, SocketAddr) = ("1.2.3.4:5".parse().unwrap(), "[::102:304]:5".parse().unwrap());
        assert_ne!(Address::from(four), Address::from(six), "the same bits of two families");
    }
}
