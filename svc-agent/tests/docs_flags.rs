//! README.md lists every flag of `svc-agent run`, and none that does not exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use clap::{Args, Command};
use svc_agent::cli::args::RunArgs;

#[test]
fn readme_lists_exactly_the_flags_there_are() {
    let command = RunArgs::augment_args(Command::new("run"));
    let flags: BTreeSet<String> =
        command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect();
    let readme = include_str!("../../README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `--")?.split_once("` |"));
    let listed: BTreeSet<String> = rows.map(|(flag, _)| format!("--{flag}")).collect();
    assert_eq!(listed, flags);
}

#[test]
fn each_flag_has_the_variable_that_the_readme_promises() {
    let command = RunArgs::augment_args(Command::new("run"));
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        let variable = format!("SVC_AGENT_{}", long.replace('-', "_").to_uppercase());
        assert_eq!(argument.get_env().unwrap().to_str(), Some(variable.as_str()), "--{long}");
    }
}
