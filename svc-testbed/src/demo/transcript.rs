//! The terminal transcript: headings, commands with what they printed, and the monitor's lines beside them.

use std::io::IsTerminal;

/// Column of the monitor's lines beside output.
const BESIDE: usize = 34;

pub(super) struct Transcript {
    colour: bool,
}

impl Transcript {
    pub fn new() -> Self {
        Self { colour: std::io::stdout().is_terminal() }
    }

    pub fn heading(&mut self, text: &str) {
        println!("\n{}", self.paint("1", &format!("── {text} {}", "─".repeat(90_usize.saturating_sub(text.len())))));
    }

    pub fn say(&mut self, text: &str) {
        println!("{text}");
    }

    /// A command line as the reader would type it in the client pod.
    pub fn command(&mut self, line: &str) {
        println!("\n{} {}", self.paint("32", "client$"), self.paint("1", line));
    }

    pub fn output(&mut self, text: &str) {
        let text = text.trim_end();
        if !text.is_empty() {
            println!("{text}");
        }
    }

    /// What the monitor said meanwhile.
    pub fn monitor(&mut self, lines: &[String]) {
        for line in lines {
            println!("{}", self.paint("36", &format!("   svc-agent monitor │ {line}")));
        }
    }

    /// One line of output with the monitor's line about it beside.
    pub fn beside(&mut self, output: &str, monitor: &str) {
        println!("{output:<BESIDE$} {}", self.paint("36", &format!("│ {monitor}")));
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
