//! Requests and responses: list and watch.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::faults::{Fault, Verb, status};
use super::selector::Selector;
use super::{Change, Request, Resource, Shared};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Response = hyper::Response<Body>;

pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end together with this task.
    let mut connections = JoinSet::new();
    loop {
        // A client that gave up meanwhile is no reason to end.
        let Ok((stream, _)) = listener.accept().await else { continue };
        // As Go's servers do. A watch is many small writes; without this each waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(shared.clone(), request));
            // Clients may go away whenever they like.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> Result<Response, std::io::Error> {
    let Some(resource) = Resource::from_path(request.uri().path()) else {
        return Ok(json_response(404, &status(404)));
    };
    let query = parse_query(request.uri().query().unwrap_or_default());
    let verb = if query.get("watch").is_some_and(|watch| watch == "true") { Verb::Watch } else { Verb::List };
    let fault = {
        let mut state = shared.state();
        state.requests.push(Request { resource, verb, query: query.clone() });
        take_fault(&mut state.faults, resource, verb, query.contains_key("continue"))
    };
    match (fault, verb) {
        (Some(Fault::Status(code)), _) => Ok(json_response(code, &status(code))),
        (Some(Fault::ExpiredPage), _) => Ok(json_response(410, &status(410))),
        (Some(Fault::Silence), _) => std::future::pending().await,
        (Some(Fault::CutShort), Verb::List) => {
            let begin = Ok(Frame::data(Bytes::from_static(b"{\"kind\":\"List\",\"items\":[")));
            let end = Err(std::io::Error::other("cut short"));
            Ok(hyper::Response::new(BodyExt::boxed_unsync(StreamBody::new(stream::iter([begin, end])))))
        }
        (Some(Fault::BrokenJson), Verb::List) => Ok(text_response("{\"kind\": nonsense}")),
        // A list has no events.
        (None | Some(Fault::ErrorEvent(_)), Verb::List) => Ok(list(&shared, resource, &query)),
        (fault, Verb::Watch) => Ok(watch(shared, resource, &query, fault)),
    }
}

fn take_fault(
    faults: &mut Vec<(Resource, Verb, Fault, usize)>,
    resource: Resource,
    verb: Verb,
    continued: bool,
) -> Option<Fault> {
    let position = faults
        .iter()
        .position(|(of, on, fault, _)| *of == resource && *on == verb && (*fault != Fault::ExpiredPage || continued))?;
    let fault = faults[position].2.clone();
    faults[position].3 -= 1;
    if faults[position].3 == 0 {
        faults.remove(position);
    }
    Some(fault)
}

fn list(shared: &Shared, resource: Resource, query: &BTreeMap<String, String>) -> Response {
    let mut state = shared.state();
    let version = state.version;
    let (rest, list_version) = match query.get("continue") {
        Some(token) => match state.snapshots.remove(token) {
            Some(rest) => (rest, token.split('-').next().unwrap_or_default().to_owned()),
            None => return json_response(410, &status(410)),
        },
        None => {
            let selector = selector_of(query);
            let objects = state.stores.entry(resource).or_default().objects.values();
            let objects = objects.filter(|object| selector.matches(object)).cloned().collect();
            (objects, version.to_string())
        }
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let mut metadata = json!({"resourceVersion": list_version});
    let (page, rest) = rest.split_at(limit.min(rest.len()));
    if !rest.is_empty() {
        let token = format!("{list_version}-{}", state.requests.len());
        metadata["continue"] = token.clone().into();
        state.snapshots.insert(token, rest.to_vec());
    }
    let (api_version, kind) = resource.type_of_list();
    let items: Vec<&Value> = page.iter().map(|object| &**object).collect();
    json_response(200, &json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items}))
}

