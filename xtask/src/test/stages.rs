//! The stages of `cargo xtask test`: one line each. A test file belongs to the stage that names the longest beginning of
//! its file name, and to the last stage if none does, so that no file can be forgotten.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use super::report::{self, Outcome};
use crate::{conformance, docs_check, process};

pub struct Stage {
    /// As in the summary and as the command's argument.
    pub key: &'static str,
    pub title: &'static str,
    /// Needs root, BPF and a bpffs.
    pub privileged: bool,
    /// Minutes rather than seconds.
    pub slow: bool,
    tests: Tests,
}

enum Tests {
    /// Tests inside the crates.
    Units,
    /// Files in `<crate>/tests` whose name starts with one of these.
    Files(&'static [&'static str]),
    /// Files no other stage names.
    OtherFiles,
    /// Not a cargo test.
    Docs,
    /// Not a cargo test: the lab's program plays a corpus.
    Corpus,
}

use Tests::{Corpus, Docs, Files, OtherFiles, Units};

#[rustfmt::skip]
pub const STAGES: &[Stage] = &[
    stage("docs",      "documents name what exists",                               Docs),
    stage("unit",      "unit and property tests inside all crates",                Units),
    stage("packets",   "packet cases, native",                                     Files(&["packet", "native"])),
    stage("sources",   "manifests, API server, deploy files, documented flags",    Files(&["source", "kubernetes", "manifest", "deploy", "docs"])),
    stage("scenarios", "kernel contract, plan rules, objects in and maps out",     Files(&["abi", "audit", "plan", "index", "publish", "scenario"])),
    stage("kernel",    "verifier, real maps, packet cases by BPF_PROG_TEST_RUN",   Files(&["verifier", "cost", "sweep", "kernel", "packets_kernel", "publish_kernel"])).privileged(),
    stage("lab",       "interfaces, links, pins, commands, servers in namespaces", Files(&["lab", "attach", "follow", "get", "monitor", "observe", "run"])).privileged(),
    stage("traffic",   "real sockets between pods and nodes",                      Files(&["traffic", "demo"])).privileged().slow(),
    stage("restart",   "restarts and changes under load",                          Files(&["restart", "adopt", "chaos", "churn", "traffic_restarts", "traffic_changes", "soak"])).privileged().slow(),
    stage("conformance", "recorded kube-proxy behaviour, both paths, both sources", Corpus).privileged().slow(),
    stage("other",     "test files that no stage names",                           OtherFiles).privileged(),
];

const fn stage(key: &'static str, title: &'static str, tests: Tests) -> Stage {
    Stage { key, title, privileged: false, slow: false, tests }
}

impl Stage {
    const fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// Runs the tests of this stage whose names contain `names`.
    pub fn run(&self, names: Option<&str>) -> Result<Outcome> {
        match self.tests {
            Docs | Corpus if names.is_some() => Ok(Outcome::default()),
            Corpus => conformance::stage(),
            Docs => docs_check::findings().map(Outcome::from_findings),
            Units => {
                let mut cargo = process::cargo();
                report::run(cargo.args(["test", "--no-fail-fast", "--lib", "--bins"]), names, false)
            }
            Files(_) | OtherFiles => self.run_files(names),
        }
    }

    fn run_files(&self, names: Option<&str>) -> Result<Outcome> {
        let own: Vec<_> = test_files()?.into_iter().filter(|file| stage_of(file) == self.key).collect();
        if own.is_empty() {
            return Ok(Outcome::default());
        }
        let mut cargo = process::cargo();
        cargo.args(["test", "--no-fail-fast"]);
        for file in &own {
            cargo.args(["--test", file]);
        }
        // Labs share the kernel's links and routes, and two cores: one at a time.
        report::run(&mut cargo, names, self.privileged)
    }
}

/// Compiles all tests and the programs they start. Always for the whole workspace, as the stages do: with one package
/// selected cargo would choose other features of shared dependencies, and compile them again.
pub fn build_all() -> Result<()> {
    process::run(process::cargo().args(["test", "--no-run", "--lib", "--bins", "--tests"]))
}

/// Key of the stage that a test file belongs to: the one with the longest matching beginning.
fn stage_of(file: &str) -> &'static str {
    let matching = STAGES.iter().flat_map(|stage| {
        let beginnings = match stage.tests {
            Files(beginnings) => beginnings,
            Units | OtherFiles | Docs | Corpus => &[],
        };
        beginnings
            .iter()
            .filter(|beginning| file.starts_with(**beginning))
            .map(|beginning| (beginning.len(), stage.key))
    });
    matching.max().map_or("other", |(_, key)| key)
}

/// Names of the integration tests of all crates. The eBPF crate has none.
fn test_files() -> Result<BTreeSet<String>> {
    let root = process::root();
    let mut files = BTreeSet::new();
    for package in fs::read_dir(&root).with_context(|| format!("cannot list {}", root.display()))? {
        let package = package?.path();
        let Ok(entries) = fs::read_dir(package.join("tests")) else { continue };
        if !package.join("Cargo.toml").is_file() {
            continue;
        }
        for entry in entries {
            let path = entry?.path();
            let is_test = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
            if let (true, Some(stem)) = (is_test, path.file_stem()) {
                files.insert(stem.to_string_lossy().into_owned());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_stage() {
        assert_eq!(stage_of("traffic_pods"), "traffic");
        assert_eq!(stage_of("traffic_restarts"), "restart");
        assert_eq!(stage_of("publish_protocol"), "scenarios");
        assert_eq!(stage_of("publish_kernel"), "kernel");
        assert_eq!(stage_of("something_new"), "other");
        assert!(STAGES.iter().any(|stage| stage.key == "other"));
    }

    #[test]
    fn keys_are_unique() {
        let mut keys: Vec<_> = STAGES.iter().map(|stage| stage.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), STAGES.len());
    }
}
