//! One error for the data path: whose side failed, doing what, and whether another try is allowed.

use std::fmt;

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// The upstream node.
    Upstream,
    /// Ringway itself.
    Us,
}

/// What happened, coarse enough to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The peer closed in an orderly way where more was expected.
    Closed,
    /// The peer reset the connection, or the network did.
    Reset,
    /// A deadline passed.
    TimedOut,
    /// The connection was refused or the address is unreachable.
    Refused,
    /// The peer sent something that is not the protocol.
    Malformed,
    /// A stated bound was passed.
    TooLarge,
    /// Any other failure of the operating system.
    Io,
}

/// An error of an exchange. Small and `Copy`: it is made on the request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whose fault.
    pub side: Side,
    /// What happened.
    pub kind: Kind,
    /// Nothing of an answer was seen and the request may go out again.
    pub retry: bool,
}

impl Error {
    /// An error that allows no other try.
    pub const fn new(side: Side, kind: Kind) -> Self {
        Self { side, kind, retry: false }
    }

    /// The same error, marked as safe to try again.
    pub const fn retryable(self) -> Self {
        Self { retry: true, ..self }
    }

    /// Reads the cause out of an I/O error.
    pub fn from_io(side: Side, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Kind::Reset,
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Kind::Refused,
            ErrorKind::TimedOut => Kind::TimedOut,
            ErrorKind::UnexpectedEof => Kind::Closed,
            _ => Kind::Io,
        };
        Self::new(side, kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.side, self.kind)
    }
}

impl std::error::Error for Error {}
