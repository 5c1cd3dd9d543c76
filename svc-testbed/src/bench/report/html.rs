//! The report as one page that needs no network: tables, and the pictures of `plot` within the page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    super::results::{Results, Section, Series},
    number::{ratio, show},
    plot, table,
};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid #ccc}\
table{border-collapse:collapse;font-size:13px;margin:.7rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #e4e4e4;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.met{color:#1a7f37}.missed{color:#b42318;font-weight:600}\
ul{color:#555;font-size:13px}svg{max-width:100%;height:auto}details{margin:.5rem 0}summary{cursor:pointer}";

pub fn render(results: &Results) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "svc-agent benchmark" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What a Service costs" }
                table {
                    @for (what, value) in &results.machine.facts {
                        tr { th { (what) } td { (value) } }
                    }
                    tr { th { "this run" } td { (format!("{:.0} s, options: {}", results.seconds, results.options)) } }
                }
                ul { @for section in &results.sections { li { a href={ "#" (section.name) } { (section.title) } } } }
                @for section in &results.sections { (one(section)) }
            }
        }
    };
    page.into_string()
}

fn one(section: &Section) -> Markup {
    html! {
        h2 id=(section.name) { (section.title) }
        @for picture in plot::section(section) { (PreEscaped(picture)) }
        details {
            summary { "All numbers" }
            table {
                tr { th {} th { "what" } th { "median" } th { "min – max" } th { "ratio to direct" } th { "min – max" } th { "bar" } }
                @for (group, metric) in section.groups() {
                    @for (row, series) in section.of(group, metric).enumerate() {
                        tr {
                            td { @if row == 0 { (group) ": " (metric) } }
                            td { (series.subject) }
                            (numbers(series))
                        }
                    }
                }
            }
        }
        ul { @for note in &section.notes { li { (note) } } }
    }
}

fn numbers(series: &Series) -> Markup {
    let class = match series.meets_bar() {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    };
    html! {
        @if let Some(summary) = series.summary() {
            td.n { (show(summary.median)) " " (series.unit) }
            td.n { (show(summary.min)) " – " (show(summary.max)) }
        } @else { td {} td {} }
        @if let Some(summary) = series.ratio() {
            td.n { (ratio(summary.median)) }
            td.n { (ratio(summary.min)) " – " (ratio(summary.max)) }
        } @else { td {} td {} }
        td class=(class) { (table::bar(series)) }
    }
}
