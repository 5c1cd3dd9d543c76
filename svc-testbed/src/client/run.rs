//! Main loop of a client process: JSON requests on stdin, each served by a task of its own, JSON reports on stdout.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{
    bulk, load, ping,
    protocol::{Again, Numbered, Reply, Request},
    report::Sample,
    tcp, udp,
};
use crate::stdio;

/// Samples of one probe that are on their way at the same time.
const AT_ONCE: usize = 64;

pub(super) enum Held {
    Tcp(tcp::Connection),
    Udp(udp::Socket),
}

#[derive(Default)]
pub(super) struct State {
    held: Mutex<HashMap<String, Vec<Held>>>,
    loads: Mutex<HashMap<u64, CancellationToken>>,
}

impl State {
    pub fn hold(&self, name: &str, socket: Held) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().push(socket);
    }

    fn take(&self, name: &str) -> Vec<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(name).unwrap_or_default()
    }

    fn token(&self, number: u64) -> CancellationToken {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default().clone()
    }
}

pub async fn run() -> Result<()> {
    let state = Arc::new(State::default());
    let mut requests = stdio::lines();
    while let Some(line) = requests.recv().await {
        let request: Numbered<Request> = serde_json::from_str(&line).with_context(|| format!("cannot read {line}"))?;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let content = serve(&state, request.number, request.content).await;
            let written = stdio::print_line(&Numbered { number: request.number, content });
            if written.is_err() {
                // Nobody is left who could want to know anything.
                std::process::exit(1);
            }
        });
    }
    Ok(())
}

async fn serve(state: &State, number: u64, request: Request) -> Reply {
    match request {
        Request::Tcp(probe) => {
            let once = || tcp::sample(state, &probe);
            Reply::Samples(
                collect(probe.count, probe.serial || probe.source_port.is_some(), probe.interval, once).await,
            )
        }
        Request::Udp(probe) => {
            let once = || udp::sample(state, &probe);
            Reply::Samples(
                collect(probe.count, probe.serial || probe.source_port.is_some(), probe.interval, once).await,
            )
        }
        Request::Again(again) => run_again(state, &again).await,
        Request::Close(name) => {
            drop(state.take(&name));
            Reply::Done
        }
        Request::Ping(ping) => {
            Reply::Samples(collect(ping.count, false, std::time::Duration::ZERO, || ping::sample(&ping)).await)
        }
        Request::Get(get) => Reply::Get(tcp::get(&get).await),
        Request::Load(load) => {
            let report = load::run(&load, state.token(number)).await;
            Reply::Load(report)
        }
        Request::Stop(load) => {
            state.token(load).cancel();
            Reply::Done
        }
        Request::Bulk(bulk) => Reply::Bulk(bulk::run(&bulk).await),
    }
}

async fn collect<F: Future<Output = Sample>>(
    count: u32,
    serial: bool,
    interval: std::time::Duration,
    once: impl Fn() -> F,
) -> Vec<Sample> {
    if !serial {
        return stream::iter(0..count).map(|_| once()).buffer_unordered(AT_ONCE).collect().await;
    }
    let mut samples = Vec::new();
    for number in 0..count {
        if number > 0 {
            tokio::time::sleep(interval).await;
        }
        samples.push(once().await);
    }
    samples
}

async fn run_again(state: &State, again: &Again) -> Reply {
    let sockets = state.take(&again.name);
    if sockets.is_empty() {
        return Reply::Error(format!("no sockets are held under the name {}", again.name));
    }
    let exchanges = sockets.into_iter().map(|socket| async move {
        match socket {
            Held::Tcp(mut connection) => {
                let sample = tcp::again(&mut connection, again).await;
                (sample, Held::Tcp(connection))
            }
            Held::Udp(socket) => {
                let sample = udp::again(&socket, again).await;
                (sample, Held::Udp(socket))
            }
        }
    });
    let mut samples = Vec::new();
    for (sample, socket) in futures::future::join_all(exchanges).await {
        samples.push(sample);
        state.hold(&again.name, socket);
    }
    Reply::Samples(samples)
}
