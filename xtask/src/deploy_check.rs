//! Renders the kustomizations and the Helm chart with the real programs, where they are installed. That every object is
//! one the Kubernetes API knows is a test of svc-agent, which has the types.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Everything that does not render, one line each.
pub fn findings() -> Result<Vec<String>> {
    let mut renderings = Vec::new();
    if process::find_on_path("kubectl").is_some() {
        for directory in kustomizations()? {
            let mut kubectl = process::command("kubectl");
            kubectl.arg("kustomize").arg(directory);
            renderings.push(kubectl);
        }
    } else {
        println!("not checked: rendering deploy/base and deploy/overlays needs kubectl");
    }
    if process::find_on_path("helm").is_some() {
        for mode in ["beside", "replace"] {
            let mut helm = process::command("helm");
            helm.args(["template", "svc-agent", "deploy/helm/svc-agent", "--namespace", "kube-system"]);
            helm.arg("--set").arg(format!("kubeProxy={mode}")).args(["--set", "apiServer.host=10.0.0.1"]);
            renderings.push(helm);
        }
    } else {
        println!("not checked: rendering deploy/helm/svc-agent needs helm");
    }
    Ok(renderings.iter_mut().filter_map(failure).collect())
}

fn failure(rendering: &mut Command) -> Option<String> {
    match process::read(rendering) {
        Ok(rendered) if rendered.contains("kind: DaemonSet") => None,
        Ok(_) => Some(format!("{}: renders no DaemonSet", process::describe(rendering))),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn kustomizations() -> Result<Vec<PathBuf>> {
    let deploy = process::root().join("deploy");
    let overlays = deploy.join("overlays");
    let mut directories = vec![deploy.join("base")];
    for entry in fs::read_dir(&overlays).with_context(|| format!("cannot list {}", overlays.display()))? {
        directories.push(entry?.path());
    }
    directories.sort();
    Ok(directories)
}
