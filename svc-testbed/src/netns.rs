//! One network namespace, held by an open handle and by a name in /run/netns (so that `ip netns` shows it).
//! Entering is always setns on a thread of its own or in a child before exec: `ip netns exec` would remount /sys and hide
//! bpffs. Knows nothing of links and addresses: that is `lab/`.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    mount::UnmountFlags,
    thread::{LinkNameSpaceType, UnshareFlags},
};

const NETNS_DIR: &str = "/run/netns";

#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    handle: Arc<OwnedFd>,
}

impl Namespace {
    /// Makes a new namespace with nothing but its loopback in it, and names it.
    pub fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(NETNS_DIR).with_context(|| format!("cannot create {NETNS_DIR}"))?;
        let path = Self::path_of(name);
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let mounted = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<()> {
                    // SAFETY: the thread is new, shares no descriptor table, and only its own network namespace changes.
                    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                        .context("unshare(CLONE_NEWNET) failed; the lab needs root")?;
                    let own = format!("/proc/self/task/{}/ns/net", rustix::thread::gettid().as_raw_nonzero());
                    rustix::mount::mount_bind(own, &path)
                        .with_context(|| format!("cannot bind the namespace to {}", path.display()))
                })
                .join()
                .map_err(|_| anyhow!("the thread that makes namespace {name} panicked"))?
        });
        if let Err(error) = mounted {
            Self::delete(name);
            return Err(error);
        }
        Self::open(name)
    }

    pub fn open(name: &str) -> Result<Self> {
        let path = Self::path_of(name);
        let file = File::open(&path).with_context(|| format!("no network namespace {}", path.display()))?;
        Ok(Self { name: name.to_owned(), handle: Arc::new(file.into()) })
    }

    /// Takes the name away. The namespace itself ends with its last process, socket and handle.
    pub fn delete(name: &str) {
        let path = Self::path_of(name);
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH);
        let _ = fs::remove_file(&path);
    }

    /// Names of all namespaces that begin with `prefix`.
    pub fn list(prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        Self::path_of(&self.name)
    }

    fn path_of(name: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(name)
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in the namespace and can be used anywhere
    /// afterwards, for example with `tokio::net::UdpSocket::from_std`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| enter(&self.handle).map(|()| work()));
            match inside.join() {
                Ok(entered) => entered.with_context(|| format!("cannot enter network namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command whose process enters the namespace before it executes the program.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.place(&mut command);
        command
    }

    pub fn place(&self, command: &mut Command) {
        let handle = Arc::clone(&self.handle);
        // SAFETY: the closure makes one system call and allocates nothing, as is required between fork and exec.
        unsafe { command.pre_exec(move || enter(&handle)) };
    }

    /// Inode of the namespace: the identity that `/proc/PID/ns/net` shows.
    pub fn inode(&self) -> Result<u64> {
        Ok(rustix::fs::fstat(self.handle.as_fd())?.st_ino)
    }

    /// Writes a value below /proc/sys as seen inside the namespace. Knobs this kernel does not have are passed over.
    pub fn write_sysctls(&self, values: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (knob, value) in values {
                match fs::write(Path::new("/proc/sys").join(knob), value) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("cannot set {knob} to {value} in {}", self.name));
                    }
                    _ => {}
                }
            }
            Ok(())
        })?
    }
}

fn enter(handle: &OwnedFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?)
}
