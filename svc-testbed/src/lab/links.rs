//! Links, addresses and routes of one namespace, written as `ip` and `bridge` read them, and applied in one batch.

use std::{fmt::Write as _, io::Write as _, process::Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::Namespace;

pub(super) struct Batch<'a> {
    namespace: &'a Namespace,
    tool: &'static str,
    lines: String,
}

impl<'a> Batch<'a> {
    pub fn new(namespace: &'a Namespace) -> Self {
        Self { namespace, tool: "ip", lines: String::new() }
    }

    /// Forwarding entries of bridges and VXLAN devices have a tool of their own.
    pub fn bridge(namespace: &'a Namespace) -> Self {
        Self { namespace, tool: "bridge", lines: String::new() }
    }

    pub fn line(mut self, line: impl AsRef<str>) -> Self {
        let _ = writeln!(self.lines, "{}", line.as_ref());
        self
    }

    pub fn lines<S: AsRef<str>>(self, lines: impl IntoIterator<Item = S>) -> Self {
        lines.into_iter().fold(self, Self::line)
    }

    pub fn run(self) -> Result<()> {
        let mut command = self.namespace.command(self.tool);
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}; install iproute2", self.tool))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.lines.as_bytes()).with_context(|| format!("{} ended early", self.tool))?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let (tool, name) = (self.tool, self.namespace.name());
            bail!(
                "{tool} in {name}: {}\nit was given:\n{}",
                String::from_utf8_lossy(&output.stderr).trim(),
                self.lines
            );
        }
        Ok(())
    }
}
