//! The asking side.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Exchanges, Flood, Target, kind};
use crate::bench::{machine::busy_seconds, statistics::percentile};

const PATIENCE: Duration = Duration::from_secs(1);
/// Exchanges before the first that counts.
const WARM_UP: usize = 200;
const BURSTS_PER_SECOND: u32 = 1_000;

pub fn tcp_ping_pong(target: &Target) -> Result<Exchanges> {
    let mut stream = TcpStream::connect_timeout(&target.to, PATIENCE).with_context(|| unreachable(target))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [kind::ECHO];
    exchanges(target, || {
        stream.write_all(&byte)?;
        Ok(stream.read_exact(&mut byte)?)
    })
}

pub fn udp_ping_pong(target: &Target) -> Result<Exchanges> {
    let socket = open(target.to)?;
    exchanges(target, || ask(&socket).map(drop))
}

/// As a resolver asks: a socket for each question.
pub fn udp_exchange(target: &Target) -> Result<Exchanges> {
    exchanges(target, || ask(&open(target.to)?).map(drop))
}

fn exchanges(target: &Target, mut once: impl FnMut() -> Result<()>) -> Result<Exchanges> {
    for _ in 0..WARM_UP {
        once().with_context(|| unreachable(target))?;
    }
    let mut times = Vec::with_capacity(1 << 18);
    let start = Instant::now();
    let mut last = start;
    while last.duration_since(start).as_secs_f64() < target.seconds {
        once().with_context(|| unreachable(target))?;
        let now = Instant::now();
        times.push(now.duration_since(last).as_secs_f64() * 1e6);
        last = now;
    }
    Ok(Exchanges {
        count: times.len() as u64,
        seconds: last.duration_since(start).as_secs_f64(),
        p50: percentile(&times, 0.5).context("no exchange")?,
        p99: percentile(&times, 0.99).context("no exchange")?,
    })
}

/// In bursts of a millisecond, so that the sender sleeps in between and the rate is the same however fast the path is.
pub fn udp_rate(target: &Target, rate: u32) -> Result<Flood> {
    let socket = open(target.to)?;
    report(&socket).with_context(|| unreachable(target))?;
    let burst = rate.div_ceil(BURSTS_PER_SECOND);
    let bursts = (target.seconds * f64::from(BURSTS_PER_SECOND)) as u32;
    let datagram = [kind::COUNT; 64];
    let before = busy_seconds()?;
    let start = Instant::now();
    let mut sent = 0;
    for number in 1..=bursts {
        for _ in 0..burst {
            sent += u64::from(socket.send(&datagram).is_ok());
        }
        let next = start + number * Duration::from_secs(1) / BURSTS_PER_SECOND;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let busy = busy_seconds()? - before;
    let received = report(&socket)?;
    ensure!(received > 0, "{}: none of {sent} datagrams arrived", target.to);
    Ok(Flood { sent, received, busy })
}

fn open(to: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn ask(socket: &UdpSocket) -> Result<usize> {
    socket.send(&[kind::ECHO; 32])?;
    Ok(socket.recv(&mut [0; 64])?)
}

fn report(socket: &UdpSocket) -> Result<u64> {
    socket.send(&[kind::REPORT])?;
    let mut count = [0; 8];
    socket.recv(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

fn unreachable(target: &Target) -> String {
    format!("no answer from {}", target.to)
}
