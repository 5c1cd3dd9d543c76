//! Compares what something costs with a table that is under version control. Used by `cost.rs` of this crate and of svc-agent.
//! A line is `what it is: name=number …`; lines that begin with # are for people.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Set by `cargo xtask cost --write`.
const VARIABLE: &str = "SVC_COST";

pub type Costs = BTreeMap<String, BTreeMap<String, u64>>;

/// As in `flow=1 slot=2`.
pub fn costs_of(words: &str) -> BTreeMap<String, u64> {
    let pair = |word: &str| {
        let (name, count) = word.split_once('=').expect("a cost is name=number");
        (name.to_owned(), count.parse().expect("a cost is a number"))
    };
    words.split_whitespace().map(pair).collect()
}

/// Fails where the table says something else. Numbers may differ by `percent` before that counts.
pub fn check(table: &Path, about: &str, measured: &Costs, percent: u64) {
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "write") {
        fs::write(table, format!("{about}{}", text(measured))).unwrap();
        return;
    }
    let recorded = read(table);
    let (mut worse, mut better, mut other) = (String::new(), String::new(), String::new());
    for what in recorded.keys().chain(measured.keys()).collect::<BTreeSet<_>>() {
        let (Some(before), Some(now)) = (recorded.get(what), measured.get(what)) else {
            let which = if measured.contains_key(what) { "is not recorded" } else { "does not exist any more" };
            let _ = writeln!(other, "  {what} {which}");
            continue;
        };
        for name in before.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
            let number = |costs: &BTreeMap<String, u64>| costs.get(name).copied().unwrap_or_default();
            let (before, now) = (number(before), number(now));
            let list = match before {
                _ if now * 100 > before * (100 + percent) => &mut worse,
                _ if now * 100 < before * (100 - percent) => &mut better,
                _ => continue,
            };
            let _ = writeln!(list, "  {what}: {name} {before} -> {now}");
        }
    }
    let mut report = String::new();
    for (list, says) in [
        (worse, "costs more than recorded. If that is meant, say why in the commit, and"),
        (better, "costs less than recorded. So that it stays that way,"),
        (other, "is not what is recorded. Please"),
    ] {
        if !list.is_empty() {
            let _ = write!(report, "{} {says} write it down: cargo xtask cost --write\n{list}", table.display());
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

fn text(costs: &Costs) -> String {
    let line = |(what, costs): (&String, &BTreeMap<String, u64>)| {
        let words: Vec<String> = costs.iter().map(|(name, count)| format!("{name}={count}")).collect();
        format!("{what}: {}\n", words.join(" "))
    };
    costs.iter().map(line).collect()
}

fn read(table: &Path) -> Costs {
    let content = fs::read_to_string(table).unwrap_or_default();
    let lines = content.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let parse = |line: &str| {
        let (what, words) =
            line.rsplit_once(": ").or_else(|| Some((line.strip_suffix(':')?, ""))).expect("what: costs");
        (what.to_owned(), costs_of(words))
    };
    lines.map(parse).collect()
}
