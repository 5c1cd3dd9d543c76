//! The lab's side of a server process: what to serve, and asking it what it has seen.

use std::{io::Write as _, net::IpAddr, process::ChildStdin, time::Duration};

use anyhow::{Context, Result, bail};

use super::answer::Seen;
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(10);

/// Ports of a server, to be given to [`crate::Machine::serve`].
#[derive(Clone, Debug, Default)]
pub struct Ports {
    tcp: Vec<u16>,
    udp: Vec<u16>,
    stream: Vec<u16>,
    welcome: Option<String>,
}

impl Ports {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn tcp<const N: usize>(mut self, ports: [u16; N]) -> Self {
        self.tcp.extend(ports);
        self
    }

    pub fn udp<const N: usize>(mut self, ports: [u16; N]) -> Self {
        self.udp.extend(ports);
        self
    }

    /// Ports for [`crate::Bulk`].
    pub fn stream<const N: usize>(mut self, ports: [u16; N]) -> Self {
        self.stream.extend(ports);
        self
    }

    /// A page of its own for `GET /`.
    pub fn welcome(mut self, line: &str) -> Self {
        self.welcome = Some(line.to_owned());
        self
    }

    pub(crate) fn arguments(&self, name: &str, addresses: &[IpAddr]) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned(), format!("--name={name}")];
        arguments.extend(addresses.iter().map(|address| format!("--address={address}")));
        for (option, ports) in [("tcp", &self.tcp), ("udp", &self.udp), ("stream", &self.stream)] {
            arguments.extend(ports.iter().map(|port| format!("--{option}={port}")));
        }
        arguments.extend(self.welcome.iter().map(|line| format!("--welcome={line}")));
        arguments
    }
}

/// A running server; ends when dropped.
pub struct Server {
    process: Process,
    requests: ChildStdin,
}

impl Server {
    pub(crate) fn start(mut process: Process) -> Result<Self> {
        let requests = process.take_stdin().context("no stdin")?;
        match process.next_line(PATIENCE)?.as_str() {
            "\"ready\"" => Ok(Self { process, requests }),
            other => bail!("the server said {other} instead of being ready"),
        }
    }

    /// Connections, requests and datagrams so far, and the last of them.
    pub fn seen(&mut self) -> Result<Seen> {
        self.requests.write_all(b"\n").context("the server is gone")?;
        let line = self.process.next_line(PATIENCE)?;
        serde_json::from_str(&line).with_context(|| format!("the server reported {line}"))
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Lets the server go on without us.
    pub fn leave(self) {
        std::mem::forget(self.requests);
        self.process.leave();
    }
}
