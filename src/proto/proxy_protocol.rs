//! PROXY protocol v1 and v2, both sides. haproxy.org proxy-protocol.txt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest v1 header, CRLF included.
const V1_BYTES: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest v2 header taken: addresses and a reasonable lot of TLVs.
const V2_BYTES: usize = 16 + 2048;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Partial,
    /// A whole header.
    Done {
        /// Its length.
        consumed: usize,
        /// Whom the connection is for; `None` for UNKNOWN, LOCAL and Unix addresses.
        source: Option<SocketAddr>,
        /// Where it was going.
        destination: Option<SocketAddr>,
    },
}

/// The bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Looks for a header at the front.
///
/// # Errors
/// If there is none.
pub fn parse(input: &[u8]) -> Result<Parsed, Fault> {
    let signature = input.len().min(V2_SIGNATURE.len());
    if input.starts_with(b"PROXY ") || b"PROXY ".starts_with(input) {
        return v1(input);
    }
    if V2_SIGNATURE.get(..signature) == input.get(..signature) { v2(input) } else { Err(Fault) }
}

/// The v1 header of a connection; `UNKNOWN` where the addresses are not of one family.
pub fn write_v1(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
    match (source, destination) {
        (Some(source), Some(destination)) if source.is_ipv4() == destination.is_ipv4() => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        _ => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}

/// The v2 header of a connection; `UNSPEC` where the addresses are not of one family.
pub fn write_v2(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    let mut addresses = Vec::with_capacity(36);
    let family = match (source, destination) {
        (Some(SocketAddr::V4(source)), Some(SocketAddr::V4(destination))) => {
            addresses.extend_from_slice(&source.ip().octets());
            addresses.extend_from_slice(&destination.ip().octets());
            0x11
        }
        (Some(SocketAddr::V6(source)), Some(SocketAddr::V6(destination))) => {
            addresses.extend_from_slice(&source.ip().octets());
            addresses.extend_from_slice(&destination.ip().octets());
            0x21
        }
        _ => 0x00,
    };
    if let (Some(source), Some(destination), true) = (source, destination, family != 0) {
        addresses.extend_from_slice(&source.port().to_be_bytes());
        addresses.extend_from_slice(&destination.port().to_be_bytes());
    }
    header.extend_from_slice(&[0x21, family]);
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

fn v1(input: &[u8]) -> Result<Parsed, Fault> {
    let Some(end) = input.windows(2).take(V1_BYTES).position(|pair| pair == b"\r\n") else {
        return if input.len() >= V1_BYTES { Err(Fault) } else { Ok(Parsed::Partial) };
    };
    let consumed = end + 2;
    if consumed > V1_BYTES {
        return Err(Fault);
    }
    let line = std::str::from_utf8(input.get(..end).unwrap_or_default()).map_err(|_| Fault)?;
    let mut parts = line.split(' ').skip(1);
    let family = parts.next().ok_or(Fault)?;
    if family == "UNKNOWN" {
        return Ok(Parsed::Done { consumed, source: None, destination: None });
    }
    let mut next = || parts.next().ok_or(Fault);
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if parts.next().is_some() {
        return Err(Fault);
    }
    let address = |text: &str| -> Result<IpAddr, Fault> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Fault),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Fault),
            _ => Err(Fault),
        }
    };
    Ok(Parsed::Done {
        consumed,
        source: Some(SocketAddr::new(address(source)?, source_port)),
        destination: Some(SocketAddr::new(address(destination)?, destination_port)),
    })
}

fn port(text: &str) -> Result<u16, Fault> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Fault)
}

