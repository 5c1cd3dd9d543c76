//! `get drops`: what was refused or dropped since the maps exist, and what that means.

use serde::Serialize;
use svc_common::DropReason;

use super::print::{Row, Width};
use super::reader::{MapReader, ReadError};

/// JSON: `reason` (as in the metric and in monitor), `count`, `explanation`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DropRow {
    pub reason: &'static str,
    pub count: u64,
    pub explanation: &'static str,
}

impl Row for DropRow {
    const COLUMNS: &'static [(&'static str, Width)] =
        &[("REASON", Width::Always), ("COUNT", Width::Always), ("EXPLANATION", Width::Always)];

    fn cells(&self) -> Vec<String> {
        vec![self.reason.to_owned(), self.count.to_string(), self.explanation.to_owned()]
    }
}

/// All reasons in the order of their index, those that never happened too.
pub fn drop_rows(reader: &dyn MapReader) -> Result<Vec<DropRow>, ReadError> {
    let row = |(reason, count): (DropReason, u64)| DropRow {
        reason: reason.label(),
        count,
        explanation: reason.explanation(),
    };
    Ok(reader.drop_counters()?.into_iter().map(row).collect())
}
