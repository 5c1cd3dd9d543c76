//! Where objects come from: two sources feed one event type into one channel, in the order the objects changed.
//! Kubernetes types stop here; nothing behind this module parses or defaults anything.
//! Neighbours: [`kubernetes`] and [`manifests`] produce events through [`convert`], [`crate::index`] consumes them.

mod convert;
mod event;
mod intern;
pub mod kubernetes;
pub mod manifests;
mod stats;

pub use convert::{
    Ignored, ParseError, Parsed, RejectReason, Rejection, parse_endpoint_slice, parse_node, parse_service,
};
pub use event::{Kind, SourceEvent};
pub use intern::Interner;
pub use kubernetes::ApiRequests;
pub use stats::{KindStats, SourceStats};
