//! The servers of pods and nodes. Every answer says who answered and whom it saw: the tests' evidence. HTTP over TCP, plain
//! datagrams over UDP, and a byte stream for transfers of gigabytes. This side runs in the helper process.

pub mod answer;
pub mod handle;
mod http;
mod stream;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
pub use stream::{Direction, TransferHeader, read_pattern, write_pattern};
use tokio::net::{TcpListener, UdpSocket};
pub(crate) use udp::LENGTH_DIGITS;

use crate::stdio;

/// What one server process serves.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Who answers
    #[arg(long)]
    pub name: String,
    /// Addresses to listen on
    #[arg(long, required = true)]
    pub address: Vec<IpAddr>,
    /// TCP ports with HTTP/1.1
    #[arg(long, value_delimiter = ',')]
    pub tcp: Vec<u16>,
    /// UDP ports
    #[arg(long, value_delimiter = ',')]
    pub udp: Vec<u16>,
    /// TCP ports for bulk transfers
    #[arg(long, value_delimiter = ',')]
    pub stream: Vec<u16>,
    /// Answer `GET /` with this line, as a web server with a page of its own does
    #[arg(long)]
    pub welcome: Option<String>,
}

pub async fn run(args: ServeArgs) -> Result<()> {
    let host = Arc::new(answer::Host::new(args.name, args.welcome));
    for address in &args.address {
        for port in &args.tcp {
            tokio::spawn(http::serve(listen(*address, *port).await?, Arc::clone(&host)));
        }
        for port in &args.stream {
            tokio::spawn(stream::serve(listen(*address, *port).await?));
        }
        for port in &args.udp {
            let socket = UdpSocket::bind((*address, *port)).await;
            let socket = socket.with_context(|| format!("cannot bind UDP {address}:{port}"))?;
            tokio::spawn(udp::serve(socket, Arc::clone(&host)));
        }
    }
    report_on_request(move || host.seen()).await
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on TCP {address}"))
}

/// Says that the server is ready, then prints what it has seen whenever a line arrives. Goes on serving when nobody is left
/// to ask: the lab may have been kept.
pub(crate) async fn report_on_request<T: serde::Serialize>(seen: impl Fn() -> T) -> Result<()> {
    stdio::print_line(&"ready")?;
    let mut requests = stdio::lines();
    while requests.recv().await.is_some() {
        stdio::print_line(&seen())?;
    }
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}
