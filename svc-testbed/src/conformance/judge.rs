//! Whether an observed outcome is an expected one. Pure; the rules are those of "Judging" in conformance/README.md.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::corpus::{Expected, Fields};

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Pass,
    /// Fields of the variant that came nearest: name, expected, observed
    Fail(Vec<Difference>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub field: String,
    pub expected: Value,
    pub observed: Value,
}

/// `any_failure`: the probe asked something that must not work, however it fails.
pub fn judge(any_failure: bool, expected: &Expected, observed: &Fields) -> Verdict {
    let differences = expected.variants.iter().map(|variant| differences(any_failure, variant, observed));
    match differences.min_by_key(Vec::len) {
        Some(differences) if !differences.is_empty() => Verdict::Fail(differences),
        _ => Verdict::Pass,
    }
}

fn differences(any_failure: bool, expected: &Fields, observed: &Fields) -> Vec<Difference> {
    let results = texts(expected.get("result"));
    let fails_somehow = !texts(observed.get("result")).contains("ok");
    let must_fail = !results.contains("ok");
    let prohibited = results == BTreeSet::from(["prohibited"]);
    if must_fail && fails_somehow && (any_failure || prohibited) {
        return Vec::new();
    }
    let agrees = |field: &str, expected_value: &Value| match (field, observed.get(field)) {
        ("result", Some(value)) => same_result(expected_value, value),
        ("client_seen", Some(value)) => same_clients(expected_value, value, expected.contains_key("within")),
        ("fast_fail", _) if *expected_value == json!(false) => true,
        (_, value) => value == Some(expected_value),
    };
    let wrong = expected.iter().filter(|(field, value)| !agrees(field, value));
    wrong
        .map(|(field, value)| Difference {
            field: field.clone(),
            expected: value.clone(),
            observed: observed.get(field).cloned().unwrap_or_default(),
        })
        .collect()
}

/// A client's own kernel that refuses to send is as good as a refusal from outside.
fn same_result(expected: &Value, observed: &Value) -> bool {
    let (expected, mut observed) = (texts(Some(expected)), texts(Some(observed)));
    if expected.contains("refused") && !expected.contains("prohibited") && observed.remove("prohibited") {
        observed.insert("refused");
    }
    expected == observed
}

/// `observed` is always by backend. A list of names holds for each backend; only where it is not said which backends answer
/// (`within`) it is what all of them saw together.
fn same_clients(expected: &Value, observed: &Value, within: bool) -> bool {
    let Value::Object(by_backend) = observed else { return false };
    match expected {
        Value::Array(_) if within => {
            let together: BTreeSet<&str> = by_backend.values().flat_map(|seen| texts(Some(seen))).collect();
            together == texts(Some(expected))
        }
        Value::Array(_) => by_backend.values().all(|seen| seen == expected),
        other => other == observed,
    }
}

fn texts(value: Option<&Value>) -> BTreeSet<&str> {
    match value {
        Some(Value::String(text)) => BTreeSet::from([text.as_str()]),
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    fn passes(expected: Value, observed: Value) -> bool {
        judge(false, &Expected::from(fields(expected)), &fields(observed)) == Verdict::Pass
    }

    #[test]
    fn every_expected_field_must_be_there_and_others_do_not_matter() {
        let observed = json!({"result": "ok", "backends": ["n1p2:80"], "intact": true});
        assert!(passes(json!({"result": "ok", "backends": ["n1p2:80"]}), observed.clone()));
        assert!(!passes(json!({"result": "ok", "backends": ["n1p2:80", "n2p2:80"]}), observed.clone()));
        assert!(!passes(json!({"result": "ok", "path_mtu": 1300}), observed.clone()));
        assert!(!passes(json!({"result": ["ok", "timeout"]}), observed));
    }

    #[test]
    fn any_variant_will_do_and_the_nearest_explains() {
        let expected = json!({"variants": {
            "nftables": {"result": "refused", "fast_fail": true},
            "iptables": {"result": "timeout", "fast_fail": false}}});
        assert!(passes(expected.clone(), json!({"result": "refused", "fast_fail": true})));
        assert!(passes(expected.clone(), json!({"result": "timeout", "fast_fail": false})));
        let verdict =
            judge(false, &Expected::from(fields(expected)), &fields(json!({"result": "refused", "fast_fail": false})));
        assert!(matches!(verdict, Verdict::Fail(differences) if differences.len() == 1));
    }

    #[test]
    fn failing_sooner_or_on_the_own_side_is_never_wrong() {
        assert!(passes(
            json!({"result": "timeout", "fast_fail": false}),
            json!({"result": "timeout", "fast_fail": true})
        ));
        assert!(passes(
            json!({"result": "refused", "fast_fail": true}),
            json!({"result": "prohibited", "fast_fail": true})
        ));
        assert!(passes(
            json!({"result": "prohibited", "fast_fail": true}),
            json!({"result": "timeout", "fast_fail": false})
        ));
        assert!(!passes(json!({"result": "prohibited"}), json!({"result": "ok"})));
        assert!(!passes(json!({"result": "prohibited"}), json!({"result": ["ok", "refused"]})));
        assert!(!passes(json!({"result": "timeout"}), json!({"result": "refused"})));
    }

    #[test]
    fn where_anything_but_success_is_right_one_success_is_wrong() {
        let expected = Expected::from(fields(json!({"result": "timeout", "fast_fail": false})));
        for (result, verdict) in [(json!("refused"), true), (json!(["refused", "timeout"]), true), (json!("ok"), false)]
        {
            assert_eq!(judge(true, &expected, &fields(json!({"result": result}))) == Verdict::Pass, verdict);
        }
        assert_ne!(judge(true, &expected, &fields(json!({"result": ["ok", "timeout"]}))), Verdict::Pass);
    }

    #[test]
    fn clients_are_compared_by_backend_unless_any_backend_may_answer() {
        let observed = json!({"result": "ok", "client_seen": {"n1p2:80": ["n1"], "n2p2:80": ["n1p2"]}});
        assert!(passes(json!({"client_seen": {"n1p2:80": ["n1"], "n2p2:80": ["n1p2"]}}), observed.clone()));
        assert!(!passes(json!({"client_seen": ["n1", "n1p2"]}), observed.clone()));
        let mut either = observed;
        either["within"] = json!(true);
        assert!(passes(json!({"within": true, "client_seen": ["n1", "n1p2"]}), either.clone()));
        assert!(!passes(json!({"within": true, "client_seen": ["n1"]}), either));
        assert!(passes(json!({"client_seen": ["n1p1"]}), json!({"client_seen": {"n1p2:80": ["n1p1"]}})));
    }
}
