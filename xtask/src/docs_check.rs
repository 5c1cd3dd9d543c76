//! Documents must not lie: every repository path they name exists, every drop reason is explained, every flag of the
//! agent is listed. Knows the documents, not the agent's code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use svc_common::DropReason;

use crate::process;

/// Everything that is wrong, one line each.
pub fn findings() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for document in documents()? {
        let name = document.strip_prefix(process::root()).unwrap_or(&document).display().to_string();
        let text = read(&document)?;
        let exists = |path: &str| process::root().join(path).exists();
        let beside = |path: &str| document.parent().is_some_and(|directory| directory.join(path).exists());
        for path in named_paths(&text).into_iter().filter(|path| !exists(path)) {
            findings.push(format!("{name} names {path}, which does not exist"));
        }
        for path in linked_paths(&text).into_iter().filter(|path| !beside(path)) {
            findings.push(format!("{name} links to {path}, which does not exist"));
        }
    }
    let troubleshooting = read(&process::root().join("docs/troubleshooting.md"))?;
    findings.extend(reason_findings(&troubleshooting));
    Ok(findings)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The documents of the repository: Markdown at the top and below docs/.
fn documents() -> Result<Vec<PathBuf>> {
    let mut documents = Vec::new();
    let mut directories = vec![process::root().join("docs")];
    documents.extend(markdown(&process::root())?);
    while let Some(directory) = directories.pop() {
        documents.extend(markdown(&directory)?);
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            }
        }
    }
    documents.sort();
    Ok(documents)
}

fn markdown(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect())
}

/// Text in backquotes that starts like a path of this repository. `target/` holds build results, so it is not checked.
fn named_paths(text: &str) -> BTreeSet<String> {
    const ROOTS: &[&str] = &[
        "svc-common/",
        "svc-datapath/",
        "svc-ebpf/",
        "svc-agent/",
        "svc-testbed/",
        "xtask/",
        "deploy/",
        "docs/",
        ".ci/",
    ];
    let spans = text.split('`').skip(1).step_by(2);
    let words = spans.flat_map(str::split_whitespace).map(|word| word.trim_end_matches(['.', ',', ':', ';', ')']));
    let is_path =
        |word: &&str| ROOTS.iter().any(|root| word.starts_with(root)) && !word.contains(['*', '<', '{', '…', '=']);
    words.filter(is_path).map(str::to_owned).collect()
}

/// Targets of Markdown links that are neither addresses nor places in the same document.
fn linked_paths(text: &str) -> BTreeSet<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = targets.filter(|target| !target.contains("://")).filter_map(|target| target.split('#').next());
    paths.filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// The table of drop reasons has one row per reason, `| label | explanation …`, in the words of the code.
fn reason_findings(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for reason in DropReason::ALL {
        let row = format!("| `{}` | {} |", reason.label(), reason.explanation());
        if !text.lines().any(|line| line.starts_with(&row)) {
            findings.push(format!("docs/troubleshooting.md lacks the row: {row}"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_recognized() {
        let text = "See `svc-agent/src/plan/`, run `cargo xtask test`, [adr](docs/adr/0001.md#why), [web](https://x.y/z) and \
                    `target/bpf/svc-ebpf`; `svc-agent/v<N>/maps` is a pin.";
        assert_eq!(named_paths(text).into_iter().collect::<Vec<_>>(), ["svc-agent/src/plan/"]);
        assert_eq!(linked_paths(text).into_iter().collect::<Vec<_>>(), ["docs/adr/0001.md"]);
    }

    #[test]
    fn a_missing_reason_is_found() {
        assert_eq!(reason_findings("").len(), DropReason::ALL.len());
        let table: String = DropReason::ALL
            .iter()
            .map(|reason| format!("| `{}` | {} | x |\n", reason.label(), reason.explanation()))
            .collect();
        assert_eq!(reason_findings(&table), Vec::<String>::new());
    }
}
