//! A lab of network namespaces for demo, tests and benchmarks: nodes and pods, servers and clients, DNS, and the agent's life in
//! it. Everything happens in namespaces and cgroups the lab made itself; when a [`Lab`] is dropped nothing of it is left.
//! Servers and clients are child processes, because socket hooks follow the cgroup of a process.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod cgroup;
pub mod client;
pub mod conformance;
pub mod demo;
pub mod dns;
mod lab;
pub mod lookup;
pub mod manifests;
pub mod netns;
pub mod packets;
pub mod process;
pub mod resolver;
pub mod serve;
pub mod soak;
mod stdio;
pub mod wait;
pub mod wire;

pub use agent::{AgentOptions, AgentProcess};
pub use client::{Bulk, Client, Get, GetReport, Load, Outcome, Ping, Sample, Tcp, Udp};
pub use lab::{Family, Helper, Kind, Lab, LabBuilder, LabId, Machine, NodeSpec, PodSpec, Shape, janitor};
pub use manifests::Manifests;
pub use serve::handle::{Ports, Server};
