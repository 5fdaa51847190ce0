//! Who holds a port: from the kernel's socket tables to the process with that socket open, as far as `/proc` shows it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Most processes looked at; a busy host has thousands, and this is the way to an error message.
const PROCESSES_MAX: usize = 65_536;

/// A description of the process that listens where `address` wants to, for example `nginx (pid 812)`. `root` is the file system's
/// root (a fixture in tests). `None` if nothing is seen: another user's process, another PID namespace.
pub fn find(address: SocketAddr, root: &Path) -> Option<String> {
    let inodes: Vec<u64> = [("proc/net/tcp", false), ("proc/net/tcp6", true)]
        .iter()
        .flat_map(|(file, v6)| listening(&fs::read_to_string(root.join(file)).unwrap_or_default(), *v6))
        .filter(|(held, _)| in_the_way(*held, address))
        .map(|(_, inode)| inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir(root.join("proc")).ok()?.flatten().take(PROCESSES_MAX);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| holds(&root.join(format!("proc/{pid}/fd")), &inodes))
        .map(|pid| {
            let name = fs::read_to_string(root.join(format!("proc/{pid}/comm"))).unwrap_or_default();
            format!("{} (pid {pid})", name.trim())
        })
}

fn in_the_way(held: SocketAddr, wanted: SocketAddr) -> bool {
    let any = held.ip().is_unspecified() || wanted.ip().is_unspecified();
    held.port() == wanted.port() && (any || held.ip() == wanted.ip())
}

fn holds(descriptors: &Path, inodes: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(descriptors) else { return false };
    descriptors.flatten().any(|entry| {
        let link = fs::read_link(entry.path()).ok();
        let inode = link.as_ref().and_then(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode| inodes.contains(&inode))
    })
}

/// Listening sockets (state 0A) of a table in the form of `/proc/net/tcp`, with their inodes.
fn listening(table: &str, v6: bool) -> Vec<(SocketAddr, u64)> {
    let line = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        let inode = columns.nth(5)?.parse().ok()?;
        let (ip, port) = local.split_once(':')?;
        let ip = if v6 { IpAddr::V6(hex_v6(ip)?) } else { IpAddr::V4(hex_v4(ip)?) };
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == "0A").then_some((SocketAddr::new(ip, port), inode))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// The table writes each 32-bit word in the machine's byte order.
fn hex_v4(text: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(text, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()))
}

fn hex_v6(text: &str) -> Option<Ipv6Addr> {
    let mut bytes = [0_u8; 16];
    for (index, place) in bytes.chunks_exact_mut(4).enumerate() {
        let word = u32::from_str_radix(text.get(index * 8..index * 8 + 8)?, 16).ok()?;
        place.copy_from_slice(&word.to_ne_bytes());
    }
    Some(Ipv6Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_in_its_own_byte_order() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
            1: 0100007F:2379 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        if cfg!(target_endian = "little") {
            assert_eq!(listening(table, false), [(SocketAddr::from(([127, 0, 0, 1], 0x2378)), 4711)]);
        }
    }

    #[test]
    fn this_process_is_found_by_its_own_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = find(listener.local_addr().unwrap(), Path::new("/")).unwrap();
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
        let v6 = std::net::TcpListener::bind("[::1]:0").unwrap();
        let wanted = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), v6.local_addr().unwrap().port());
        assert!(find(wanted, Path::new("/")).is_some());
    }

    #[test]
    fn nobody_holds_a_free_port() {
        let port = bench_harness::children::free_address().unwrap();
        assert_eq!(find(port, Path::new("/")), None);
    }
}
