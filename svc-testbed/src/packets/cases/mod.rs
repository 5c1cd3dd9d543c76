//! The cases, one file per topic. Must not contain logic beyond building them.

mod choice;
mod clash;
mod direct;
mod echo;
mod errors;
mod fragments;
mod gone;
mod hairpin;
mod headers;
mod limits;
mod node;
mod pass;
mod refused;
mod sctp;
mod tcp;
mod udp;
mod uplink;

use super::case::Case;

/// Addresses most cases use.
pub mod cast {
    /// A client pod of this node.
    pub const CLIENT: &str = "10.244.3.5:40000";
    pub const CLIENT_V6: &str = "[fd00:10:244:3::5]:40000";
    pub const NGINX: &str = "10.110.110.219:80";
    pub const NGINX_V6: &str = "[fd00:10:110::db]:80";
    pub const POD_1: &str = "10.244.3.46:8080";
    pub const POD_2: &str = "10.244.3.47:8080";
    pub const POD_V6: &str = "[fd00:10:244:3::46]:8080";
    pub const DNS: &str = "10.96.0.10:53";
    pub const DNS_POD: &str = "10.244.3.2:53";
}

/// All cases.
pub fn all() -> Vec<Case> {
    [
        pass::cases(),
        tcp::cases(),
        gone::cases(),
        sctp::cases(),
        udp::cases(),
        refused::cases(),
        choice::cases(),
        clash::cases(),
        hairpin::cases(),
        uplink::cases(),
        node::cases(),
        errors::cases(),
        echo::cases(),
        headers::cases(),
        fragments::cases(),
        limits::cases(),
        direct::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
