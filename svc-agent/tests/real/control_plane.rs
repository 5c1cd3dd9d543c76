//! etcd and kube-apiserver from the folder KUBEBUILDER_ASSETS (as envtest lays it out), on loopback, with data in a temporary
//! directory. They end, and their data goes, with the value. No controllers, no nodes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use svc_agent::source::{ApiRequests, kubernetes};
use tempfile::TempDir;

const TOKEN: &str = "for-the-tests-of-svc-agent-only";
const PATIENCE: Duration = Duration::from_secs(120);

pub struct ControlPlane {
    directory: TempDir,
    programs: Vec<Child>,
}

impl ControlPlane {
    pub async fn start(assets: &Path) -> Self {
        let mut this = Self { directory: tempfile::tempdir().unwrap(), programs: Vec::new() };
        let [client, peer, api] = free_ports();
        let (etcd, peers) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        this.run(
            &assets.join("etcd"),
            &[
                format!("--data-dir={}", this.path("etcd").display()),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=default={peers}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        );
        let key = this.path("service-account.key");
        let openssl = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output();
        assert!(openssl.unwrap().status.success(), "openssl cannot make a key");
        std::fs::write(this.path("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        this.run(
            &assets.join("kube-apiserver"),
            &[
                format!("--etcd-servers={etcd}"),
                format!("--cert-dir={}", this.path("certificates").display()),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                format!("--secure-port={api}"),
                "--authorization-mode=RBAC".to_owned(),
                format!("--token-auth-file={}", this.path("tokens.csv").display()),
                format!("--service-account-issuer=https://127.0.0.1:{api}/"),
                format!("--service-account-key-file={}", key.display()),
                format!("--service-account-signing-key-file={}", key.display()),
                "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
            ],
        );
        // Its certificate signs itself.
        let cluster = json!({"server": format!("https://127.0.0.1:{api}"), "insecure-skip-tls-verify": true});
        let content = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(this.kubeconfig(), content.to_string()).unwrap();
        this.wait().await;
        this
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&mut self, program: &Path, arguments: &[String]) {
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        self.programs.push(child);
    }

    async fn wait(&mut self) {
        let client = kubernetes::connect(Some(&self.kubeconfig()), &ApiRequests::default()).await.unwrap();
        let begin = Instant::now();
        while let Err(error) = client.request_text(http::Request::get("/readyz").body(Vec::new()).unwrap()).await {
            let ended = self.programs.iter_mut().any(|program| program.try_wait().unwrap().is_some());
            if ended || begin.elapsed() > PATIENCE {
                let log = |name| std::fs::read_to_string(self.path(name)).unwrap_or_default();
                panic!(
                    "no API server: {error}\netcd:\n{}\nkube-apiserver:\n{}",
                    log("etcd.log"),
                    log("kube-apiserver.log")
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The API server first: without etcd it would complain until it ends.
        for program in self.programs.iter_mut().rev() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// All held at once, so that they differ. Free until somebody else takes them.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
