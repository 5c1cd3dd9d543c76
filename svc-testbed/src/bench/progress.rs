//! What the user sees while it runs: where we are and how long it has taken, on stderr. On a terminal one line that changes,
//! else a line now and then.

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between lines in a log file.
const SELDOM: Duration = Duration::from_secs(15);

pub struct Progress {
    start: Instant,
    terminal: bool,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    stage: String,
    last: Option<Instant>,
}

impl Progress {
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { start: Instant::now(), terminal, shown: Mutex::default() }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A new part of the work begins.
    pub fn stage(&self, title: impl Into<String>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Shown { stage: title.into(), last: None };
        self.show("");
    }

    /// What is done at the moment.
    pub fn say(&self, what: impl AsRef<str>) {
        self.show(what.as_ref());
    }

    pub fn step(&self, done: usize, of: usize) {
        self.show(&format!("round {} of {of}", done + 1));
    }

    /// Ends the line that changes.
    pub fn finish(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn show(&self, what: &str) {
        let seconds = self.start.elapsed().as_secs();
        let time = format!("[{:02}:{:02}]", seconds / 60, seconds % 60);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let stage = &shown.stage;
        let line = if what.is_empty() { format!("{time} {stage}") } else { format!("{time} {stage}: {what}") };
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            // Only the display would be late.
            let _ = std::io::stderr().flush();
        } else if shown.last.is_none_or(|last| last.elapsed() >= SELDOM) {
            eprintln!("{line}");
            shown.last = Some(Instant::now());
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
