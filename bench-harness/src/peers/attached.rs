//! A peer that runs already: `--running name=ADDR,pid=N` or `--running name=ADDR,cgroup=PATH`.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use super::kind;
use crate::meter::Meter;

/// How long it may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// A peer that somebody else started. It is measured, and neither configured, pinned, restarted nor killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name in the tables.
    pub name: String,
    /// The address it serves on.
    pub address: SocketAddr,
    /// What its CPU time is read from.
    pub meter: Meter,
}

impl Attached {
    /// It accepts connections and its CPU time can be read.
    ///
    /// # Errors
    /// Says what is not so.
    pub fn check(&self) -> Result<(), String> {
        let Self { name, address, meter } = self;
        meter.check().map_err(|why| format!("{name}: {why}"))?;
        TcpStream::connect_timeout(address, PATIENCE).map_err(|e| format!("{name}: {address}: {e}"))?;
        Ok(())
    }
}

impl FromStr for Attached {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text}: the form is NAME=ADDR,pid=N or NAME=ADDR,cgroup=PATH");
        let (name, rest) = text.split_once('=').ok_or_else(form)?;
        let (address, meter) = rest.split_once(',').ok_or_else(form)?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            return Err(format!("{name}: a name is made of letters, digits, dot, dash and underscore"));
        }
        if kind(name).is_some() {
            return Err(format!("{name}: this is the name of a peer that the harness starts"));
        }
        let address = address.parse().map_err(|_| format!("{address}: not an address such as 127.0.0.1:9080"))?;
        let meter = match meter.split_once('=').ok_or_else(form)? {
            ("pid", pid) => Meter::Tree(pid.parse().map_err(|_| format!("{pid}: not a process id"))?),
            ("cgroup", path) if !path.is_empty() => Meter::cgroup(path),
            _ => return Err(form()),
        };
        Ok(Self { name: name.to_owned(), address, meter })
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ran already at {}, measured by ", self.address)?;
        match &self.meter {
            Meter::Tree(pid) => write!(f, "process {pid} and its descendants")?,
            Meter::Cgroup(path) => write!(f, "cgroup {}", path.display())?,
        }
        f.write_str("; neither configured, pinned nor started afresh by the harness")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let address: SocketAddr = "127.0.0.1:9080".parse().unwrap();
        let by_pid: Attached = "apisix=127.0.0.1:9080,pid=42".parse().unwrap();
        assert_eq!(by_pid, Attached { name: "apisix".into(), address, meter: Meter::Tree(42) });
        let by_group: Attached = "kong-3.9=[::1]:80,cgroup=system.slice/kong.service".parse().unwrap();
        assert_eq!(by_group.meter, Meter::Cgroup("/sys/fs/cgroup/system.slice/kong.service".into()));
        assert!(by_group.to_string().contains("neither configured, pinned"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("apisix", "the form is"),
            ("apisix=127.0.0.1:9080", "the form is"),
            ("apisix=127.0.0.1:9080,42", "the form is"),
            ("apisix=127.0.0.1:9080,cgroup=", "the form is"),
            ("apisix=localhost,pid=42", "not an address"),
            ("apisix=127.0.0.1:9080,pid=me", "not a process id"),
            ("a|b=127.0.0.1:9080,pid=42", "a name is made of"),
            ("nginx=127.0.0.1:9080,pid=42", "that the harness starts"),
        ] {
            assert!(text.parse::<Attached>().unwrap_err().contains(why), "{text}");
        }
    }
}
