//! Looks at the datapath and shows it: lists for `svc-agent get`, lines for `monitor`, metrics and health over HTTP.
//! Never writes to a map. Rows are pure functions of what a [`reader::MapReader`] answers; `datapath` has the real one.
//! The fields of every JSON form are listed at its row type and stay stable.

pub mod backends;
mod collect;
pub mod drops;
pub mod events;
mod exposition;
pub mod flows;
pub mod health;
pub mod label;
mod metrics;
mod occupancy;
pub mod pinned;
pub mod print;
mod process;
pub mod reader;
mod serve;
pub mod services;
mod shared;
mod source;

pub use occupancy::{Fill, FillWatch};
pub use pinned::{PinnedMaps, monotonic_seconds};
pub use reader::{MapReader, ReadError};
pub use serve::{health_router, metrics_router, serve};
pub use shared::{Endpoint, Scope, Settings, Shared};
pub use source::SourceState;
