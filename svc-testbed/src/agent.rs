//! The agent's life in a lab: start it on a node, wait until it works, stop it gently or not, start it again, clean up after it.
//! Everything it touches (pins, cgroups, ports) belongs to its node, so several agents and labs do not meet.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;

use crate::{Lab, Machine, process::Process, wait};

/// The verifier takes seconds of CPU time, and several agents may start at once.
const START_PATIENCE: Duration = Duration::from_secs(300);
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Where the agent finds its objects.
#[derive(Clone, Debug)]
pub enum ObjectSource {
    Manifests(PathBuf),
    Kubeconfig(PathBuf),
}

/// How to run the agent. Everything has the default that fits the lab.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    pub binary: PathBuf,
    pub objects: ObjectSource,
    /// `all`, `host` or `off`
    pub socket_lb: String,
    /// More arguments of `svc-agent run`
    pub extra: Vec<String>,
    /// More environment of the agent
    pub environment: Vec<(String, String)>,
}

impl AgentOptions {
    /// The binary is `SVC_AGENT_BIN`, else `svc-agent` beside the running program or one directory above.
    pub fn new(manifests: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::with_binary(locate()?, manifests))
    }

    /// As [`Self::new`], for an API server instead of manifests.
    pub fn with_kubeconfig(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { objects: ObjectSource::Kubeconfig(kubeconfig.into()), ..Self::new("")? })
    }

    pub fn with_binary(binary: impl Into<PathBuf>, manifests: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            objects: ObjectSource::Manifests(manifests.into()),
            socket_lb: "all".to_owned(),
            extra: Vec::new(),
            environment: Vec::new(),
        }
    }

    pub fn socket_lb(mut self, mode: &str) -> Self {
        self.socket_lb = mode.to_owned();
        self
    }

    pub fn extra<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.extra.extend(arguments.map(str::to_owned));
        self
    }
}

/// `SVC_AGENT_BIN`, else `svc-agent` beside the running program or one directory above.
pub fn locate() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SVC_AGENT_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("cannot tell which program this is")?;
    let found =
        own.ancestors().skip(1).take(2).map(|directory| directory.join("svc-agent")).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no svc-agent program beside {}: build it (cargo build -p svc-agent) or set SVC_AGENT_BIN",
            own.display()
        )
    })
}

/// An agent on a node of a lab. Dropping it kills the process; the datapath it pinned goes with the lab.
pub struct AgentProcess {
    node: Machine,
    options: AgentOptions,
    arguments: Vec<String>,
    bpf_root: PathBuf,
    cgroup_root: PathBuf,
    cgroup: crate::cgroup::Cgroup,
    log: PathBuf,
    process: Option<Process>,
}

impl AgentProcess {
    /// Address of the agent's own servers, inside the node's namespace.
    pub const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
    pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

    /// Starts an agent on `node` and waits until it is ready.
    pub fn start(lab: &Lab, node: &str, options: AgentOptions) -> Result<Self> {
        let machine = lab.machine(node)?.clone();
        let (bpf_root, cgroup_root) = (lab.bpf_root(node), lab.cgroup_root(node));
        // The agent makes its own directory below the root; the root itself is the administrator's.
        std::fs::create_dir_all(&bpf_root).with_context(|| format!("cannot create {}", bpf_root.display()))?;
        let mut arguments = vec![format!("--node-name={node}")];
        arguments.push(match &options.objects {
            ObjectSource::Manifests(directory) => format!("--manifests={}", directory.display()),
            ObjectSource::Kubeconfig(file) => format!("--kubeconfig={}", file.display()),
        });
        arguments.push(format!("--pod-interfaces={}", lab.pod_interfaces()));
        arguments.push(format!("--uplinks={}", lab.uplinks()));
        arguments.push(format!("--cluster-cidr={}", lab.cluster_cidrs().join(",")));
        arguments.push(format!("--socket-lb={}", options.socket_lb));
        arguments.push(format!("--metrics-bind-address={}", Self::METRICS));
        arguments.push(format!("--healthz-bind-address={}", Self::HEALTH));
        arguments.push(format!("--bpf-root={}", bpf_root.display()));
        arguments.push(format!("--cgroup-root={}", cgroup_root.display()));
        arguments.extend(options.extra.iter().cloned());
        let log = lab.state_dir().join(format!("agent-{node}.log"));
        let cgroup = lab.agent_cgroup(node)?;
        let mut agent = Self { node: machine, options, arguments, bpf_root, cgroup_root, cgroup, log, process: None };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts the process again after [`AgentProcess::stop`] or [`AgentProcess::kill`] and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        let mut command = self.command("run")?;
        command.args(&self.arguments);
        self.process = Some(Process::start_logged("svc-agent", &mut command, &self.log)?);
        let (node, process) = (&self.node, self.process.as_mut().context("svc-agent was not started")?);
        let ready = wait::until("svc-agent is ready", START_PATIENCE, || {
            // One that ended will not become ready: no reason to wait for that.
            if !process.is_running() {
                return Ok(Err(anyhow!("svc-agent ended instead of becoming ready")));
            }
            match http_get(node, Self::HEALTH, "/readyz")? {
                (200, _) => Ok(Ok(())),
                (status, body) => Err(anyhow!("/readyz says {status}: {body}")),
            }
        });
        ready.and_then(|outcome| outcome).map_err(|error| anyhow!("{error:#}{}", process.last_words()))
    }

