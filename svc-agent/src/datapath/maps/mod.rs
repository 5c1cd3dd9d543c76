//! The kernel's maps behind typed operations: [`KernelMaps`] for what the agent publishes, [`Traffic`] for what the
//! programs write, [`Forgettable`] for what of that may be removed. Must not decide what to write; `publish` and `sweep` do.
//! Neighbours: the loader creates and pins maps, `super::mmap` maps arrays into memory.

mod batch;
mod counters;
mod forgettable;
mod kernel;
mod open;
mod table;
mod traffic;

pub use super::mmap::Access;
pub use forgettable::Forgettable;
pub use kernel::KernelMaps;
pub use open::{OpenError, SHAPES, Shape, check_shape};
pub use table::{Element, Slice, Table};
pub use traffic::Traffic;
