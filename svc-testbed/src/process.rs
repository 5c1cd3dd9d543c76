//! Child processes of a lab: started inside a machine's namespace and cgroup, talking JSON lines on stdin and stdout, their
//! stderr kept in a file so that a failing test can show it. Ended when dropped.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

pub struct Process {
    name: String,
    child: Child,
    lines: Option<Receiver<String>>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output lines readable and its stderr in `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let stderr = append(log)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = spawn(name, command)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, lines: Some(lines), log: log.to_owned() })
    }

    /// Starts `command` with all its output in `log`, for programs that outlive whoever started them.
    pub fn start_logged(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(append(log)?).stderr(append(log)?);
        Ok(Self { name: name.to_owned(), child: spawn(name, command)?, lines: None, log: log.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Gives the stream of output lines away, for a reader that sorts them.
    pub fn take_lines(&mut self) -> Option<Receiver<String>> {
        self.lines.take()
    }

    /// The next output line. Fails with the process's last words if there is none in time.
    pub fn next_line(&mut self, timeout: Duration) -> Result<String> {
        let Some(lines) = &self.lines else { bail!("the output of {} goes elsewhere", self.name) };
        match lines.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("{} said nothing for {timeout:?}{}", self.name, self.last_words()),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended early{}", self.name, self.last_words()),
        }
    }

    /// Output lines that have already arrived.
    pub fn ready_lines(&self) -> Vec<String> {
        self.lines.as_ref().map(|lines| lines.try_iter().collect()).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {timeout:?}{}", self.name, self.last_words());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of the log, as an addition to an error message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        match lines.len() {
            0 => String::new(),
            length => format!("; its log ends with:\n{}", lines[length.saturating_sub(15)..].join("\n")),
        }
    }

    /// Lets the process go on without us.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    // A session of its own: Ctrl-C ends the owner, and the owner's end is what ends the lab's processes, in order.
    // SAFETY: the closure makes one system call and allocates nothing, as is required between fork and exec.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
    command.spawn().with_context(|| format!("cannot start {name} ({})", command.get_program().display()))
}

fn append(log: &Path) -> Result<File> {
    File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))
}