fn v2(input: &[u8]) -> Result<Parsed, Fault> {
    let Some(&[version, family, high, low]) = input.get(12..16).and_then(|head| <&[u8; 4]>::try_from(head).ok()) else {
        return Ok(Parsed::Partial);
    };
    let consumed = 16 + usize::from(u16::from_be_bytes([high, low]));
    if version >> 4 != 2 || version & 15 > 1 || consumed > V2_BYTES {
        return Err(Fault);
    }
    let Some(body) = input.get(16..consumed) else { return Ok(Parsed::Partial) };
    let (addresses, source, destination) = match family {
        0x11 => v2_addresses::<4>(body)?,
        0x21 => v2_addresses::<16>(body)?,
        0x31 => (216, None, None),
        0x00 | 0x12 | 0x22 | 0x32 => (0, None, None),
        _ => return Err(Fault),
    };
    if version & 15 == 0 {
        return Ok(Parsed::Done { consumed, source: None, destination: None }); // LOCAL: a probe of the balancer itself
    }
    if family == 0x11 || family == 0x21 {
        check_tlvs(body.get(addresses..).ok_or(Fault)?)?;
    }
    Ok(Parsed::Done { consumed, source, destination })
}

type Addresses = (usize, Option<SocketAddr>, Option<SocketAddr>);

fn v2_addresses<const N: usize>(body: &[u8]) -> Result<Addresses, Fault> {
    let bytes = 2 * N + 4;
    let body = body.get(..bytes).ok_or(Fault)?;
    let address = |at: usize| -> Result<IpAddr, Fault> {
        let raw = body.get(at..at + N).ok_or(Fault)?;
        if let Ok(four) = <[u8; 4]>::try_from(raw) {
            return Ok(IpAddr::from(four));
        }
        <[u8; 16]>::try_from(raw).map(IpAddr::from).map_err(|_| Fault)
    };
    let port = |at: usize| Ok(u16::from_be_bytes(body.get(at..at + 2).and_then(|raw| raw.try_into().ok()).ok_or(Fault)?));
    let source = SocketAddr::new(address(0)?, port(2 * N)?);
    let destination = SocketAddr::new(address(N)?, port(2 * N + 2)?);
    Ok((bytes, Some(source), Some(destination)))
}

/// TLVs are skipped, but their lengths must add up.
fn check_tlvs(mut rest: &[u8]) -> Result<(), Fault> {
    while !rest.is_empty() {
        let length = rest.get(1..3).and_then(|raw| raw.try_into().ok()).map(u16::from_be_bytes).ok_or(Fault)?;
        rest = rest.get(3 + usize::from(length)..).ok_or(Fault)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(consumed: usize, source: &str, destination: &str) -> Result<Parsed, Fault> {
        Ok(Parsed::Done { consumed, source: source.parse().ok(), destination: destination.parse().ok() })
    }

    #[test]
    fn version_one() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET";
        assert_eq!(parse(line), done(42, "192.0.2.1:56324", "192.0.2.2:443"));
        for end in 0..41 {
            assert_eq!(parse(&line[..end]), Ok(Parsed::Partial), "{end}");
        }
        assert_eq!(parse(b"PROXY TCP6 ::1 ::2 1 2\r\n"), done(24, "[::1]:1", "[::2]:2"));
        assert_eq!(parse(b"PROXY UNKNOWN whatever\r\n"), done(24, "", ""));
        for bad in [
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Err(Fault), "{bad}");
        }
        assert_eq!(parse(&[&b"PROXY "[..], &[b'a'; 200]].concat()), Err(Fault));
    }

    fn second(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn version_two() {
        let body = [10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 1, 187];
        let whole = second(1, 0x11, &body);
        assert_eq!(parse(&whole), done(28, "10.0.0.1:80", "10.0.0.2:443"));
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(Parsed::Partial), "{end}");
        }
        assert_eq!(parse(&second(1, 0x11, &[&body[..], &[4, 0, 1, 9]].concat())), done(32, "10.0.0.1:80", "10.0.0.2:443"));
        assert_eq!(parse(&second(1, 0x11, &[&body[..], &[4, 0, 9, 9]].concat())), Err(Fault));
        assert_eq!(parse(&second(0, 0x00, &[])), done(16, "", ""));
        assert_eq!(parse(&second(1, 0x11, &body[..8])), Err(Fault));
        assert_eq!(parse(&second(2, 0x11, &body)), Err(Fault));
        assert_eq!(parse(&second(1, 0x11, &[0; 4000])), Err(Fault));
    }
}