fn watch(shared: Arc<Shared>, resource: Resource, query: &BTreeMap<String, String>, fault: Option<Fault>) -> Response {
    let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let (expired, gone_as_status) = {
        let mut state = shared.state();
        (state.stores.entry(resource).or_default().expired > from, state.gone_as_status)
    };
    match (expired, gone_as_status) {
        (true, true) => return json_response(410, &status(410)),
        (true, false) => return body_response(stream::iter([Ok(event("ERROR", &status(410)))])),
        (false, _) => {}
    }
    let opening = match fault {
        Some(Fault::ErrorEvent(code)) => return body_response(stream::iter([Ok(event("ERROR", &status(code)))])),
        Some(Fault::CutShort) => {
            let half = Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"kind\":");
            return body_response(stream::iter([Ok(half), Err(std::io::Error::other("cut short"))]));
        }
        Some(Fault::BrokenJson) => Some(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"metadata\":7}}\n")),
        _ => None,
    };
    let selector = selector_of(query);
    let bookmarks = query.get("allowWatchBookmarks").is_some_and(|allow| allow == "true");
    let mut signal = shared.signal.subscribe();
    let epoch = signal.borrow_and_update().epoch;
    // A broken event hides a change: the client must not believe that it has seen it.
    let seen = if opening.is_some() { shared.state().version } else { from };
    let follow = (shared, selector, signal, Some(seen), opening);
    body_response(stream::unfold(follow, move |(shared, selector, mut signal, seen, mut opening)| async move {
        // Nothing follows an error.
        let mut seen = seen?;
        if let Some(opening) = opening.take() {
            return Some((Ok(opening), (shared, selector, signal, Some(seen), None)));
        }
        loop {
            if signal.borrow_and_update().epoch != epoch {
                return None;
            }
            let Some((changes, version)) = changes_since(&shared, resource, seen) else {
                let gone = (shared, selector, signal, None, None);
                return Some((Ok(event("ERROR", &status(410))), gone));
            };
            seen = seen.max(version);
            let events: Vec<u8> = changes.iter().filter_map(|change| to_event(change, &selector)).flatten().collect();
            if !events.is_empty() {
                return Some((Ok(events.into()), (shared, selector, signal, Some(seen), None)));
            }
            if tokio::time::timeout(shared.bookmark_every, signal.changed()).await.is_err() && bookmarks {
                let (api_version, _) = resource.type_of_list();
                let kind = resource.type_of_list().1.trim_end_matches("List");
                let object = json!({
                    "apiVersion": api_version, "kind": kind,
                    "metadata": {"resourceVersion": seen.to_string(), "creationTimestamp": null},
                });
                shared.state().stores.entry(resource).or_default().bookmark = seen;
                return Some((Ok(event("BOOKMARK", &object)), (shared, selector, signal, Some(seen), None)));
            }
        }
    }))
}

/// `None` if some of them are forgotten.
fn changes_since(shared: &Shared, resource: Resource, seen: u64) -> Option<(Vec<Change>, u64)> {
    let mut state = shared.state();
    let version = state.version;
    let store = state.stores.entry(resource).or_default();
    let changes = store.history.iter().filter(|change| change.version > seen).cloned().collect();
    (seen >= store.forgotten).then_some((changes, version))
}

/// What the change looks like through the selector: an object may come into view or go out of it.
fn to_event(change: &Change, selector: &Selector) -> Option<Bytes> {
    let before = change.before.as_deref().filter(|object| selector.matches(object));
    let after = change.after.as_deref().filter(|object| selector.matches(object));
    match (before, after) {
        (None, None) => None,
        (None, Some(object)) => Some(event("ADDED", object)),
        (Some(_), Some(object)) => Some(event("MODIFIED", object)),
        (Some(object), None) => {
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = change.version.to_string().into();
            Some(event("DELETED", &object))
        }
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}

fn selector_of(query: &BTreeMap<String, String>) -> Selector {
    let text = |key: &str| query.get(key).map_or("", String::as_str);
    Selector::parse(text("labelSelector"), text("fieldSelector"))
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decode(key), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|digit| char::from(digit).to_digit(16)).unwrap_or_default() as u8;
                (digit() << 4) | digit()
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn json_response(code: u16, value: &Value) -> Response {
    let mut response = text_response(&value.to_string());
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn text_response(text: &str) -> Response {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never: Infallible| match never {});
    let mut response = hyper::Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn body_response(chunks: impl stream::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static) -> Response {
    use futures::StreamExt;
    hyper::Response::new(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}
