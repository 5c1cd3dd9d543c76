//! A node, a pod or the outside client: a namespace, a cgroup and addresses, and the ways to run something there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};

use super::{id::LabId, spec::Family};
use crate::{cgroup::Cgroup, client::Client, netns::Namespace, process::Process, resolver, serve::handle};

/// The helper program: servers and clients run in it, one process each.
#[derive(Clone, Debug)]
pub struct Helper(PathBuf);

impl Helper {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `SVC_TESTBED_BIN`, else the program `svc-testbed` beside the running one or in the directory above (test programs
    /// are one directory deeper).
    pub fn locate() -> Result<Self> {
        if let Some(path) = std::env::var_os("SVC_TESTBED_BIN") {
            return Ok(Self(path.into()));
        }
        let own = std::env::current_exe().context("cannot tell which program this is")?;
        let found = own.ancestors().skip(1).take(2).map(|directory| directory.join("svc-testbed"));
        match found.into_iter().find(|path| path.is_file()) {
            Some(path) => Ok(Self(path)),
            None => bail!(
                "no svc-testbed program beside {}: build it (cargo build -p svc-testbed) or set SVC_TESTBED_BIN",
                own.display()
            ),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// What all machines of a lab share.
#[derive(Debug)]
pub(super) struct Shared {
    pub id: LabId,
    pub helper: Helper,
    pub logs: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Node,
    Pod,
    Outside,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) shared: Arc<Shared>,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) node: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
    pub(super) namespace: Namespace,
    pub(super) cgroup: Cgroup,
}

impl Machine {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The node this pod runs on; for a node itself.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The node's end of this pod's interface pair.
    pub fn host_interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    pub fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4.into(),
            Family::V6 => self.ipv6.into(),
        }
    }

    pub fn address(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Runs `work` on a thread in this machine's network namespace. The thread stays in our own cgroup: sockets whose
    /// connections must be translated at the socket belong into a process, see [`Machine::client`] and [`Machine::command`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// A command that runs in this machine's namespace and cgroup and, if the lab gave the machine one, with its resolv.conf.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        self.place(&mut command)?;
        // A pod knows nothing of the proxy that the machine around it may use.
        for variable in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(variable).env_remove(variable.to_uppercase());
        }
        Ok(command)
    }

    pub fn place(&self, command: &mut Command) -> Result<()> {
        self.cgroup.place(command)?;
        self.namespace.place(command);
        let resolv_conf = self.resolv_conf();
        if resolv_conf.exists() {
            resolver::place(command, &resolv_conf)?;
        }
        Ok(())
    }

    /// Gives the machine's programs a resolv.conf as the kubelet writes it: name server, search list of `namespace`, ndots 5.
    pub fn use_dns(&self, server: IpAddr, namespace: &str) -> Result<()> {
        let path = self.resolv_conf();
        std::fs::write(&path, resolver::pod_resolv_conf(server, namespace))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts a client process here. Its probes are requests and answers; the process and its sockets live as long as the value.
    pub fn client(&self) -> Result<Client> {
        let mut command = self.helper(&["client"])?;
        Client::start(Process::start(&format!("client on {}", self.name), &mut command, &self.log("client"))?)
    }

    /// Starts a server process here and returns once it listens on all its ports.
    pub fn serve(&self, ports: &handle::Ports) -> Result<handle::Server> {
        let addresses = [IpAddr::from(self.ipv4), IpAddr::from(self.ipv6)];
        let arguments = ports.arguments(&self.name, &addresses);
        let mut command = self.helper(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        let process = Process::start(&format!("server on {}", self.name), &mut command, &self.log("server"))?;
        handle::Server::start(process)
    }

    /// Starts a DNS server here that answers from the Services and EndpointSlices in `manifests`.
    pub fn serve_dns(&self, manifests: &Path) -> Result<handle::Server> {
        let mut command = self.helper(&["dns", "--manifests"])?;
        command.arg(manifests);
        for address in [IpAddr::from(self.ipv4), IpAddr::from(self.ipv6)] {
            command.args(["--address", &address.to_string()]);
        }
        let process = Process::start(&format!("DNS server on {}", self.name), &mut command, &self.log("dns"))?;
        handle::Server::start(process)
    }

    /// The helper program as a command on this machine.
    pub fn helper(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(self.shared.helper.path())?;
        command.args(arguments);
        Ok(command)
    }

    pub(crate) fn log(&self, what: &str) -> PathBuf {
        let number = self.shared.logs.fetch_add(1, Ordering::Relaxed);
        self.shared.id.state_dir().join(format!("{number:03}-{}-{what}.log", self.name))
    }

    fn resolv_conf(&self) -> PathBuf {
        self.shared.id.resolv_conf(&self.name)
    }
}
