//! `cargo xtask soak`: builds the agent and the lab's program, and lets the latter change a cluster at random under traffic. What
//! the arguments mean, and who judges, is its business: `cargo xtask soak --help`.

use std::ffi::OsString;

use anyhow::Result;

use crate::{lab, process};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// [--minutes 30] [--seed N] [--socket-lb all|host|off] [--restart-every SECONDS], and more: see --help
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<()> {
    lab::prepare("the lab")?;
    process::run(lab::program("debug", "soak").args(&options.arguments))
}
