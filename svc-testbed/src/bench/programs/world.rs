//! Services on which a packet can be translated again and again: BPF_PROG_TEST_RUN runs a program on what its last run left of
//! the packet. Two services that lead to each other make every run a full translation of an established flow; a chain, where
//! each service's only backend has the address of the next service, makes every run a first packet.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use svc_common::Protocol;

use crate::packets::world::World;

pub const CLIENT_V4: &str = "10.244.3.5";
pub const CLIENT_V6: &str = "[fd00:10:244:3::5]";
pub const ELSEWHERE_V4: &str = "203.0.113.9:443";
pub const ELSEWHERE_V6: &str = "[2001:db8::9]:443";
/// An ordinary service, and its backend.
pub const ORDINARY: &str = "10.110.0.2";
pub const POD: &str = "10.244.3.46";
/// Has endpoints, but none its policy allows here.
pub const DROPPED: &str = "10.110.0.1:80";

/// Two services, each the other's backend.
#[derive(Clone, Copy)]
pub struct Pair {
    pub protocol: Protocol,
    pub client: &'static str,
    pub one: &'static str,
    pub two: &'static str,
}

pub const PAIRS: [Pair; 4] = [
    Pair { protocol: Protocol::TCP, client: CLIENT_V4, one: "10.111.0.1:80", two: "10.111.0.2:8080" },
    Pair { protocol: Protocol::UDP, client: CLIENT_V4, one: "10.111.0.1:53", two: "10.111.0.2:5353" },
    Pair { protocol: Protocol::TCP, client: CLIENT_V6, one: "[fd96::1]:80", two: "[fd96::2]:8080" },
    Pair { protocol: Protocol::UDP, client: CLIENT_V6, one: "[fd96::1]:53", two: "[fd96::2]:5353" },
];

/// Services in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    TcpV4,
    UdpV4,
    UdpV6,
}

impl Chain {
    pub fn frontend(self, number: u32) -> SocketAddr {
        let v4 = |base: [u8; 4], port| {
            SocketAddr::new(Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() + number).into(), port)
        };
        match self {
            Self::TcpV4 => v4([10, 104, 0, 0], 80),
            Self::UdpV4 => v4([10, 96, 0, 0], 53),
            Self::UdpV6 => {
                let [high, low] = [(number >> 16) as u16, number as u16];
                SocketAddr::new(Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, high, low).into(), 53)
            }
        }
    }

    pub fn protocol(self) -> Protocol {
        match self {
            Self::TcpV4 => Protocol::TCP,
            Self::UdpV4 | Self::UdpV6 => Protocol::UDP,
        }
    }

    pub fn client(self) -> &'static str {
        match self {
            Self::TcpV4 | Self::UdpV4 => CLIENT_V4,
            Self::UdpV6 => CLIENT_V6,
        }
    }
}

pub fn chain(world: World, chain: Chain, services: u32) -> World {
    (0..services).fold(world, |world, number| {
        let [frontend, backend] = [number, number + 1].map(|number| chain.frontend(number).to_string());
        world.forward(chain.protocol(), &frontend, &[&backend])
    })
}

/// Pairs for established flows beside so many services in each chain.
pub fn ordinary(services: u32) -> World {
    let world = PAIRS.iter().fold(World::new(), |world, pair| {
        world.forward(pair.protocol, pair.one, &[pair.two]).forward(pair.protocol, pair.two, &[pair.one])
    });
    let world = [(Protocol::TCP, 80, 8080), (Protocol::UDP, 53, 5353)].into_iter().fold(
        world,
        |world, (protocol, port, target)| {
            world.forward(protocol, &format!("{ORDINARY}:{port}"), &[&format!("{POD}:{target}")])
        },
    );
    let world = world.local_drop(Protocol::TCP, DROPPED);
    [Chain::TcpV4, Chain::UdpV4, Chain::UdpV6]
        .into_iter()
        .fold(world, |world, protocol| chain(world, protocol, services))
}
