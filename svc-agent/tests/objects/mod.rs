//! Objects as the API server has them, and the events that a source makes of them.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test support, used in parts")]

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;
use svc_agent::index::Index;
use svc_agent::model::ObjectName;
use svc_agent::source::{Interner, Kind, ParseError, SourceEvent, parse_endpoint_slice, parse_node, parse_service};

/// By kind and `namespace/name`.
pub type Objects = BTreeMap<(Kind, String), Value>;

pub fn kind_of(kind: &str) -> Kind {
    match kind {
        "Service" => Kind::Service,
        "EndpointSlice" => Kind::EndpointSlice,
        "Node" => Kind::Node,
        other => panic!("no such kind: {other}"),
    }
}

/// What a source says when it sees the object.
pub fn event(interner: &mut Interner, kind: Kind, name: &str, value: &Value) -> SourceEvent {
    let value = value.clone();
    let parsed = match kind {
        Kind::Service => {
            let service: Service = serde_json::from_value(value).unwrap();
            parse_service(interner, &service).map(|parsed| SourceEvent::ServiceApplied(Arc::new(parsed.object)))
        }
        Kind::EndpointSlice => {
            let slice: EndpointSlice = serde_json::from_value(value).unwrap();
            parse_endpoint_slice(interner, &slice).map(|parsed| SourceEvent::SliceApplied(Arc::new(parsed.object)))
        }
        Kind::Node => {
            let node: Node = serde_json::from_value(value).unwrap();
            parse_node(interner, &node).map(|parsed| SourceEvent::NodeApplied(Arc::new(parsed.object)))
        }
    };
    match parsed {
        Ok(event) => event,
        Err(ParseError::Ignored(_)) => deleted(kind, name),
        Err(error) => panic!("{name}: {error:?}"),
    }
}

pub fn deleted(kind: Kind, name: &str) -> SourceEvent {
    let (namespace, object) = name.split_once('/').unwrap();
    let object = ObjectName { namespace: namespace.into(), name: object.into() };
    match kind {
        Kind::Service => SourceEvent::ServiceDeleted(object),
        Kind::EndpointSlice => SourceEvent::SliceDeleted(object),
        Kind::Node => SourceEvent::NodeDeleted,
    }
}

/// A complete list of every kind.
pub fn list(index: &mut Index, interner: &mut Interner, objects: &Objects) {
    for kind in Kind::ALL {
        index.apply(SourceEvent::ListStarted(kind));
        for ((_, name), value) in objects.iter().filter(|((of, _), _)| *of == kind) {
            index.apply(event(interner, kind, name, value));
        }
        index.apply(SourceEvent::ListCompleted(kind));
    }
}
