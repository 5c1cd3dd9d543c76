//! The table of results and the explanations below it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    dataplane::Variant,
    run::{Failure, Report},
};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

/// Prints one line per scenario with a column per variant, then what failed and why, then the totals.
pub fn print(reports: &[Report], variants: &[Variant], with_remarks: bool) -> Totals {
    let mut table = BTreeMap::<&str, BTreeMap<Variant, &Report>>::new();
    for report in reports {
        table.entry(&report.scenario).or_default().insert(report.variant, report);
    }
    let width = table.keys().map(|name| name.len()).max().unwrap_or_default();
    let heading: Vec<String> = variants.iter().map(|variant| format!("{:<26}", variant.to_string())).collect();
    println!("{:<width$}  {}", "scenario", heading.concat().trim_end());
    for (scenario, columns) in &table {
        let cells: Vec<String> = variants
            .iter()
            .map(|variant| format!("{:<26}", columns.get(variant).map(|report| report.summary()).unwrap_or_default()))
            .collect();
        println!("{scenario:<width$}  {}", cells.concat().trim_end());
    }
    for report in reports {
        explain(report, &report.failures, "");
        if with_remarks {
            explain(report, &report.remarks, " (not required)");
        }
    }
    let count = |accept: fn(&Report) -> bool| reports.iter().filter(|report| accept(report)).count();
    let totals = Totals {
        passed: count(|report| report.skipped.is_none() && report.failures.is_empty()),
        failed: count(|report| !report.failures.is_empty()),
        skipped: count(|report| report.skipped.is_some()),
    };
    println!("\n{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    totals
}

fn explain(report: &Report, failures: &[Failure], remark: &str) {
    let mut last_step = "";
    if !failures.is_empty() {
        println!("\n{} [{}]{remark}", report.scenario, report.variant);
    }
    for failure in failures {
        if failure.step != last_step {
            println!("  {}", failure.step);
            last_step = &failure.step;
        }
        println!("    {}", failure.probe);
        for difference in &failure.differences {
            println!(
                "      {}: expected {}, observed {}",
                difference.field,
                difference.expected,
                brief(&difference.observed)
            );
        }
        for seen in &failure.seen {
            println!("      {seen}");
        }
    }
}

fn brief(observed: &Value) -> String {
    if observed.is_null() { "nothing".to_owned() } else { observed.to_string() }
}
