//! Runs `cargo test`, shows its output as it comes, and counts. A test that cannot run on this machine prints a line
//! `skipped: <why>`; it is then counted as skipped, not as passed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process;

#[derive(Default, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
    /// Why, one entry per test or stage.
    pub skipped: Vec<String>,
    pub failures: Vec<String>,
}

impl Outcome {
    pub fn skipped(reason: &str) -> Self {
        Self { skipped: vec![reason.to_owned()], ..Self::default() }
    }

    /// A check that is not a cargo test: passed, or one failure per finding.
    pub fn from_findings(findings: Vec<String>) -> Self {
        for finding in &findings {
            println!("{finding}");
        }
        Self { passed: usize::from(findings.is_empty()), failed: findings.len(), failures: findings, ..Self::default() }
    }
}

/// Runs `cargo test …`, only tests whose names contain `names` if given.
pub fn run(cargo: &mut Command, names: Option<&str>, one_at_a_time: bool) -> Result<Outcome> {
    cargo.args(["--", "--show-output"]).args(names);
    if one_at_a_time {
        cargo.arg("--test-threads=1");
    }
    for (variable, program) in [("SVC_AGENT_BIN", "svc-agent"), ("SVC_TESTBED_BIN", "svc-testbed")] {
        cargo.env(variable, process::target().join("debug").join(program));
    }
    println!("{}", process::describe(cargo));
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let mut reader = Reader::default();
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        if reader.take(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    let mut outcome = reader.outcome();
    if !status.success() && outcome.failed == 0 {
        // It did not compile, or a test binary died.
        outcome.failed = 1;
        outcome.failures.push(process::describe(cargo));
    }
    Ok(outcome)
}

/// Reads the output of the standard test harness with `--show-output`.
#[derive(Default)]
struct Reader {
    outcome: Outcome,
    /// Inside the output of tests that passed.
    successes: bool,
    /// Tests that passed for the harness, but said that they were skipped.
    said_skipped: usize,
}

impl Reader {
    /// Counts one line; returns whether to show it.
    fn take(&mut self, line: &str) -> bool {
        let outcome = &mut self.outcome;
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.successes = false;
            outcome.passed += count(counts, " passed");
            outcome.failed += count(counts, " failed");
        } else if line == "successes:" {
            self.successes = true;
        } else if line == "failures:" {
            self.successes = false;
        } else if let (true, Some(reason)) = (self.successes, skip_reason(line)) {
            outcome.skipped.push(reason.to_owned());
            self.said_skipped += 1;
        } else if let Some(test) = line.strip_prefix("test ") {
            if let Some((name, reason)) = test.split_once(" ... ignored") {
                outcome.skipped.push(format!("{name}{reason}"));
            } else if let Some(name) = test.strip_suffix(" ... FAILED") {
                outcome.failures.push(name.to_owned());
            }
        }
        !self.successes
    }

    fn outcome(self) -> Outcome {
        let passed = self.outcome.passed.saturating_sub(self.said_skipped);
        Outcome { passed, ..self.outcome }
    }
}

fn skip_reason(line: &str) -> Option<&str> {
    let (mark, reason) = line.split_once(": ")?;
    mark.eq_ignore_ascii_case("skipped").then_some(reason)
}

/// The number before `what` in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, what: &str) -> usize {
    let before = counts.split(what).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_the_noise_of_passed_tests_is_hidden() {
        let output = [
            ("running 4 tests", true),
            ("test a ... ok", true),
            ("test b ... FAILED", true),
            ("test c ... ok", true),
            ("test d ... ignored, needs two nodes", true),
            ("successes:", false),
            ("---- c stdout ----", false),
            ("SKIPPED: no IPv6 here", false),
            ("failures:", true),
            ("---- b stdout ----", true),
            ("skipped: not a result, only text", true),
            ("test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s", true),
        ];
        let mut reader = Reader::default();
        for (line, shown) in output {
            assert_eq!(reader.take(line), shown, "{line}");
        }
        let expected = Outcome {
            passed: 1,
            failed: 1,
            skipped: vec!["d, needs two nodes".into(), "no IPv6 here".into()],
            failures: vec!["b".into()],
        };
        assert_eq!(reader.outcome(), expected);
    }
}
