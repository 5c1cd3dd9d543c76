//! What became of one attempt to reach something, in the words of the conformance corpus.

use std::{error::Error, io};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok,
    /// RST while connecting, or ICMP port unreachable
    Refused,
    Timeout,
    /// RST on an established connection
    Reset,
    /// The socket was destroyed on this side
    Aborted,
    /// Orderly end without an answer
    Closed,
    TooBig,
    HostUnreachable,
    NetUnreachable,
    /// The client's own kernel refused to send
    Prohibited,
    /// ICMP destination unreachable as the answer to an echo
    Unreachable,
    Other,
}

impl Outcome {
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::Timeout,
            Some(libc::ECONNRESET | libc::EPIPE) => Self::Reset,
            Some(libc::ECONNABORTED) => Self::Aborted,
            Some(libc::EMSGSIZE) => Self::TooBig,
            Some(libc::EHOSTUNREACH) => Self::HostUnreachable,
            Some(libc::ENETUNREACH) => Self::NetUnreachable,
            Some(libc::EPERM | libc::EACCES) => Self::Prohibited,
            _ => match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
                io::ErrorKind::UnexpectedEof => Self::Closed,
                _ => Self::Other,
            },
        }
    }

    /// hyper wraps what the socket said; an end without an answer is its own class.
    pub fn of_http(error: &hyper::Error) -> Self {
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(error) = inner.downcast_ref::<io::Error>() {
                return Self::of(error);
            }
            source = inner.source();
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            Self::Closed
        } else {
            Self::Other
        }
    }
}
