//! Results as a table for the terminal, as JSON and as a page with plots. No measurement and no judgement of its own.

mod number;
mod table;

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::results::Results;

pub use table::render as table;

/// Writes all forms; says where.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let files = [
        ("bench.txt", table(results)),
        ("bench.json", serde_json::to_string_pretty(results).context("cannot write the results as JSON")?),
    ];
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
