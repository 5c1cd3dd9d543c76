//! The one event type both sources speak. Deliberately small: list boundaries plus changes of single objects.
//! Neighbour: [`crate::index::Index::apply`] is the only consumer.

use std::fmt;
use std::sync::Arc;

use crate::model::{EndpointSlice, Node, ObjectName, Service};

/// The kinds of objects a source follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Service, Self::EndpointSlice, Self::Node];

    /// Name of the resource in the API and in RBAC rules.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Node => "nodes",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        })
    }
}

/// One step of a source. Objects that a completed list did not mention are gone; a list that starts again before it
/// completed removes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceEvent {
    /// A list of everything of this kind begins.
    ListStarted(Kind),
    /// The list was complete: what it did not mention no longer exists.
    ListCompleted(Kind),
    ServiceApplied(Arc<Service>),
    /// Also a Service that exists but is not ours to implement (any more).
    ServiceDeleted(ObjectName),
    SliceApplied(Arc<EndpointSlice>),
    /// Also a slice that exists but is not ours to use (any more).
    SliceDeleted(ObjectName),
    NodeApplied(Arc<Node>),
    NodeDeleted,
    /// The object exists but cannot be understood: its last good version stays in force.
    Kept(Kind, ObjectName),
}

impl SourceEvent {
    pub(super) fn deleted(kind: Kind, name: ObjectName) -> Self {
        match kind {
            Kind::Service => Self::ServiceDeleted(name),
            Kind::EndpointSlice => Self::SliceDeleted(name),
            Kind::Node => Self::NodeDeleted,
        }
    }
}