    /// SIGTERM, and an orderly end.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("svc-agent does not run")?;
        process.signal(Signal::TERM)?;
        let status = process.wait(STOP_PATIENCE)?;
        if !status.success() {
            bail!("svc-agent ended with {status} on SIGTERM{}", process.last_words());
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("svc-agent does not run")?;
        process.signal(Signal::KILL)?;
        process.wait(STOP_PATIENCE).map(drop)
    }

    /// `svc-agent cleanup`: removes what agents pinned and attached on this node.
    pub fn cleanup(&self) -> Result<String> {
        output(&mut self.query_command(&["cleanup"])?)
    }

    /// Output of another subcommand, for example `["get", "services", "-o", "json"]`.
    pub fn query(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.query_command(arguments)?)
    }

    /// A subcommand that runs on, for example `["monitor"]`; it gets `--bpf-root` appended.
    pub fn query_command(&self, arguments: &[&str]) -> Result<Command> {
        let (first, rest) = arguments.split_first().context("which subcommand?")?;
        let mut command = self.command(first)?;
        command.args(rest).arg(format!("--bpf-root={}", self.bpf_root.display()));
        Ok(command)
    }

    /// Starts a subcommand whose lines are read while it runs.
    pub fn follow(&self, arguments: &[&str]) -> Result<Process> {
        let log = self.node.log(arguments.first().copied().unwrap_or("agent"));
        Process::start(&format!("svc-agent {}", arguments.join(" ")), &mut self.query_command(arguments)?, &log)
    }

    /// Starts `svc-agent monitor` and returns once it listens.
    pub fn monitor(&self, arguments: &[&str]) -> Result<Process> {
        let mut monitor = self.follow(&[&["monitor"], arguments].concat())?;
        wait::until("svc-agent monitor listens", START_PATIENCE, || {
            if monitor.log().contains("listening") {
                return Ok(Ok(()));
            }
            ensure!(!monitor.is_running(), "it has not said so yet");
            Ok(Err(anyhow!("svc-agent monitor ended{}", monitor.last_words())))
        })??;
        Ok(monitor)
    }

    /// Body of a page of the metrics server.
    pub fn metrics(&self) -> Result<String> {
        match http_get(&self.node, Self::METRICS, "/metrics")? {
            (200, body) => Ok(body),
            (status, body) => bail!("/metrics says {status}: {body}"),
        }
    }

    pub fn node(&self) -> &Machine {
        &self.node
    }

    pub fn bpf_root(&self) -> &Path {
        &self.bpf_root
    }

    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// False after [`AgentProcess::stop`] and when it ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lets the agent go on without us.
    pub fn leave(mut self) {
        if let Some(process) = self.process.take() {
            process.leave();
        }
    }

    fn command(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new(&self.options.binary);
        command.arg(subcommand).envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        self.node.namespace().place(&mut command);
        self.cgroup.place(&mut command)?;
        Ok(command)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A plain GET inside the machine's namespace: status and body.
fn http_get(machine: &Machine, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    machine.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        let response = String::from_utf8_lossy(&response);
        let (head, body) = response.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
        Ok((status, body.to_owned()))
    })?
}
