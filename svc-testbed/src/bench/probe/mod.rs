//! The benchmark's own traffic: a server that answers in the same thread, and clients that time every exchange. Plain blocking
//! sockets, one thread: nothing between the clock and the kernel. Runs as a process in a pod, because socket hooks follow
//! cgroups; says what it measured as one JSON line. Neighbour: `traffic` starts it.

mod client;
mod server;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Subcommand)]
pub enum ProbeArgs {
    /// Answer over TCP and UDP; count datagrams that ask for no answer
    Serve {
        #[arg(long)]
        address: IpAddr,
        #[arg(long)]
        port: u16,
    },
    /// One byte there and back over one TCP connection
    TcpPingPong(Target),
    /// One datagram there and back over one connected socket
    UdpPingPong(Target),
    /// One datagram there and back, each time from a new socket
    UdpExchange(Target),
    /// Datagrams at a fixed rate, and what they cost the machine
    UdpRate {
        #[command(flatten)]
        target: Target,
        /// Datagrams a second
        #[arg(long)]
        rate: u32,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    pub to: SocketAddr,
    #[arg(long)]
    pub seconds: f64,
}

/// Exchanges of one run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Exchanges {
    pub count: u64,
    pub seconds: f64,
    /// Microseconds
    pub p50: f64,
    pub p99: f64,
}

/// What a flood of datagrams cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Flood {
    pub sent: u64,
    pub received: u64,
    /// Seconds in which some CPU of the machine was not idle, added up over CPUs
    pub busy: f64,
}

pub fn run(args: &ProbeArgs) -> Result<()> {
    match args {
        ProbeArgs::Serve { address, port } => server::run(SocketAddr::new(*address, *port)),
        ProbeArgs::TcpPingPong(target) => print(&client::tcp_ping_pong(target)?),
        ProbeArgs::UdpPingPong(target) => print(&client::udp_ping_pong(target)?),
        ProbeArgs::UdpExchange(target) => print(&client::udp_exchange(target)?),
        ProbeArgs::UdpRate { target, rate } => print(&client::udp_rate(target, *rate)?),
    }
}

fn print(result: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

/// First bytes of datagrams.
mod kind {
    /// Send it back.
    pub const ECHO: u8 = b'e';
    /// Only count it.
    pub const COUNT: u8 = b'c';
    /// Say how many were counted, and begin anew.
    pub const REPORT: u8 = b'r';
}
