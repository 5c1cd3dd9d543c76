//! From the samples of one probe to its outcome, in the fields of expected.json. Pure: whoever probed hands in what it saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde_json::{Value, json};

use super::corpus::{Fields, Probe, Proto};
use crate::{GetReport, Outcome, Sample};

/// A failure that took less was not waited for.
const FAST: Duration = Duration::from_secs(1);
/// Bounds of an even share.
const EVEN: std::ops::RangeInclusive<f64> = 0.6..=1.5;

/// What to compare the answers with.
#[derive(Default)]
pub struct Context<'a> {
    /// For `use`: backend at the time of opening, by the socket's own port
    pub opened: Option<&'a BTreeMap<u16, String>>,
    /// For `same_as`: backends of the other probe
    pub other: Option<&'a BTreeSet<String>>,
}

pub fn backends(samples: &[Sample]) -> BTreeSet<String> {
    samples.iter().flat_map(|sample| sample.backends.iter().cloned()).collect()
}

/// The outcome of a probe. `name_of` says which machine has an address.
pub fn outcome(
    probe: &Probe,
    samples: &[Sample],
    context: &Context<'_>,
    name_of: impl Fn(SocketAddr) -> String,
) -> Fields {
    let mut fields = Fields::new();
    fields.insert("result".into(), result(samples.iter().map(|sample| sample.outcome)));
    let failed = || samples.iter().filter(|sample| sample.outcome != Outcome::Ok);
    if failed().next().is_some() {
        fields.insert("fast_fail".into(), json!(failed().all(|sample| sample.elapsed < FAST)));
    }
    if probe.opts.pmtu {
        let learned: BTreeSet<u32> = samples.iter().filter_map(|sample| sample.path_mtu).collect();
        fields.insert("path_mtu".into(), one_or_all(learned.into_iter().map(Value::from)));
    }
    fields.extend(reply_from(probe, samples).map(|from| ("reply_from".to_owned(), from)));
    let answered: Vec<&Sample> = samples.iter().filter(|sample| !sample.backends.is_empty()).collect();
    if answered.is_empty() {
        return fields;
    }
    let all = backends(samples);
    if let Some(among) = &probe.among {
        fields.insert("within".into(), json!(all.iter().all(|backend| among.contains(backend))));
    }
    fields.insert("client_seen".into(), json!(clients_by_backend(&answered, name_of)));
    fields.insert("intact".into(), json!(answered.iter().all(|sample| sample.intact)));
    fields.insert("one_backend".into(), json!(answered.iter().all(|sample| sample.backends.len() == 1)));
    fields.insert("sticky".into(), json!(all.len() == 1));
    fields.insert("even".into(), json!(is_even(&answered, all.len())));
    if let Some(opened) = context.opened {
        let same = |sample: &&Sample| {
            let before = sample.local.and_then(|local| opened.get(&local.port()));
            before.is_some_and(|before| sample.backends.iter().all(|backend| backend == before))
        };
        fields.insert("same".into(), json!(answered.iter().all(same)));
    }
    if let Some(other) = context.other {
        fields.insert("same".into(), json!(all == *other));
    }
    fields.insert("backends".into(), json!(all));
    fields
}

/// The outcome of a probe with `opts.http`.
pub fn http_outcome(reports: &[(GetReport, Duration)]) -> Fields {
    let mut fields = Fields::new();
    fields.insert("result".into(), result(reports.iter().map(|(report, _)| report.outcome)));
    let failed = || reports.iter().filter(|(report, _)| report.outcome != Outcome::Ok);
    if failed().next().is_some() {
        fields.insert("fast_fail".into(), json!(failed().all(|(_, elapsed)| *elapsed < FAST)));
    }
    let answered: Vec<&GetReport> =
        reports.iter().map(|(report, _)| report).filter(|report| report.outcome == Outcome::Ok).collect();
    let weight = |report: &GetReport| report.headers.get("x-load-balancing-endpoint-weight").cloned();
    let of = |read: &dyn Fn(&GetReport) -> Option<Value>| {
        let mut values: Vec<Value> = answered.iter().filter_map(|report| read(report)).collect();
        values.dedup();
        (!values.is_empty()).then(|| one_or_all(values.into_iter()))
    };
    let text_or_json = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let values = [
        ("http_status", of(&|report| Some(json!(report.status)))),
        ("http_body", of(&|report| Some(text_or_json(&report.body)))),
        ("weight_header", of(&|report| weight(report).map(|text| text_or_json(&text)))),
    ];
    fields.extend(values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    fields
}

/// Samples counted by what they experienced, for people.
pub fn tally(samples: &[Sample], name_of: impl Fn(SocketAddr) -> String) -> Vec<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for sample in samples {
        let mut text = text_of(sample.outcome);
        if !sample.backends.is_empty() {
            text += &format!(" {}", sample.backends.join("+"));
        }
        if let Some(client) = sample.client_seen {
            text += &format!(" saw {}", name_of(client));
        }
        if sample.outcome != Outcome::Ok {
            let error = sample.error.as_deref().unwrap_or_default();
            text += &format!(" ({error}; after {:.1} s)", sample.elapsed.as_secs_f64());
        }
        if !sample.intact {
            text += " damaged";
        }
        *counts.entry(text).or_default() += 1;
    }
    counts.into_iter().map(|(text, count)| format!("{count} x {text}")).collect()
}

/// An echo has no port.
fn reply_from(probe: &Probe, samples: &[Sample]) -> Option<Value> {
    let is_service =
        |from: &SocketAddr| from.ip() == probe.to && (probe.proto == Proto::Icmp || from.port() == probe.port);
    let answers: Vec<SocketAddr> = samples.iter().filter_map(|sample| sample.reply_from).collect();
    let others: BTreeSet<String> =
        answers.iter().filter(|from| !is_service(from)).map(|from| format!("other:{from}")).collect();
    match (answers.is_empty(), others.is_empty()) {
        (true, _) => None,
        (false, true) => Some(json!("service")),
        (false, false) => Some(one_or_all(others.into_iter().map(Value::from))),
    }
}

fn text_of(outcome: Outcome) -> String {
    json!(outcome).as_str().unwrap_or_default().to_owned()
}

fn result(outcomes: impl Iterator<Item = Outcome>) -> Value {
    let texts: BTreeSet<String> = outcomes.map(text_of).collect();
    one_or_all(texts.into_iter().map(Value::from))
}

fn one_or_all(values: impl Iterator<Item = Value>) -> Value {
    let mut values: Vec<Value> = values.collect();
    match (values.len(), values.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            values.extend(last);
            Value::Array(values)
        }
    }
}

fn clients_by_backend(
    answered: &[&Sample],
    name_of: impl Fn(SocketAddr) -> String,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    for sample in answered {
        // The client is the one the last answer reported.
        if let (Some(backend), Some(client)) = (sample.backends.last(), sample.client_seen) {
            seen.entry(backend.clone()).or_default().insert(name_of(client));
        }
    }
    seen
}

fn is_even(answered: &[&Sample], backends: usize) -> bool {
    let mut counts = BTreeMap::<&str, f64>::new();
    for backend in answered.iter().filter_map(|sample| sample.backends.last()) {
        *counts.entry(backend).or_default() += 1.0;
    }
    let share = answered.len() as f64 / backends as f64;
    counts.values().all(|count| EVEN.contains(&(count / share)))
}
