//! The per-node agent as a library. Data flows one way: `source → index → plan → publish → datapath`.
//! Kubernetes types stop at [`source`], aya types stop at [`datapath`]; [`plan`] has no I/O, clock or randomness.

pub mod audit;
pub mod cli;
pub mod datapath;
pub mod index;
pub mod model;
pub mod observe;
pub mod plan;
pub mod publish;
pub mod source;
pub mod sweep;
