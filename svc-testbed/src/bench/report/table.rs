//! The report as text: one table for each section, a row for each series.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use super::{
    super::results::{Results, Section, Series},
    number::{ratio, show},
};

pub fn render(results: &Results) -> String {
    let mut text = String::new();
    for (what, value) in &results.machine.facts {
        let _ = writeln!(text, "{what:<22} {value}");
    }
    let _ = writeln!(text, "{:<22} {:.0} s, options: {}", "this run", results.seconds, results.options);
    for section in &results.sections {
        let _ = write!(text, "\n{}\n{}", section.title, "=".repeat(section.title.chars().count()));
        let _ = write!(text, "\n{}\n", section_table(section));
        for note in &section.notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}

fn section_table(section: &Section) -> Table {
    let with_ratios = section.series.iter().any(|series| !series.ratios.is_empty());
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let ratio_columns: &[&str] = if with_ratios { &["ratio to direct", "min – max"] } else { &[] };
    table.set_header([&["", "what", "median", "min – max"], ratio_columns, &["bar"]].concat());
    for (group, metric) in section.groups() {
        let heading = if group.is_empty() { metric.to_owned() } else { format!("{group}: {metric}") };
        for (row, series) in section.of(group, metric).enumerate() {
            let heading = if row == 0 { heading.as_str() } else { "" };
            table.add_row(cells(heading, series, with_ratios));
        }
    }
    table
}

fn cells(heading: &str, series: &Series, with_ratios: bool) -> Vec<Cell> {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let mut cells = vec![Cell::new(heading), Cell::new(&series.subject)];
    match series.summary() {
        Some(summary) => cells.extend([
            right(format!("{} {}", show(summary.median), series.unit)),
            right(format!("{} – {}", show(summary.min), show(summary.max))),
        ]),
        None => cells.extend([right("-".to_owned()), right(String::new())]),
    }
    if with_ratios {
        match series.ratio() {
            Some(summary) => cells.extend([
                right(ratio(summary.median)),
                right(format!("{} – {}", ratio(summary.min), ratio(summary.max))),
            ]),
            None => cells.extend([right(String::new()), right(String::new())]),
        }
    }
    cells.push(Cell::new(bar(series)));
    cells
}

/// What is asked for, and whether it was reached.
pub fn bar(series: &Series) -> String {
    let Some(bar) = series.bar else { return String::new() };
    let sign = match series.better {
        super::super::results::Better::Higher => "≥",
        super::super::results::Better::Lower => "≤",
    };
    let met = match series.meets_bar() {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    };
    format!("{sign} {} {met}", show(bar))
}
