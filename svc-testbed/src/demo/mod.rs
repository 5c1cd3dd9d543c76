//! The main job as a story for newcomers: a pod asks DNS for a Service and fetches a page from it, and the agent's eBPF programs
//! alone bring it there. `cluster.rs` is the scene, `story.rs` what happens, `transcript.rs` how it looks.

mod cluster;
mod story;
mod transcript;

use std::path::PathBuf;

use anyhow::{Context, Result};

use self::{cluster::Cluster, transcript::Transcript};
use crate::{Family, Helper, LabId};

#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The agent's program
    #[arg(long, env = "SVC_AGENT_BIN")]
    pub agent: PathBuf,
    /// Translate packets at the pod's interface only, not in the client's socket calls
    #[arg(long)]
    pub tc_only: bool,
    /// Use IPv6 addresses for everything
    #[arg(long)]
    pub ipv6: bool,
    /// Leave everything running and say how to look around in it
    #[arg(long)]
    pub keep: bool,
}

pub fn run(args: &DemoArgs) -> Result<()> {
    let helper = Helper::at(std::env::current_exe().context("cannot tell which program this is")?);
    let family = if args.ipv6 { Family::V6 } else { Family::V4 };
    let mut transcript = Transcript::new();
    let mut cluster = Cluster::build(helper.clone(), family)?;
    let agent = story::tell(&mut cluster, &mut transcript, args).context("the story is not true")?;
    transcript.heading("The story is true");
    transcript.say(match args.tc_only {
        true => "Every connection was translated packet by packet at the pod's interface (tc).",
        false => "TCP was translated once, in the client's own connect() (socket); UDP packet by packet (tc).",
    });
    if args.keep {
        let monitor = format!("{} monitor --bpf-root {}", args.agent.display(), agent.bpf_root().display());
        let manifests = cluster.manifests.directory().display().to_string();
        agent.leave();
        let id = cluster.leave()?;
        transcript.heading("Everything is still running");
        transcript.say(&format!("a shell in the client pod:  sudo {} enter {id} client", helper.path().display()));
        transcript.say(&format!("connections as they happen: sudo {monitor}"));
        transcript.say(&format!("change the cluster:         edit the files in {manifests}"));
        transcript.say(&format!("stop and remove it all:     sudo {} stop {id}", helper.path().display()));
    }
    Ok(())
}

/// Ends a demo that was kept.
pub fn stop(id: LabId) -> Result<()> {
    anyhow::ensure!(!id.remains()?.is_empty(), "there is no lab {id}");
    id.remove()
}
