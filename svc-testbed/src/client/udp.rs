//! UDP: connected and unconnected sockets, one datagram or several, one after the other or at once.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, time::timeout};

use super::{
    outcome::Outcome,
    protocol::{Again, Udp},
    report::Sample,
    run::{Held, State},
    sockets,
    tcp::{Failure, conclude},
};
use crate::serve::{LENGTH_DIGITS, answer};

/// The first datagram that is too large for the path is lost, and the answer to the loss may be as well.
const DONT_FRAGMENT_TRIES: u32 = 3;

pub(super) struct Socket {
    socket: UdpSocket,
    to: SocketAddr,
    connected: bool,
}

impl Socket {
    async fn open(probe: &Udp) -> io::Result<Self> {
        let socket = sockets::udp(probe.to, probe.source_port)?;
        sockets::set_fragmentation(&socket, probe.to, probe.dont_fragment)?;
        if !probe.unconnected {
            socket.connect(probe.to).await?;
        }
        Ok(Self { socket, to: probe.to, connected: !probe.unconnected })
    }

    async fn send(&self, payload: &[u8]) -> io::Result<()> {
        if self.connected {
            self.socket.send(payload).await?
        } else {
            self.socket.send_to(payload, self.to).await?
        };
        Ok(())
    }

    async fn receive(&self, request: &[u8], reply: usize, sample: &mut Sample) -> io::Result<()> {
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.socket.recv_from(&mut buffer).await?;
        let received = &buffer[..length];
        sample.reply_from = Some(from);
        match answer::read_answer(received) {
            Some((answer, padding_intact)) => {
                sample.intact &= padding_intact && length >= reply && answer.checksum == answer::checksum(request);
                sample.backends.push(format!("{}:{}", answer.pod, answer.port));
                sample.client_seen = Some(answer.client);
            }
            None => sample.intact = false,
        }
        Ok(())
    }

    async fn exchange(
        &self,
        (payload, reply): (usize, usize),
        limit: Duration,
        sample: &mut Sample,
    ) -> Result<(), Failure> {
        let request = request(payload, reply);
        self.send(&request).await?;
        Ok(timeout(limit, self.receive(&request, reply, sample)).await??)
    }

    async fn burst(&self, probe: &Udp, sample: &mut Sample) -> Result<(), Failure> {
        let request = request(probe.payload, probe.reply);
        for _ in 0..probe.burst {
            self.send(&request).await?;
        }
        let answers = async {
            for _ in 0..probe.burst {
                self.receive(&request, probe.reply, sample).await?;
            }
            io::Result::Ok(())
        };
        Ok(timeout(probe.timeout, answers).await??)
    }

    fn describe(&self, sample: &mut Sample) {
        sample.local = self.socket.local_addr().ok();
        sample.peer = self.socket.peer_addr().ok();
        sample.path_mtu = self.connected.then(|| sockets::path_mtu(&self.socket, self.to)).flatten();
    }
}

/// The head of the request says how long the answer should be, if there is room for it.
fn request(payload: usize, reply: usize) -> Vec<u8> {
    let mut request = answer::body(payload);
    if payload >= LENGTH_DIGITS {
        request[..LENGTH_DIGITS].copy_from_slice(format!("{reply:0LENGTH_DIGITS$}").as_bytes());
    }
    request
}

pub(super) async fn sample(state: &State, probe: &Udp) -> Sample {
    let start = Instant::now();
    let mut sample = Sample::new();
    let socket = match Socket::open(probe).await {
        Ok(socket) => socket,
        Err(error) => {
            conclude(&mut sample, Err(error.into()), start);
            return sample;
        }
    };
    let result = all_exchanges(&socket, probe, &mut sample).await;
    conclude(&mut sample, result, start);
    socket.describe(&mut sample);
    if let Some(name) = probe.hold.as_ref().filter(|_| sample.outcome == Outcome::Ok || probe.hold_failed) {
        state.hold(name, Held::Udp(socket));
    }
    sample
}

async fn all_exchanges(socket: &Socket, probe: &Udp, sample: &mut Sample) -> Result<(), Failure> {
    let sizes = (probe.payload, probe.reply);
    if probe.burst > 0 {
        return socket.burst(probe, sample).await;
    }
    for _ in 0..probe.packets {
        let mut result = socket.exchange(sizes, probe.timeout, sample).await;
        if probe.dont_fragment {
            for _ in 1..DONT_FRAGMENT_TRIES {
                match &result {
                    Err(failure) if failure.outcome == Outcome::Timeout => {
                        result = socket.exchange(sizes, probe.timeout, sample).await;
                    }
                    _ => break,
                }
            }
        }
        result?;
    }
    Ok(())
}

pub(super) async fn again(socket: &Socket, again: &Again) -> Sample {
    let start = Instant::now();
    let mut sample = Sample::new();
    let mut result = Ok(());
    for _ in 0..again.packets {
        result = socket.exchange((again.size, again.reply), again.timeout, &mut sample).await;
        if result.is_err() {
            break;
        }
    }
    conclude(&mut sample, result, start);
    socket.describe(&mut sample);
    sample
}
