//! resolv.conf for the programs of a pod: a private mount namespace in which the file of the pod lies over the machine's.

use std::{
    ffi::CString,
    fs, io,
    net::IpAddr,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use rustix::{
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::UnshareFlags,
};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the kubelet writes for a pod with the default DNS policy.
pub fn pod_resolv_conf(server: IpAddr, namespace: &str) -> String {
    format!(
        "nameserver {server}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )
}

pub(crate) fn place(command: &mut Command, file: &Path) -> Result<()> {
    let target = fs::canonicalize(RESOLV_CONF).with_context(|| format!("{RESOLV_CONF} is missing on this machine"))?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    let file = CString::new(file.as_os_str().as_bytes())?;
    let mount = move || -> io::Result<()> {
        // SAFETY: the child has one thread and its own descriptor table; only its mount namespace changes.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
        let private = MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM;
        mount_change(c"/", private)?;
        mount_bind(file.as_c_str(), target.as_c_str())?;
        Ok(())
    };
    // SAFETY: the closure makes system calls with ready-made strings and allocates nothing, as is required between fork and
    // exec.
    unsafe { command.pre_exec(mount) };
    Ok(())
}
