//! `cargo xtask demo`: builds the eBPF object, the agent and the lab's program, and has the lab tell the story. What happens in
//! it and how it is checked is `svc-testbed/src/demo`.

use anyhow::{Context, Result};

use crate::{build_ebpf, lab, packages, process};

#[derive(clap::Args)]
pub struct Options {
    /// Translate packets at the pod's interface only, not in the client's socket calls
    #[arg(long)]
    tc_only: bool,
    /// Use IPv6 addresses for everything
    #[arg(long)]
    ipv6: bool,
    /// Leave everything running and say how to look around in it
    #[arg(long)]
    keep: bool,
}

pub fn run(options: &Options) -> Result<()> {
    lab::require_root("the demo")?;
    packages::ensure(&[("ip", "iproute2")])?;
    // The lab has a stand-in for these two, with the same output.
    if let Err(error) = packages::ensure(&[("nslookup", "bind9-dnsutils"), ("curl", "curl")]) {
        println!("without nslookup or curl: {error:#}");
    }
    build_ebpf::ensure()?;
    lab::build()?;
    let programs = process::target().join("debug");
    let mut demo = process::command(programs.join("svc-testbed"));
    demo.arg("demo").arg("--agent").arg(programs.join("svc-agent"));
    for (wanted, option) in [(options.tc_only, "--tc-only"), (options.ipv6, "--ipv6"), (options.keep, "--keep")] {
        if wanted {
            demo.arg(option);
        }
    }
    let status = demo.status().with_context(|| format!("cannot start {}", process::describe(&demo)))?;
    if !status.success() {
        // The demo has said why in its own words.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
