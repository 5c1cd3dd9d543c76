//! The content of answers, the same for HTTP and UDP: a JSON line about the request, padded to the length asked for. Both sides
//! of the wire use it, the client to check what came back.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hasher as _},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// First line of every answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the machine that answered
    pub pod: String,
    pub port: u16,
    /// The client as the server saw it
    pub client: SocketAddr,
    /// Length of the request body
    pub length: usize,
    /// [`checksum`] of the request body
    pub checksum: String,
}

/// What a server has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub connections: u64,
    pub requests: u64,
    pub datagrams: u64,
    /// The last few requests and datagrams, oldest first
    pub last: VecDeque<String>,
}

/// A serving machine: its name, its page, and its memory.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    pub welcome: Option<String>,
    seen: Mutex<Seen>,
}

const REMEMBERED: usize = 20;

impl Host {
    pub fn new(name: String, welcome: Option<String>) -> Self {
        Self { name, welcome, seen: Mutex::default() }
    }

    pub fn answer(&self, port: u16, client: SocketAddr, body: &[u8], reply: usize) -> Vec<u8> {
        let answer = Answer { pod: self.name.clone(), port, client, length: body.len(), checksum: checksum(body) };
        let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
        bytes.push(b'\n');
        pad(&mut bytes, reply);
        bytes
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn note_connection(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
    }

    pub fn note_request(&self, client: SocketAddr, port: u16, length: usize) {
        self.note(|seen| seen.requests += 1, format!("{client} -> tcp {port}, {length} bytes"));
    }

    pub fn note_datagram(&self, client: SocketAddr, port: u16, length: usize) {
        self.note(|seen| seen.datagrams += 1, format!("{client} -> udp {port}, {length} bytes"));
    }

    fn note(&self, count: impl FnOnce(&mut Seen), line: String) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        count(&mut seen);
        seen.last.push_back(line);
        if seen.last.len() > REMEMBERED {
            seen.last.pop_front();
        }
    }
}

/// Fills up to `length` bytes with [`pattern_byte`]s. Longer content stays as it is.
pub fn pad(bytes: &mut Vec<u8>, length: usize) {
    let start = bytes.len();
    bytes.extend((start..length).map(pattern_byte));
}

/// The answer at the head of `bytes`, if the bytes after it are the padding that belongs there.
pub fn read_answer(bytes: &[u8]) -> Option<(Answer, bool)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let answer = serde_json::from_slice(&bytes[..end]).ok()?;
    let padding = bytes.iter().enumerate().skip(end + 1);
    let intact = padding.fold(true, |intact, (at, byte)| intact && *byte == pattern_byte(at));
    Some((answer, intact))
}

/// A body of `length` bytes that tells displaced from right.
pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(pattern_byte).collect()
}

// The period is a prime, so a block that is missing or moved shows.
fn pattern_byte(at: usize) -> u8 {
    b'a' + ((at % 65_521) * 7 % 26) as u8
}

pub fn checksum(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}
