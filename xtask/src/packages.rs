//! Programs the tests and the build run, and the Debian packages they come from. Installs only what is missing, only as
//! root, only where there is apt-get.

use anyhow::{Context, Result, bail};

use crate::process;

/// (program, Debian package) that the lab and its traffic use.
pub const LAB: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("curl", "curl"),
    ("nslookup", "bind9-dnsutils"),
    ("wrk", "wrk"),
    ("nft", "nftables"),
];

/// What the benchmark compares with, and loads the machine with.
pub const BENCH: &[(&str, &str)] =
    &[("nginx", "nginx-light"), ("iperf3", "iperf3"), ("nft", "nftables"), ("iptables-restore", "iptables")];

/// Makes sure that every program is on PATH.
pub fn ensure(needed: &[(&str, &'static str)]) -> Result<()> {
    let missing = missing(needed);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() || process::find_on_path("apt-get").is_none() {
        bail!("missing programs; Debian packages: {list}. Install them, or run this as root on Debian or Ubuntu");
    }
    println!("installing {list}");
    let install = || {
        let mut apt = process::command("apt-get");
        apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&missing);
        process::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // A fresh machine has no package lists yet; one that has them needs no network for this.
    if install().is_err() {
        process::run(process::command("apt-get").args(["update", "--quiet"]))?;
        install().with_context(|| format!("cannot install {list}"))?;
    }
    Ok(())
}

fn missing(needed: &[(&str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needed
        .iter()
        .filter(|(program, _)| process::find_on_path(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_named_once() {
        assert_eq!(missing(&[("sh", "dash"), ("no-such-a", "x"), ("no-such-b", "x")]), ["x"]);
    }
}
