//! The demo tells a true story in all its variants, notices when it is not true, and can be left and ended later.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result};
use svc_testbed::{LabId, agent};

fn demo(agent: &Path, options: &[&str]) -> Result<(Output, String)> {
    let mut command = testbed();
    let output = command.arg("demo").arg("--agent").arg(agent).args(options).output()?;
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output, text))
}

fn testbed() -> Command {
    Command::new(env!("CARGO_BIN_EXE_svc-testbed"))
}

#[test]
fn the_story_is_true_in_every_variant() -> Result<()> {
    for options in [&[][..], &["--ipv6"], &["--tc-only"], &["--tc-only", "--ipv6"]] {
        let (output, text) = demo(&agent::locate()?, options)?;
        assert!(output.status.success() && text.contains("The story is true"), "{options:?}:\n{text}");
    }
    Ok(())
}

#[test]
fn an_agent_that_does_nothing_makes_it_untrue() -> Result<()> {
    let (output, text) = demo(Path::new("/bin/false"), &[])?;
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("the story is not true") && !text.contains("The story is true"), "{text}");
    Ok(())
}

#[test]
fn a_kept_demo_goes_on_until_it_is_stopped() -> Result<()> {
    let (output, text) = demo(&agent::locate()?, &["--keep"])?;
    assert!(output.status.success(), "{text}");
    let enter = text.lines().find(|line| line.contains(" enter ")).context("no way in")?;
    let mut words = enter.split_whitespace().skip_while(|word| *word != "enter").skip(1);
    let (id, machine) = (words.next().unwrap(), words.next().unwrap());

    let inside = testbed().args(["enter", id, machine, "--", "curl", "-sS", "-m", "5", "nginx-service"]).output()?;
    let page = String::from_utf8_lossy(&inside.stdout);
    assert!(page.starts_with("Welcome to nginx-"), "{page}{}", String::from_utf8_lossy(&inside.stderr));

    assert!(testbed().arg("cleanup").status()?.success());
    let id: LabId = id.parse()?;
    assert!(!id.remains()?.is_empty(), "what was kept on purpose is not stale");
    assert!(testbed().args(["stop", &id.to_string()]).status()?.success());
    assert_eq!(id.remains()?, Vec::<String>::new());
    Ok(())
}
