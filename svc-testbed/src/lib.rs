//! A lab of network namespaces for demo, tests and benchmarks.
pub mod packets;
