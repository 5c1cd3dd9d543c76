//! ICMP echo over a datagram socket: the kernel fills in identifier and checksum.

use std::{io, net::SocketAddr, time::Instant};

use tokio::time::timeout;

use super::{
    outcome::Outcome,
    protocol::Ping,
    report::Sample,
    sockets,
    tcp::{Failure, conclude},
};

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

pub(super) async fn sample(ping: &Ping) -> Sample {
    let start = Instant::now();
    let mut sample = Sample::new();
    let mut result = match timeout(ping.timeout, echo(ping, &mut sample)).await {
        Ok(result) => result.map_err(Failure::from),
        Err(late) => Err(late.into()),
    };
    if let Err(failure) = &mut result
        && matches!(failure.outcome, Outcome::Refused | Outcome::HostUnreachable | Outcome::NetUnreachable)
    {
        failure.outcome = Outcome::Unreachable;
    }
    conclude(&mut sample, result, start);
    sample
}

async fn echo(ping: &Ping, sample: &mut Sample) -> io::Result<()> {
    let to = SocketAddr::new(ping.to, 0);
    let socket = sockets::echo(to)?;
    socket.connect(to).await?;
    sample.local = socket.local_addr().ok();
    let mut request = [0; 24];
    request[0] = if to.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
    socket.send(&request).await?;
    let (_, from) = socket.recv_from(&mut [0; 256]).await?;
    sample.reply_from = Some(from);
    Ok(())
}
