//! The kernel's maps behind typed operations: [`KernelMaps`] for what the agent publishes, [`Traffic`] for what the
//! programs write. Must not decide what to write; `publish` does.
//! Neighbours: the loader creates and pins maps, `super::mmap` maps arrays into memory.

mod batch;
mod counters;
mod kernel;
mod open;
mod table;
mod traffic;

pub use super::mmap::Access;
pub use kernel::KernelMaps;
pub use open::{OpenError, SHAPES, Shape, check_shape};
pub use traffic::Traffic;
