//! From the text of one file to the objects in it. A file is understood as a whole or not at all; a single object that
//! is wrong in itself does not spoil the others.

use std::ffi::OsStr;
use std::path::Path;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::claims::Key;
use crate::model::ObjectName;
use crate::source::convert::{Followed, ParseError, Parsed, RejectReason, Rejection, parse_object_name};
use crate::source::{Interner, Kind, SourceEvent};

/// The file cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub(super) struct SyntaxError {
    pub line: u64,
    pub message: String,
}

/// An object of one of our kinds.
#[derive(Debug)]
pub(super) struct Found {
    /// Where the document begins that holds it.
    pub line: u64,
    pub kind: Kind,
    /// `None` for an object without a name.
    pub key: Option<Key>,
    pub parsed: Result<Parsed<SourceEvent>, ParseError>,
}

/// Everything of our kinds in the file, in order. Other kinds, and Nodes other than `node_name`, are passed over.
pub(super) fn parse_file(
    interner: &mut Interner,
    file: &OsStr,
    content: &str,
    node_name: &str,
) -> Result<Vec<Found>, SyntaxError> {
    let documents = match Path::new(file).extension() {
        Some(extension) if extension == "json" => parse_json(content)?,
        _ => parse_yaml(content)?,
    };
    let mut found = Vec::new();
    for (line, document) in documents {
        collect(interner, line, document, &mut found)?;
    }
    found.retain(|found| {
        found.kind != Kind::Node || found.key.as_ref().is_some_and(|(_, name)| *name.name == *node_name)
    });
    Ok(found)
}

fn parse_yaml(content: &str) -> Result<Vec<(u64, Value)>, SyntaxError> {
    // The limits are against strangers' input; a file with all Services of a large cluster exceeds them.
    let options = serde_saphyr::options! { budget: None, with_snippet: false };
    let documents: Vec<Spanned<Value>> =
        serde_saphyr::from_multiple_with_options(content, options).map_err(|error| SyntaxError {
            line: error.location().map_or(1, |location| location.line()),
            message: error.without_snippet().to_string(),
        })?;
    Ok(documents.into_iter().map(|document| (document.referenced.line(), document.value)).collect())
}

fn parse_json(content: &str) -> Result<Vec<(u64, Value)>, SyntaxError> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(content).into_iter::<Value>();
    loop {
        let rest = content.get(stream.byte_offset()..).unwrap_or_default();
        let begin = content.len() - rest.trim_start().len();
        let line = 1 + content.as_bytes().iter().take(begin).filter(|&&byte| byte == b'\n').count() as u64;
        match stream.next() {
            None => return Ok(documents),
            Some(Ok(document)) => documents.push((line, document)),
            Some(Err(error)) => {
                return Err(SyntaxError { line: error.line() as u64, message: error.to_string() });
            }
        }
    }
}

fn collect(interner: &mut Interner, line: u64, document: Value, found: &mut Vec<Found>) -> Result<(), SyntaxError> {
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "Service") => found.push(parse_object::<core::Service>(interner, line, &document)),
        ("v1", "Node") => found.push(parse_object::<core::Node>(interner, line, &document)),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            found.push(parse_object::<discovery::EndpointSlice>(interner, line, &document));
        }
        (api_version, kind) if kind.ends_with("List") => {
            let (api_version, kind) = (api_version.to_owned(), kind.trim_end_matches("List").to_owned());
            collect_items(interner, line, document, (&api_version, &kind), found)?;
        }
        ("", _) | (_, "") => {
            return Err(SyntaxError { line, message: "the document has no apiVersion or no kind".to_owned() });
        }
        (api_version, kind) => tracing::debug!(line, api_version, kind, "kind is not ours"),
    }
    Ok(())
}

/// Items of a typed list (`ServiceList`) may leave out what the list says of all of them.
fn collect_items(
    interner: &mut Interner,
    line: u64,
    mut list: Value,
    (api_version, kind): (&str, &str),
    found: &mut Vec<Found>,
) -> Result<(), SyntaxError> {
    let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) else {
        return Ok(());
    };
    for mut item in items {
        if let (Some(fields), false) = (item.as_object_mut(), kind.is_empty()) {
            fields.entry("apiVersion").or_insert_with(|| api_version.into());
            fields.entry("kind").or_insert_with(|| kind.into());
        }
        collect(interner, line, item, found)?;
    }
    Ok(())
}

