//! `cargo xtask cost`: compares what packets, programs and changes cost with the committed tables, without a clock; or writes them
//! anew. The tests named `cost` measure.

use anyhow::{Result, bail};

use crate::{build_ebpf, process};

#[derive(clap::Args)]
pub struct Options {
    /// Record the present costs; the commit says why they changed
    #[arg(long)]
    write: bool,
}

pub fn run(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the kernel tells the size of programs to root only: run this as root");
    }
    build_ebpf::ensure()?;
    let mut tests = process::cargo();
    tests.args(["test", "--test", "cost"]);
    if options.write {
        tests.env("SVC_COST", "write");
    }
    process::run(&mut tests)
}
