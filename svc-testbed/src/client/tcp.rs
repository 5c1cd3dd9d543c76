//! TCP: one HTTP request per connection, and more requests on connections that are held.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{
    outcome::Outcome,
    protocol::{Again, Get, Tcp},
    report::{GetReport, Sample},
    run::{Held, State},
    sockets,
};
use crate::serve::answer;

pub(super) struct Connection {
    to: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
    /// The same socket once more, to ask the kernel about it while hyper owns it
    socket: OwnedFd,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

pub(super) struct Failure {
    pub outcome: Outcome,
    pub text: String,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { outcome: Outcome::of(&error), text: error.to_string() }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self { outcome: Outcome::of_http(&error), text: format!("{error:?}") }
    }
}

impl From<tokio::time::error::Elapsed> for Failure {
    fn from(error: tokio::time::error::Elapsed) -> Self {
        Self { outcome: Outcome::Timeout, text: error.to_string() }
    }
}

impl Connection {
    pub async fn open(to: SocketAddr, source_port: Option<u16>) -> Result<Self, Failure> {
        let stream = sockets::tcp(to, source_port)?.connect(to).await?;
        let (local, peer) = (stream.local_addr().ok(), stream.peer_addr().ok());
        let socket = stream.as_fd().try_clone_to_owned()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { to, sender, socket, local, peer })
    }

    /// One request and its complete answer.
    pub async fn request(&mut self, body: Bytes, reply: usize) -> Result<Bytes, Failure> {
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let request = Request::builder().method(method).uri(format!("/?reply={reply}"));
        let request = request.header(header::HOST, self.to.to_string()).body(Full::new(body));
        let request = request.map_err(|error| Failure { outcome: Outcome::Other, text: error.to_string() })?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    async fn exchange(&mut self, body: usize, reply: usize, sample: &mut Sample) -> Result<(), Failure> {
        let body = Bytes::from(answer::body(body));
        let received = self.request(body.clone(), reply).await?;
        let Some((answer, padding_intact)) = answer::read_answer(&received) else {
            return Err(Failure { outcome: Outcome::Other, text: String::from_utf8_lossy(&received).into_owned() });
        };
        sample.intact = padding_intact && received.len() >= reply && answer.checksum == answer::checksum(&body);
        sample.backends.push(format!("{}:{}", answer.pod, answer.port));
        sample.client_seen = Some(answer.client);
        sample.reply_from = self.peer;
        Ok(())
    }

    fn describe(&self, sample: &mut Sample) {
        (sample.local, sample.peer) = (self.local, self.peer);
        sample.path_mtu = sockets::path_mtu(&self.socket, self.to);
    }
}

pub(super) async fn sample(state: &State, probe: &Tcp) -> Sample {
    let start = Instant::now();
    let mut sample = Sample::new();
    let mut connection = None;
    let attempt = async {
        let connection = connection.insert(Connection::open(probe.to, probe.source_port).await?);
        connection.exchange(probe.body, probe.reply, &mut sample).await
    };
    let result = within(probe.timeout, attempt).await;
    conclude(&mut sample, result, start);
    if let Some(connection) = connection {
        connection.describe(&mut sample);
        if let Some(name) = probe.hold.as_ref().filter(|_| sample.outcome == Outcome::Ok || probe.hold_failed) {
            state.hold(name, Held::Tcp(connection));
        }
    }
    sample
}

pub(super) async fn again(connection: &mut Connection, again: &Again) -> Sample {
    let start = Instant::now();
    let mut sample = Sample::new();
    let result = within(again.timeout, connection.exchange(again.size, again.reply, &mut sample)).await;
    conclude(&mut sample, result, start);
    connection.describe(&mut sample);
    sample
}

pub(super) async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(limit, attempt).await?
}

pub(super) fn conclude(sample: &mut Sample, result: Result<(), Failure>, start: Instant) {
    sample.elapsed = start.elapsed();
    sample.backends.dedup();
    if let Err(failure) = result {
        sample.outcome = failure.outcome;
        sample.error = Some(failure.text);
    }
}

pub async fn get(get: &Get) -> GetReport {
    let attempt = async {
        let mut connection = Connection::open(get.to, None).await?;
        let request = Request::get(&get.path).header(header::HOST, get.to.to_string()).body(Full::default());
        let request = request.map_err(|error| Failure { outcome: Outcome::Other, text: error.to_string() })?;
        let (parts, body) = connection.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        Ok(GetReport {
            outcome: Outcome::Ok,
            error: None,
            status: parts.status.as_u16(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    within(get.timeout, attempt).await.unwrap_or_else(|failure| GetReport {
        outcome: failure.outcome,
        error: Some(failure.text),
        status: 0,
        headers: Default::default(),
        body: String::new(),
    })
}
