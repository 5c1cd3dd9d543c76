//! What happens in the demo, step by step, each step with the check that makes it true or ends the demo.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    DemoArgs,
    cluster::{Cluster, NODE},
    transcript::Transcript,
};
use crate::{
    AgentOptions, AgentProcess, Client, Outcome, Tcp,
    client::{by_pod, expect_all},
    process::Process,
    wait,
};

/// Enough fetches that three pods answering by chance are practically never one.
const FETCHES: usize = 12;
/// Probes that would practically always meet a pod that still gets connections.
const PROBES: u32 = 40;
const PATIENCE: Duration = Duration::from_secs(10);
const CURL: &[&str] = &["curl", "-sS", "-m", "5", "nginx-service"];
/// The ports of kube-dns as the monitor names them.
const DNS_UDP: &str = "kube-system/kube-dns:dns ";
const DNS_TCP: &str = "kube-system/kube-dns:dns-tcp ";
const AT_ONCE: Duration = Duration::from_secs(1);
/// Exit code of curl when it could not connect.
const CURL_COULD_NOT_CONNECT: i32 = 7;

struct Story<'a> {
    cluster: &'a mut Cluster,
    transcript: &'a mut Transcript,
    monitor: Process,
    client: Client,
    path: &'static str,
}

struct Ran {
    status: Option<i32>,
    text: String,
    elapsed: Duration,
}

pub(super) fn tell(cluster: &mut Cluster, transcript: &mut Transcript, args: &DemoArgs) -> Result<AgentProcess> {
    introduce(cluster, transcript)?;
    let mode = if args.tc_only { "off" } else { "all" };
    let options = AgentOptions::with_binary(&args.agent, cluster.manifests.directory()).socket_lb(mode);
    transcript.heading("The agent starts on the node");
    transcript.say(&format!(
        "node$ svc-agent run --manifests {} --socket-lb={mode} ...",
        cluster.manifests.directory().display()
    ));
    let agent = AgentProcess::start(&cluster.lab, NODE, options)?;
    let monitor = agent.monitor(&[])?;
    let client = cluster.client()?.client()?;
    let path = if args.tc_only { "tc" } else { "socket" };
    let mut story = Story { cluster, transcript, monitor, client, path };
    story.wait_for(&Cluster::WEB_PODS)?;
    story.transcript.say("It is ready: its maps hold the Services above, its programs are attached.");
    story.look_up()?;
    story.fetch()?;
    story.remove_one()?;
    story.scale_to_zero()?;
    story.scale_back()?;
    story.transcript.heading("What the agent knows");
    let listing = agent.query(&["get", "services"])?;
    story.transcript.say("node$ svc-agent get services");
    story.transcript.output(&listing);
    Ok(agent)
}

fn introduce(cluster: &Cluster, transcript: &mut Transcript) -> Result<()> {
    transcript.heading("A node with three nginx pods, DNS and a client");
    let mut pods: Vec<_> = cluster.lab.pods_of(NODE).map(|pod| (pod.ip(cluster.family), pod.name())).collect();
    pods.sort();
    for (address, name) in pods {
        transcript.say(&format!("  pod      {name:<24} {address}"));
    }
    let web = cluster.web_address();
    transcript.say(&format!("  service  {:<24} {web} port 80 → port \"http\" of the nginx pods", "nginx-service"));
    transcript.say(&format!("  service  {:<24} headless: DNS gives the pods' own addresses", "nginx-headless-service"));
    transcript.say(&format!("  service  {:<24} {} port 53, UDP and TCP", "kube-dns", cluster.dns_address()));
    transcript.say("No kube-proxy, no iptables, no nftables: nothing but the agent knows what a service address is.");
    Ok(())
}

