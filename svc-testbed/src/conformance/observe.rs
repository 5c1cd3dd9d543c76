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

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(fields: Value) -> Probe {
        let mut probe = json!({"id": "p", "from": "n1p1", "proto": "tcp", "to": "10.96.0.9", "port": 80});
        probe.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(probe).unwrap()
    }

    fn ok(backend: &str, own_port: u16) -> Sample {
        Sample {
            backends: vec![backend.to_owned()],
            client_seen: Some("10.244.1.11:40000".parse().unwrap()),
            reply_from: Some("10.96.0.9:80".parse().unwrap()),
            local: Some(SocketAddr::new([10, 244, 1, 11].into(), own_port)),
            ..Sample::new()
        }
    }

    fn failed(outcome: Outcome, milliseconds: u64) -> Sample {
        Sample { outcome, elapsed: Duration::from_millis(milliseconds), ..Sample::new() }
    }

    fn observed(probe: &Probe, samples: &[Sample], context: &Context<'_>) -> Value {
        json!(outcome(probe, samples, context, |client| format!("machine of {}", client.ip())))
    }

    #[test]
    fn answers_say_who_gave_them_and_whom_they_saw() {
        let mut samples = vec![ok("n1p2:80", 1), ok("n2p2:80", 2), ok("n1p2:80", 3)];
        let fields = observed(&probe(json!({"among": ["n1p2:80"]})), &samples, &Context::default());
        assert_eq!(fields["result"], "ok");
        assert_eq!(fields["backends"], json!(["n1p2:80", "n2p2:80"]));
        assert_eq!(fields["client_seen"]["n2p2:80"], json!(["machine of 10.244.1.11"]));
        assert_eq!((&fields["within"], &fields["sticky"]), (&json!(false), &json!(false)));
        assert_eq!((&fields["intact"], &fields["one_backend"]), (&json!(true), &json!(true)));
        assert_eq!((&fields["reply_from"], fields.get("fast_fail")), (&json!("service"), None));
        samples[0].backends.push("n2p2:80".to_owned());
        samples[1].reply_from = Some("10.244.2.12:80".parse().unwrap());
        samples[2].intact = false;
        let fields = observed(&probe(json!({})), &samples, &Context::default());
        assert_eq!((&fields["intact"], &fields["one_backend"]), (&json!(false), &json!(false)));
        assert_eq!(fields["reply_from"], "other:10.244.2.12:80");
    }

    #[test]
    fn failures_are_listed_and_timed() {
        let samples = [ok("n1p2:80", 1), failed(Outcome::Timeout, 2500), failed(Outcome::Refused, 1)];
        let fields = observed(&probe(json!({})), &samples, &Context::default());
        assert_eq!((&fields["result"], &fields["fast_fail"]), (&json!(["ok", "refused", "timeout"]), &json!(false)));
        let fields = observed(&probe(json!({})), &samples[2..], &Context::default());
        assert_eq!(fields, json!({"result": "refused", "fast_fail": true}));
    }

    #[test]
    fn held_sockets_are_compared_each_with_its_own_past() {
        let opened = BTreeMap::from([(1, "n1p2:80".to_owned()), (2, "n2p2:80".to_owned())]);
        let context = Context { opened: Some(&opened), other: None };
        let same = |samples: [Sample; 2]| observed(&probe(json!({})), &samples, &context)["same"].clone();
        assert_eq!(same([ok("n2p2:80", 2), ok("n1p2:80", 1)]), json!(true));
        assert_eq!(same([ok("n1p2:80", 2), ok("n1p2:80", 1)]), json!(false));
        let other = BTreeSet::from(["n1p2:80".to_owned()]);
        let fields = observed(&probe(json!({})), &[ok("n1p2:80", 1)], &Context { opened: None, other: Some(&other) });
        assert_eq!(fields["same"], true);
    }

    #[test]
    fn an_uneven_spread_shows() {
        let spread = |first: usize, second: usize| {
            let samples: Vec<Sample> =
                [vec![ok("a:80", 1); first], vec![ok("b:80", 1); second]].into_iter().flatten().collect();
            observed(&probe(json!({})), &samples, &Context::default())["even"].clone()
        };
        assert_eq!((spread(60, 40), spread(80, 20)), (json!(true), json!(false)));
    }

    #[test]
    fn an_echo_comes_from_an_address_without_port() {
        let echo = Sample { reply_from: Some("10.96.0.9:0".parse().unwrap()), ..Sample::new() };
        let fields = observed(&probe(json!({"proto": "icmp"})), &[echo], &Context::default());
        assert_eq!(fields, json!({"result": "ok", "reply_from": "service"}));
    }

    #[test]
    fn a_page_is_compared_as_json() {
        let report = GetReport {
            outcome: Outcome::Ok,
            error: None,
            status: 503,
            headers: BTreeMap::from([("x-load-balancing-endpoint-weight".to_owned(), "0".to_owned())]),
            body: "{\"localEndpoints\": 0}".to_owned(),
        };
        let fields = json!(http_outcome(&[(report.clone(), Duration::ZERO), (report, Duration::ZERO)]));
        let expected =
            json!({"result": "ok", "http_status": 503, "weight_header": 0, "http_body": {"localEndpoints": 0}});
        assert_eq!(fields, expected);
    }
}
