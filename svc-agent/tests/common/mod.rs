//! A private network namespace, BPF file system and cgroup for each test. All of it vanishes with the test's thread,
//! the cgroup when its guard is dropped. Needs root.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support, used in parts")]

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, LinkInfo, PinnedLink};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;
use svc_agent::datapath::{
    AttachMode, Capacities, DEFAULT_POD_INTERFACES, Forwarding, Loaded, Options, PinDir, PinLock, Selection, SocketLb,
    Uplinks, Xdp,
};
use svc_agent::datapath::{Follower, StartError};

pub struct Lab {
    pub netlink: Handle,
    pub bpf_root: PathBuf,
    pub cgroup: Cgroup,
    directory: tempfile::TempDir,
}

/// Runs a test in namespaces of its own.
pub fn lab<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: a fresh thread that shares no file system state with others once this returns.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.expect("tests need root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let bpf = directory.path().join("bpf");
        fs::create_dir(&bpf).unwrap();
        mount("bpf", &bpf, "bpf", MountFlags::empty(), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            // Below the mount: a fresh one has files of the kernel's own.
            let bpf_root = directory.path().join("bpf/root");
            fs::create_dir(&bpf_root).unwrap();
            fs::create_dir(directory.path().join("manifests")).unwrap();
            let lab = Lab { netlink, bpf_root, cgroup: Cgroup::new(), directory };
            test(lab).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A child cgroup without processes, removed on drop.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("no cgroup2 mounted");
        let root = Path::new(root.split(' ').nth(1).unwrap());
        let name = format!("svc-agent-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(root.join(&name)).unwrap();
        Self(root.join(name))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Lab {
    pub fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// Writes a Service with one endpoint, both named after `name`.
    pub fn write_service(&self, name: &str, cluster_ip: &str) {
        let objects = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{clusterIP: {cluster_ip}, clusterIPs: [{cluster_ip}], ports: [{{port: 80, protocol: TCP}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             ports: [{{name: '', port: 8080, protocol: TCP}}]\n\
             endpoints: [{{addresses: [10.244.0.5], conditions: {{ready: true}}}}]\n"
        );
        fs::write(self.manifests().join(format!("{name}.yaml")), objects).unwrap();
    }

    pub fn pins(&self) -> PinDir {
        PinDir::new(&self.bpf_root)
    }

    /// Small maps, default interfaces, hooks in the private cgroup.
    pub fn options(&self) -> Options {
        Options {
            bpf_root: self.bpf_root.clone(),
            cgroup_root: Some(self.cgroup.0.clone()),
            socket_lb: SocketLb::All,
            forwarding: Forwarding::Stack,
            xdp: Xdp::Off,
            selection: Selection {
                pods: DEFAULT_POD_INTERFACES.iter().map(|pattern| pattern.parse().unwrap()).collect(),
                uplinks: Uplinks::DefaultRoute,
            },
            cluster_ranges: Some(Vec::new()),
            capacities: Capacities { flows: Some(1024) },
            trace_packets: false,
            attach_mode: Some(AttachMode::Tcx),
        }
    }

    pub async fn add_veth(&self, name: &str, peer: &str) -> u32 {
        self.netlink.link().add(LinkVeth::new(name, peer).build()).execute().await.unwrap();
        let index = self.index(name).await;
        self.netlink.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
        index
    }

    pub async fn delete(&self, index: u32) {
        self.netlink.link().del(index).execute().await.unwrap();
    }

    pub async fn index(&self, name: &str) -> u32 {
        let mut links = std::pin::pin!(self.netlink.link().get().match_name(name.to_owned()).execute());
        links.try_next().await.unwrap().unwrap().header.index
    }

    pub async fn names(&self) -> BTreeMap<u32, String> {
        let links: Vec<_> = self.netlink.link().get().execute().try_collect().await.unwrap();
        links
            .into_iter()
            .map(|link| {
                let name = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
                (link.header.index, name.unwrap())
            })
            .collect()
    }

    /// File names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        names_in(&self.pins().links())
    }

    /// Links by name: link and program identifiers.
    pub fn link_ids(&self) -> BTreeMap<String, (u32, u32)> {
        let directory = self.pins().links();
        let ids = |name: &String| {
            let info = link_info(&directory.join(name));
            (info.id(), info.program_id())
        };
        self.links().iter().map(|name| (name.clone(), ids(name))).collect()
    }

    pub fn map_ids(&self) -> BTreeMap<String, u32> {
        let directory = self.pins().maps();
        let id = |name: &String| aya::maps::MapInfo::from_pin(directory.join(name)).unwrap().id();
        names_in(&directory).iter().map(|name| (name.clone(), id(name))).collect()
    }
}

pub fn link_info(path: &Path) -> LinkInfo {
    FdLink::from(PinnedLink::from_pin(path).unwrap()).info().unwrap()
}

pub fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The agent's own program, started from the test's namespaces. Killed when dropped.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

/// CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF: what the manifests in deploy/ grant.
pub const GRANTED: [u32; 3] = [12, 38, 39];

impl Agent {
    /// Starts `svc-agent run` with the manifests in the lab's directory and waits until it is ready.
    pub async fn start(lab: &Lab, flags: &[&str]) -> Self {
        let mut agent = Self::spawn(lab, flags, None);
        let deadline = Instant::now() + Duration::from_secs(120);
        while !agent.log().contains(" ready") {
            assert!(agent.child.try_wait().unwrap().is_none(), "svc-agent ended:\n{}", agent.log());
            assert!(Instant::now() < deadline, "svc-agent is not ready:\n{}", agent.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        agent
    }

    /// With `capabilities` the agent has no others.
    pub fn spawn(lab: &Lab, flags: &[&str], capabilities: Option<&'static [u32]>) -> Self {
        let log = lab.directory.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_svc-agent"));
        command.args(["run", "--node-name=node", "--flow-table-size=1024", "--metrics-bind-address=off"]);
        command.args(["--healthz-bind-address=127.0.0.1:10256", "--log-format=text"]);
        command.arg("--bpf-root").arg(&lab.bpf_root).arg("--cgroup-root").arg(&lab.cgroup.0);
        command.arg("--manifests").arg(lab.manifests());
        command.args(flags).stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        if let Some(kept) = capabilities {
            let restrict = move || {
                let drop = |capability| libc_drop(capability);
                (0..=40).filter(|capability| !kept.contains(capability)).try_for_each(drop)
            };
            // SAFETY: only prctl(2) between fork and exec.
            unsafe { command.pre_exec(restrict) };
        }
        Self { child: command.spawn().unwrap(), log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap()
    }

    pub fn wait(mut self) -> (ExitStatus, String) {
        (self.child.wait().unwrap(), self.log())
    }
}

fn libc_drop(capability: u32) -> std::io::Result<()> {
    // SAFETY: no pointers involved.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Output of `svc-agent get services -o json`.
pub fn services(lab: &Lab) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svc-agent"));
    let output = command.args(["get", "services", "-o", "json", "--bpf-root"]).arg(&lab.bpf_root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Loads and attaches; the features written are returned.
pub async fn start(options: Options) -> Result<(Follower, PinLock, Vec<u32>), StartError> {
    let mut written = Vec::new();
    let (follower, lock) = Loaded::load(options)?
        .attach(|features| {
            written.push(features);
            Ok::<_, std::convert::Infallible>(())
        })
        .await?;
    Ok((follower, lock, written))
}

/// Waits until the kernel shows what is expected; fails with the last difference.
pub async fn eventually<T: PartialEq + std::fmt::Debug>(expected: T, mut look: impl AsyncFnMut() -> T) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = look().await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, still {found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
