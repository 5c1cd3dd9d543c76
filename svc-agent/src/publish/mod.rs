//! Makes plans visible to the kernel: the only place that decides what is written to the maps, and in which order.
//! [`Publisher`] knows what the maps hold and writes the difference; [`Maps`] is the seam to the kernel.
//! Must not know Kubernetes nor aya.

mod adopt;
mod allocate;
mod apply;
mod error;
pub mod faulty;
pub mod maps;
mod markers;
pub mod memory;
mod publisher;
mod record;
mod retire;
mod revive;
mod settle;
pub mod snapshot;
mod stats;
pub mod words;

pub use adopt::Adopted;
pub use allocate::GRACE;
pub use error::PublishError;
pub use maps::{BatchError, Capacities, ConfigField, Frontend, Maps, MapsError};
pub use publisher::{Failures, Published, Publisher};
pub use snapshot::MapsSnapshot;
pub use stats::{MapUsage, Stats};
