//! The few selectors the agent uses: label absence, label presence, label equality, and fields of the metadata.

use serde_json::Value;

pub struct Selector {
    labels: Vec<Term>,
    fields: Vec<(String, String)>,
}

enum Term {
    Absent(String),
    Present(String),
    Equal(String, String),
}

impl Selector {
    pub fn parse(labels: &str, fields: &str) -> Self {
        let terms = |text: &str| text.split(',').filter(|term| !term.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let pair = |term: &str| term.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let label = |term: String| match (term.strip_prefix('!'), pair(&term)) {
            (Some(absent), _) => Term::Absent(absent.to_owned()),
            (None, Some((key, value))) => Term::Equal(key, value),
            (None, None) => Term::Present(term),
        };
        Self {
            labels: terms(labels).into_iter().map(label).collect(),
            fields: terms(fields).iter().filter_map(|term| pair(term)).collect(),
        }
    }

    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let label = |term: &Term| match term {
            Term::Absent(key) => labels.get(key).is_none(),
            Term::Present(key) => labels.get(key).is_some(),
            Term::Equal(key, value) => labels.get(key).and_then(Value::as_str) == Some(value),
        };
        let field = |(path, value): &(String, String)| {
            let found = path.split('.').try_fold(object, |object, key| object.get(key));
            found.and_then(Value::as_str) == Some(value)
        };
        self.labels.iter().all(label) && self.fields.iter().all(field)
    }
}
