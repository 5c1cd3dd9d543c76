//! The janitor outlives the process that owns labs, however that ends (panic, Ctrl-C, SIGKILL), and removes what it left.
//! It is the helper program in a session of its own, waiting for the end of a pipe that only the owner holds open.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};

use super::{id::LabId, machine::Helper};

struct Janitor {
    // Held open for as long as this process lives; its end is the signal.
    _pipe: Option<ChildStdin>,
    _child: Child,
}

static JANITOR: Mutex<Option<Janitor>> = Mutex::new(None);

/// Starts this process's janitor unless it has one already.
pub(super) fn start(helper: &Helper) -> Result<()> {
    let mut janitor = JANITOR.lock().unwrap_or_else(PoisonError::into_inner);
    if janitor.is_none() {
        let mut command = Command::new(helper.path());
        command.args(["janitor", "--owner", &std::process::id().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call without allocation, as is required between fork and exec.
        unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(|_| ())?)) };
        let mut child = command.spawn().with_context(|| format!("cannot start {}", helper.path().display()))?;
        *janitor = Some(Janitor { _pipe: child.stdin.take(), _child: child });
    }
    Ok(())
}

/// Main loop of the janitor's process.
pub fn watch(owner: u32) -> Result<()> {
    // Whatever comes, even an error, means that nobody holds the other end any more.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let mut outcome = Ok(());
    for lab in LabId::all().into_iter().filter(|lab| lab.owner == owner && !lab.is_kept()) {
        outcome = outcome.and(lab.remove());
    }
    outcome
}
