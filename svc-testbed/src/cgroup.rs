//! cgroup v2 directories of a lab: `<cgroup2>/<lab>/<node>/<machine>`. The agent attaches its socket hooks to a node's
//! directory, so that only the lab's clients are translated. Killing a directory ends every process below it.

use std::{
    fs::{self, File},
    io,
    io::Write as _,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Where cgroup v2 is mounted, wherever that is on this machine.
    pub fn mount_point() -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let found = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|mount| mount.get(2) == Some(&"cgroup2"));
        match found.and_then(|mount| mount.get(1).map(PathBuf::from)) {
            Some(path) => Ok(path),
            None => bail!("cgroup v2 is not mounted; mount it with: mount -t cgroup2 none /sys/fs/cgroup/unified"),
        }
    }

    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the process of `command` join before it executes, so that all its sockets belong to this cgroup.
    pub fn place(&self, command: &mut Command) -> Result<()> {
        let path = self.path.join("cgroup.procs");
        let procs =
            File::options().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: the closure makes one system call and allocates nothing, as is required between fork and exec.
        unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
        Ok(())
    }

    /// Ends all processes below `path` and removes the directories. Says what resists instead of waiting for ever.
    pub fn remove(path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // A process may fork while it is being killed on kernels without cgroup.kill, hence again in every round.
            kill(path)?;
            match remove_tree(path) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("cannot remove cgroup {}", path.display()));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

fn kill(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => kill_one_by_one(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot kill the processes of {}", path.display())),
    }
}

fn kill_one_by_one(path: &Path) -> Result<()> {
    for directory in subdirectories(path) {
        kill_one_by_one(&directory)?;
    }
    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
        let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for directory in subdirectories(path) {
        remove_tree(&directory)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
