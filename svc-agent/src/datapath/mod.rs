//! The only part that knows aya: load, pin, attach, map access.

pub mod maps;
mod mmap;
