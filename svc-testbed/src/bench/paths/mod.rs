//! The paths a packet can take to a pod, each on a pair of nodes of its own: a client pod and a server pod on the first, a server
//! pod on the second. All exist side by side in one lab, so that measurements can take turns; only one runs at a time.
//! Neighbours: `cluster` builds and fills them, `traffic` uses them.

pub mod cluster;
mod programs;
mod servers;

use std::net::{Ipv4Addr, SocketAddr};

pub use cluster::Cluster;
pub use programs::{ProgramTimes, Spent};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The pod's own address, through the host's stack. What all others are compared with.
    Direct,
    TcStack,
    TcDirect,
    HooksStack,
    HooksDirect,
    Nftables,
    Iptables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    SameNode,
    OtherNode,
}

/// Who translates on a path's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translator {
    Nobody,
    Agent { socket_lb: &'static str, forwarding: &'static str },
    Nftables,
    Iptables,
}

impl Path {
    pub const ALL: [Self; 7] = [
        Self::Direct,
        Self::TcStack,
        Self::TcDirect,
        Self::HooksStack,
        Self::HooksDirect,
        Self::Nftables,
        Self::Iptables,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct pod IP",
            Self::TcStack => "tc + stack",
            Self::TcDirect => "tc + direct",
            Self::HooksStack => "socket hooks + stack",
            Self::HooksDirect => "socket hooks + direct",
            Self::Nftables => "nftables rules",
            Self::Iptables => "iptables rules",
        }
    }

    pub fn translator(self) -> Translator {
        let agent = |socket_lb, forwarding| Translator::Agent { socket_lb, forwarding };
        match self {
            Self::Direct => Translator::Nobody,
            Self::TcStack => agent("off", "stack"),
            Self::TcDirect => agent("off", "direct"),
            Self::HooksStack => agent("all", "stack"),
            Self::HooksDirect => agent("all", "direct"),
            Self::Nftables => Translator::Nftables,
            Self::Iptables => Translator::Iptables,
        }
    }

    /// In names of machines.
    fn key(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::TcStack => "tcs",
            Self::TcDirect => "tcd",
            Self::HooksStack => "sks",
            Self::HooksDirect => "skd",
            Self::Nftables => "nft",
            Self::Iptables => "ipt",
        }
    }

    fn number(self) -> u8 {
        Self::ALL.iter().position(|path| *path == self).unwrap_or_default() as u8
    }

    fn nodes(self) -> [String; 2] {
        ["a", "b"].map(|side| format!("{}-{side}", self.key()))
    }

    pub fn client(self) -> String {
        format!("{}-client", self.key())
    }

    fn server(self, place: Place) -> String {
        match place {
            Place::SameNode => format!("{}-near", self.key()),
            Place::OtherNode => format!("{}-far", self.key()),
        }
    }

    fn service_address(self, place: Place) -> Ipv4Addr {
        Ipv4Addr::new(10, 96, 0, 10 + 2 * self.number() + u8::from(place == Place::OtherNode))
    }
}

impl Place {
    pub fn title(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::OtherNode => "across nodes",
        }
    }
}

/// What a server offers, and under which port its Service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Http,
    Iperf,
    /// TCP and UDP
    Echo,
}

impl Offer {
    pub const ALL: [Self; 3] = [Self::Http, Self::Iperf, Self::Echo];

    pub fn pod_port(self) -> u16 {
        match self {
            Self::Http => 8080,
            Self::Iperf => 5201,
            Self::Echo => 7007,
        }
    }

    pub fn service_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Iperf => 5000,
            Self::Echo => 7,
        }
    }

    pub fn protocols(self) -> &'static [&'static str] {
        match self {
            Self::Http | Self::Iperf => &["tcp"],
            Self::Echo => &["tcp", "udp"],
        }
    }
}

/// Where a client of a path finds what it measures.
pub struct Target<'a> {
    cluster: &'a Cluster,
    pub path: Path,
    pub place: Place,
}

impl Target<'_> {
    pub fn client(&self) -> anyhow::Result<&crate::Machine> {
        self.cluster.lab().machine(&self.path.client())
    }

    pub fn address(&self, offer: Offer) -> anyhow::Result<SocketAddr> {
        match self.path {
            Path::Direct => {
                let server = self.cluster.lab().machine(&self.path.server(self.place))?;
                Ok((server.ipv4(), offer.pod_port()).into())
            }
            path => Ok((path.service_address(self.place), offer.service_port()).into()),
        }
    }
}
