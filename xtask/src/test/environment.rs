//! What the privileged stages need of the machine: root, programs, a bpffs. Sets up what it can.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{packages, process};

const BPF_ROOT: &str = "/sys/fs/bpf";

/// Ok if privileged stages can run; else the reason to skip them.
pub fn prepare() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    packages::ensure(packages::LAB)?;
    mount_bpffs()
}

/// Root without bpffs is common in containers and minimal systems; mounting one changes nothing else.
fn mount_bpffs() -> Result<()> {
    if mounted_bpffs()? {
        return Ok(());
    }
    process::run(process::command("mount").args(["-t", "bpf", "bpf", BPF_ROOT]))
        .with_context(|| format!("cannot mount a bpffs at {BPF_ROOT}"))
}

fn mounted_bpffs() -> Result<bool> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok(mounts.lines().any(|mount| {
        let mut fields = mount.split(' ').skip(1);
        fields.next() == Some(BPF_ROOT) && fields.next() == Some("bpf")
    }))
}
