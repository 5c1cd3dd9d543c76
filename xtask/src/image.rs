//! `cargo xtask image`: the container image, nothing but the static binary. Without a container builder it leaves the
//! build context in target/image and says what to run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{build, process};

#[derive(clap::Args)]
pub struct Options {
    /// Name of the image
    #[arg(long, default_value = "svc-agent:latest")]
    tag: String,
}

pub fn run(options: &Options) -> Result<()> {
    let binary = build::ensure(true)?;
    let context = process::target().join("image");
    fs::create_dir_all(&context).with_context(|| format!("cannot create {}", context.display()))?;
    copy(&binary, &context.join("svc-agent"))?;
    copy(&process::root().join("deploy/Dockerfile"), &context.join("Dockerfile"))?;
    for builder in ["docker", "podman", "buildah"] {
        if !usable(builder) {
            continue;
        }
        process::run(process::command(builder).args(["build", "--tag", &options.tag]).arg(&context))?;
        println!("image {} built with {builder}", options.tag);
        return Ok(());
    }
    println!(
        "no container builder works here (docker, podman, buildah); the build context is {0}\n\
         build it where there is one: docker build --tag {1} {0}",
        context.display(),
        options.tag
    );
    Ok(())
}

/// Installed and, for docker, with a daemon that answers.
fn usable(builder: &str) -> bool {
    process::find_on_path(builder).is_some() && process::read(process::command(builder).arg("info")).is_ok()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
