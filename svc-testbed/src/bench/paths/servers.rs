//! What runs in every server pod: nginx, iperf3 and the benchmark's own server.

use std::{fs, net::TcpStream, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Offer;
use crate::{Machine, process::Process, wait};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Servers {
    _nginx: Process,
    _iperf: Process,
    _echo: Process,
}

/// One worker that never closes a connection by itself and writes nothing to a disk.
fn nginx_configuration(machine: &Machine, directory: &std::path::Path) -> String {
    let (address, port, directory) = (machine.ipv4(), Offer::Http.pod_port(), directory.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {directory}/{kind};"))
        .join(" ");
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log stderr; worker_rlimit_nofile 65536;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600; tcp_nodelay on; {temporary}\n\
         server {{ listen {address}:{port} backlog=4096 reuseport; location / {{ return 200 'ok'; }} }} }}\n"
    )
}

impl Servers {
    pub fn start(machine: &Machine, directory: &std::path::Path) -> Result<Self> {
        let directory = directory.join(format!("nginx-{}", machine.name()));
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(machine, &directory))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let mut nginx = machine.command("nginx")?;
        nginx.arg("-c").arg(&configuration).arg("-p").arg(&directory).args(["-e", "stderr"]);
        let mut iperf = machine.command("iperf3")?;
        iperf.args(["-s", "-p", &Offer::Iperf.pod_port().to_string()]);
        let address = machine.ipv4().to_string();
        let port = Offer::Echo.pod_port().to_string();
        let mut echo = machine.helper(&["probe", "serve", "--address", &address, "--port", &port])?;
        let servers = Self {
            _nginx: Process::start_logged("nginx", &mut nginx, &machine.log("nginx"))?,
            _iperf: Process::start_logged("iperf3", &mut iperf, &machine.log("iperf3"))?,
            _echo: Process::start_logged("svc-testbed probe", &mut echo, &machine.log("probe"))?,
        };
        for offer in Offer::ALL {
            let address = (machine.ipv4(), offer.pod_port()).into();
            wait::until("the server answers", PATIENCE, || {
                let connected = machine.run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
                ensure!(connected.is_ok(), "nothing listens at {address} on {}", machine.name());
                Ok(())
            })?;
        }
        Ok(servers)
    }
}
