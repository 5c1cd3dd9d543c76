//! The helper program's ends of the JSON lines protocol.

use std::{
    io::{BufRead as _, Write as _, stdin, stdout},
    thread,
};

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Lines of stdin until its end, read by a thread: a blocked read must not hold up the traffic.
pub(crate) fn lines() -> UnboundedReceiver<String> {
    let (sender, lines) = unbounded_channel();
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// One value, one line, in one write.
pub(crate) fn print_line(value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut stdout = stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}
