//! `svc-agent cleanup`: takes everything of one root off the node and says what it was.

use super::args::CleanupArgs;
use crate::datapath;

pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let removed = runtime.block_on(datapath::remove(&args.bpf_root, args.force))?;
    if removed == datapath::Removed::default() {
        println!("nothing to remove below {}", args.bpf_root.display());
    } else {
        println!("removed {} pins and {} filters below {}", removed.pins, removed.filters, args.bpf_root.display());
    }
    Ok(())
}