fn parse_object<K: Followed + DeserializeOwned>(interner: &mut Interner, line: u64, document: &Value) -> Found {
    let parsed = match serde_path_to_error::deserialize::<_, K>(document) {
        Ok(object) => object.parse(interner),
        Err(error) => Err(Rejection::new(RejectReason::Malformed, error.to_string()).into()),
    };
    // Read from the document, since what does not fit its type should be called by its name all the same.
    let metadata = document.get("metadata").cloned().unwrap_or_default();
    let field = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
    let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: field("name"),
        namespace: field("namespace"),
        ..Default::default()
    };
    let name = parse_object_name(interner, &metadata).ok();
    let name = name.map(|name| match K::KIND {
        Kind::Node => ObjectName { namespace: interner.string(""), ..name },
        Kind::Service | Kind::EndpointSlice => name,
    });
    Found { line, kind: K::KIND, key: name.map(|name| (K::KIND, name)), parsed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str =
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: fd96::1, ports: [{port: 80}]}}";

    fn parse(file: &str, content: &str) -> Result<Vec<Found>, SyntaxError> {
        parse_file(&mut Interner::default(), OsStr::new(file), content, "n1")
    }

    fn summary(found: &[Found]) -> Vec<(u64, String, bool)> {
        let name = |found: &Found| found.key.as_ref().map_or("?".to_owned(), |(kind, name)| format!("{kind} {name}"));
        found.iter().map(|found| (found.line, name(found), found.parsed.is_ok())).collect()
    }

    #[test]
    fn documents_of_a_yaml_file() {
        let content = format!(
            "# comment\n---\n{SERVICE}\n---\n\n---\napiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: Node\n\
             metadata:\n  name: n1\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: n2}}\n...\n"
        );
        let found = parse("a.yaml", &content).unwrap();
        assert_eq!(summary(&found), [(3, "Service default/web".to_owned(), true), (10, "Node /n1".to_owned(), true)]);
    }

    #[test]
    fn lists() {
        let content = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {SERVICE}\n---\napiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSliceList\nitems:\n- metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n  \
             addressType: IPv4\n  endpoints: [{{addresses: [10.0.0.1]}}]\n"
        );
        let found = parse("a.yml", &content).unwrap();
        assert_eq!(
            summary(&found),
            [(1, "Service default/web".to_owned(), true), (6, "EndpointSlice default/web-1".to_owned(), true)]
        );
    }

    #[test]
    fn json_documents() {
        let content = "\n{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n1\"}}\n\n\
                       {\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"x\"}}";
        let found = parse("a.json", content).unwrap();
        assert_eq!(summary(&found), [(2, "Node /n1".to_owned(), true), (4, "Service default/x".to_owned(), false)]);
        let error = parse("a.json", "{\"apiVersion\": \"v1\",\n \"kind\": }").unwrap_err();
        assert_eq!(error.line, 2);
    }

    #[test]
    fn a_broken_file_names_the_line() {
        let content = format!("{SERVICE}\n---\napiVersion: v1\nkind: Service\n  metadata: oops\n");
        let error = parse("a.yaml", &content).unwrap_err();
        assert!((4..=5).contains(&error.line), "{error}");
        let error = parse("a.yaml", "apiVersion: v1\nkind: Service\nkind: Service\n").unwrap_err();
        assert_eq!(error.line, 3, "{error}");
        let error = parse("a.yaml", &format!("{SERVICE}\n---\nmetadata: {{name: x}}\n")).unwrap_err();
        assert_eq!(error.line, 3, "{error}");
    }

    #[test]
    fn an_object_of_the_wrong_form_names_the_field() {
        let content = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: http}]}\n";
        let found = parse("a.yaml", content).unwrap();
        let [Found { parsed: Err(error), key: Some((Kind::Service, name)), .. }] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(name.to_string(), "default/web");
        assert!(error.to_string().contains("spec.ports[0].port"), "{error}");
    }

    #[test]
    fn more_objects_than_the_parser_expects_of_strangers() {
        let content = format!("---\n{SERVICE}\n").repeat(3_000);
        assert_eq!(parse("a.yaml", &content).unwrap().len(), 3_000);
    }
}
