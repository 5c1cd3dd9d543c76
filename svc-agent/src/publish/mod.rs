//! Makes plans visible to the kernel: the only place that decides what is written to the maps, and in which order.

pub mod maps;
pub mod words;

pub use maps::{BatchError, Capacities, ConfigField, Frontend, Maps, MapsError};
