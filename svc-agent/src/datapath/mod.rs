//! The only part that knows aya: load, pin, attach, map access.

pub mod events;
pub mod maps;
mod mmap;