impl Story<'_> {
    fn look_up(&mut self) -> Result<()> {
        self.transcript.heading("A service name is looked up; DNS itself is reached through its ClusterIP");
        let resolv_conf = self.run(&["cat", "/etc/resolv.conf"])?;
        ensure!(resolv_conf.text.contains(&self.cluster.dns_address().to_string()), "resolv.conf names another server");
        let (web, pods) = (self.cluster.web_address(), self.pod_addresses(&Cluster::WEB_PODS)?);
        for (options, name, port, expected) in [
            ([].as_slice(), "nginx-service", DNS_UDP, BTreeSet::from([web.to_string()])),
            (&[], "nginx-headless-service", DNS_UDP, pods),
            (&["-vc"], "nginx-service", DNS_TCP, BTreeSet::from([web.to_string()])),
        ] {
            let answer = self.nslookup(options, name)?;
            self.show_monitor(port)?;
            ensure!(answer == expected, "{name} should be {expected:?}, but nslookup found {answer:?}");
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<()> {
        self.transcript.heading("The page is fetched through the ClusterIP: each connection goes to one of the pods");
        let answered = self.curl_loop()?;
        ensure!(answered.len() > 1, "{FETCHES} connections all went to {answered:?}: they should spread over the pods");
        Ok(())
    }

    fn remove_one(&mut self) -> Result<()> {
        let gone = "nginx-3";
        self.transcript.heading("One pod is removed");
        self.cluster.scale(&["nginx-1", "nginx-2"])?;
        self.wait_for(&["nginx-1", "nginx-2"])?;
        self.cluster.remove_pod(gone)?;
        self.transcript.say(&format!("{gone} is gone; new connections go to the two that are left, and none fails:"));
        let answered = self.curl_loop()?;
        ensure!(
            !answered.iter().any(|page| page.contains(gone)),
            "{gone} was removed, but a connection still went there"
        );
        let left = self.pod_addresses(&["nginx-1", "nginx-2"])?;
        let answer = self.nslookup(&[], "nginx-headless-service")?;
        self.show_monitor(DNS_UDP)?;
        ensure!(answer == left, "nginx-headless-service should be {left:?}, but nslookup found {answer:?}");
        Ok(())
    }

    fn scale_to_zero(&mut self) -> Result<()> {
        self.transcript.heading("The service is scaled to zero: clients are told at once");
        self.cluster.scale(&[])?;
        let service = SocketAddr::new(self.cluster.web_address(), 80);
        wait::until("connections are refused", PATIENCE, || {
            expect_all(&self.client.tcp(Tcp::to(service))?, Outcome::Refused)
        })?;
        self.drain_monitor();
        let ran = self.run(CURL)?;
        self.show_monitor("nginx-service")?;
        ensure!(
            ran.status == Some(CURL_COULD_NOT_CONNECT) && ran.elapsed < AT_ONCE,
            "the connection should be refused at once; curl ended with {:?} after {:?}",
            ran.status,
            ran.elapsed
        );
        self.transcript.say(&format!("refused after {} ms, not timed out", ran.elapsed.as_millis()));
        Ok(())
    }

    fn scale_back(&mut self) -> Result<()> {
        self.transcript.heading("The service is scaled back to three");
        self.cluster.restore_pod("nginx-3")?;
        self.cluster.scale(&Cluster::WEB_PODS)?;
        self.wait_for(&Cluster::WEB_PODS)?;
        let answered = self.curl_loop()?;
        ensure!(answered.len() > 1, "{FETCHES} connections all went to {answered:?}: they should spread over the pods");
        Ok(())
    }

    /// Waits until exactly these pods get connections.
    fn wait_for(&mut self, pods: &[&str]) -> Result<()> {
        let service = SocketAddr::new(self.cluster.web_address(), 80);
        let expected: BTreeSet<&str> = pods.iter().copied().collect();
        wait::until(&format!("connections go to {pods:?} and nobody else"), PATIENCE, || {
            let samples = self.client.tcp(Tcp::to(service).count(PROBES))?;
            expect_all(&samples, Outcome::Ok)?;
            let answered = by_pod(&samples);
            ensure!(
                answered.keys().map(String::as_str).collect::<BTreeSet<_>>() == expected,
                "they go to {answered:?}"
            );
            Ok(())
        })?;
        self.drain_monitor();
        Ok(())
    }

    /// `curl nginx-service` several times; the pages that came.
    fn curl_loop(&mut self) -> Result<BTreeSet<String>> {
        self.transcript.command(&format!("for i in $(seq {FETCHES}); do {}; done", CURL.join(" ")));
        let mut pages = BTreeSet::new();
        for _ in 0..FETCHES {
            let ran = self.execute(CURL)?;
            let page = ran.text.trim().to_owned();
            if ran.status != Some(0) {
                bail!("curl nginx-service ended with {:?}: {page}", ran.status);
            }
            let (_, address) =
                page.trim_end_matches(')').rsplit_once('(').context("this page comes from another server")?;
            // The monitor has to agree with the pod about who answered.
            let line = self.monitor_lines("nginx-service", address)?.pop().unwrap_or_default();
            self.transcript.beside(&page, &line);
            pages.insert(page);
        }
        Ok(pages)
    }

    /// The addresses `nslookup` finds for a name.
    fn nslookup(&mut self, options: &[&str], name: &str) -> Result<BTreeSet<String>> {
        self.drain_monitor();
        let ran = self.run(&[&["nslookup"], options, &[name]].concat())?;
        ensure!(ran.status == Some(0), "nslookup {name} ended with {:?}", ran.status);
        let (_, answer) = ran.text.split_once("\n\n").context("nslookup printed no answer")?;
        Ok(answer.lines().filter_map(|line| line.strip_prefix("Address:")).map(|line| line.trim().to_owned()).collect())
    }

    fn pod_addresses(&self, pods: &[&str]) -> Result<BTreeSet<String>> {
        pods.iter().map(|pod| Ok(self.cluster.pod_address(pod)?.to_string())).collect()
    }

    /// Runs a command in the client pod and shows it with what it printed.
    fn run(&mut self, line: &[&str]) -> Result<Ran> {
        self.transcript.command(&line.join(" "));
        let ran = self.execute(line)?;
        self.transcript.output(&ran.text);
        Ok(ran)
    }

    fn execute(&self, line: &[&str]) -> Result<Ran> {
        let (program, arguments) = line.split_first().context("an empty command")?;
        let mut command = self.program(program, arguments)?;
        let start = Instant::now();
        let output = command.output().with_context(|| format!("cannot run {program}"))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Ran { status: output.status.code(), text, elapsed: start.elapsed() })
    }

    /// The machine's own tool, or the lab's stand-in where it is not installed.
    fn program(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let pod = self.cluster.client()?;
        let installed = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|directory| directory.join(program).is_file());
        if installed {
            let mut command = pod.command(program)?;
            command.args(arguments);
            return Ok(command);
        }
        let name = arguments.last().copied().unwrap_or_default();
        match program {
            "nslookup" if arguments.contains(&"-vc") => pod.helper(&["lookup", "--tcp", name]),
            "nslookup" => pod.helper(&["lookup", name]),
            "curl" => pod.helper(&["get", name]),
            _ => bail!("{program} is not installed"),
        }
    }

    fn drain_monitor(&mut self) {
        while self.monitor.next_line(Duration::from_millis(50)).is_ok() {}
    }

    fn show_monitor(&mut self, service: &str) -> Result<()> {
        let lines = self.monitor_lines(service, "")?;
        self.transcript.monitor(&lines);
        Ok(())
    }

    /// Waits until the monitor has spoken of this service and, if that matters, of this backend, and checks that it was translated where it should be.
    fn monitor_lines(&mut self, service: &str, backend: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while lines.is_empty() {
            let said = self.monitor.next_line(PATIENCE);
            lines.push(said.with_context(|| format!("the monitor shows no connection to {service} {backend}"))?);
            lines.extend(self.monitor.ready_lines());
            lines.retain(|line| line.contains(service) && line.contains(backend));
        }
        // Datagrams are translated one by one in any case.
        let path = if service == DNS_UDP { "tc" } else { self.path };
        match lines.iter().find(|line| !line.ends_with(path)) {
            None => Ok(lines),
            Some(line) => bail!("this should have been translated at \"{path}\": {line}"),
        }
    }
}
