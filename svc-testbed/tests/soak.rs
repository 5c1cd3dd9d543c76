//! A minute of the soak with a seed that never changes: the 30 minutes of `cargo xtask soak` are for releases and for doubts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use svc_testbed::{
    Helper,
    soak::{SoakArgs, soak},
};

fn run(seed: u64, socket_lb: &str) {
    let helper = Helper::at(env!("CARGO_BIN_EXE_svc-testbed"));
    let args = SoakArgs {
        minutes: 0.75,
        seed: Some(seed),
        socket_lb: socket_lb.to_owned(),
        services: 4,
        restart_every: 20,
        bridge: false,
        until_empty: false,
    };
    match soak(helper, &args) {
        Ok(summary) => println!("{summary}"),
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn nobody_is_misled_stuck_or_forgotten_per_packet() {
    run(4711, "off");
}
