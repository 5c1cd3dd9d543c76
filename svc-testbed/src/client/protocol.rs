//! What a test asks of a client process and what it hears back. One JSON line each way; the builders are the tests' vocabulary.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::report::{BulkReport, GetReport, LoadReport, Sample};

/// TCP: connect, one HTTP request, the answer; `count` times, each on a connection of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tcp {
    pub to: SocketAddr,
    pub count: u32,
    pub serial: bool,
    pub interval: Duration,
    pub timeout: Duration,
    pub source_port: Option<u16>,
    pub body: usize,
    pub reply: usize,
    pub hold: Option<String>,
    pub hold_failed: bool,
}

impl Tcp {
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            count: 1,
            serial: false,
            interval: Duration::ZERO,
            timeout: Duration::from_millis(2500),
            source_port: None,
            body: 0,
            reply: 0,
            hold: None,
            hold_failed: false,
        }
    }

    /// Bytes of the request body.
    pub fn body(mut self, bytes: usize) -> Self {
        self.body = bytes;
        self
    }
}

/// UDP: datagrams on `count` sockets, each with a source port no earlier one had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Udp {
    pub to: SocketAddr,
    pub count: u32,
    pub serial: bool,
    pub interval: Duration,
    pub timeout: Duration,
    pub source_port: Option<u16>,
    pub payload: usize,
    pub reply: usize,
    /// Datagrams one after the other, each answered
    pub packets: u32,
    /// Datagrams at once, then all answers; 0: none
    pub burst: u32,
    pub unconnected: bool,
    pub dont_fragment: bool,
    pub hold: Option<String>,
    pub hold_failed: bool,
}

impl Udp {
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            count: 1,
            serial: false,
            interval: Duration::ZERO,
            timeout: Duration::from_secs(2),
            source_port: None,
            payload: 16,
            reply: 0,
            packets: 1,
            burst: 0,
            unconnected: false,
            dont_fragment: false,
            hold: None,
            hold_failed: false,
        }
    }

    /// Bytes of each request.
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }

    pub fn packets(mut self, packets: u32) -> Self {
        self.packets = packets;
        self
    }

    pub fn burst(mut self, packets: u32) -> Self {
        self.burst = packets;
        self
    }

    pub fn unconnected(mut self) -> Self {
        self.unconnected = true;
        self
    }

    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }
}

macro_rules! common_builders {
    ($($probe:ty),*) => {$(
        impl $probe {
            pub fn count(mut self, count: u32) -> Self {
                self.count = count;
                self
            }

            /// One sample after the other instead of several at once.
            pub fn serial(mut self) -> Self {
                self.serial = true;
                self
            }

            /// One sample after the other, with this pause between them.
            pub fn interval(mut self, interval: Duration) -> Self {
                self.serial = true;
                self.interval = interval;
                self
            }

            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.timeout = timeout;
                self
            }

            pub fn source_port(mut self, port: u16) -> Self {
                self.source_port = Some(port);
                self
            }

            /// Bytes of each answer.
            pub fn reply(mut self, bytes: usize) -> Self {
                self.reply = bytes;
                self
            }

            /// Keeps the sockets that worked open under this name, for [`super::Client::again`].
            pub fn hold(mut self, name: &str) -> Self {
                self.hold = Some(name.to_owned());
                self
            }

            /// With `hold`: keeps the sockets that failed as well.
            pub fn hold_failed(mut self) -> Self {
                self.hold_failed = true;
                self
            }
        }
    )*};
}
common_builders!(Tcp, Udp);

/// One more exchange on each socket held under a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Again {
    pub name: String,
    pub timeout: Duration,
    pub size: usize,
    pub reply: usize,
    pub packets: u32,
}

impl Again {
    pub fn on(name: &str) -> Self {
        Self { name: name.to_owned(), timeout: Duration::from_millis(2500), size: 16, reply: 0, packets: 1 }
    }

    /// Bytes of the request body or datagram.
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    pub fn reply(mut self, bytes: usize) -> Self {
        self.reply = bytes;
        self
    }

    pub fn packets(mut self, packets: u32) -> Self {
        self.packets = packets;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// ICMP echo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ping {
    pub to: IpAddr,
    pub count: u32,
    pub timeout: Duration,
}

impl Ping {
    pub fn to(to: IpAddr) -> Self {
        Self { to, count: 1, timeout: Duration::from_millis(1500) }
    }

    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// One HTTP GET, answered with status, headers and body as they came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Get {
    pub to: SocketAddr,
    pub path: String,
    pub timeout: Duration,
}

impl Get {
    pub fn to(to: SocketAddr, path: &str) -> Self {
        Self { to, path: path.to_owned(), timeout: Duration::from_millis(2500) }
    }
}

/// Sustained load: connections that are kept and reused, and workers that open a new one for every request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub to: SocketAddr,
    pub keepalive: u32,
    pub fresh: u32,
    /// Ends by itself after this time, or earlier when told to
    pub duration: Duration,
    pub timeout: Duration,
    pub reply: usize,
    /// Pause between the requests of a worker
    pub pause: Duration,
}

impl Load {
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            keepalive: 8,
            fresh: 0,
            duration: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
            reply: 0,
            pause: Duration::ZERO,
        }
    }

    /// Connections that are opened once and reused.
    pub fn keepalive(mut self, connections: u32) -> Self {
        self.keepalive = connections;
        self
    }

    /// Workers that open a connection per request.
    pub fn fresh(mut self, workers: u32) -> Self {
        self.fresh = workers;
        self
    }

    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    pub fn reply(mut self, bytes: usize) -> Self {
        self.reply = bytes;
        self
    }

    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

/// So many bytes in each direction over one connection to a stream port, both directions at once, every byte checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bulk {
    pub to: SocketAddr,
    pub upload: u64,
    pub download: u64,
    pub timeout: Duration,
}

impl Bulk {
    pub fn to(to: SocketAddr) -> Self {
        Self { to, upload: 0, download: 0, timeout: Duration::from_secs(120) }
    }

    pub fn upload(mut self, bytes: u64) -> Self {
        self.upload = bytes;
        self
    }

    pub fn download(mut self, bytes: u64) -> Self {
        self.download = bytes;
        self
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Tcp(Tcp),
    Udp(Udp),
    Again(Again),
    Close(String),
    Ping(Ping),
    Get(Get),
    Load(Load),
    /// Ends the load that was asked for under this number
    Stop(u64),
    Bulk(Bulk),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Samples(Vec<Sample>),
    Load(LoadReport),
    Bulk(BulkReport),
    Get(GetReport),
    Done,
    Error(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered<T> {
    pub number: u64,
    pub content: T,
}
