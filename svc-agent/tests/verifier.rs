//! The kernel accepts every program in every variant. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use svc_agent::datapath::{CLASSIFIERS, Capacities, HOOKS, Variant, load};

const NEWEST: Variant = Variant {
    trace: false,
    coarse_clock: true,
    tick_shift: 8,
    set_retval: true,
    ipv6_csum_flag: true,
    forward_direct: true,
    host_netns_cookie: 1,
    express: true,
};
const OLDEST: Variant = Variant {
    trace: false,
    coarse_clock: false,
    tick_shift: 10,
    set_retval: false,
    ipv6_csum_flag: false,
    forward_direct: false,
    host_netns_cookie: 0,
    express: true,
};

/// Code that one fact removes or adds does not depend on another, so the extremes and each fact alone are enough.
#[test]
fn the_verifier_accepts_every_program_in_every_variant() {
    for variant in [
        NEWEST,
        OLDEST,
        Variant { trace: true, ..NEWEST },
        Variant { trace: true, ..OLDEST },
        Variant { coarse_clock: false, ..NEWEST },
        Variant { set_retval: false, ..NEWEST },
        Variant { ipv6_csum_flag: false, ..NEWEST },
        Variant { forward_direct: false, ..NEWEST },
        Variant { forward_direct: true, ..OLDEST },
        Variant { host_netns_cookie: 0, ..NEWEST },
    ] {
        let loaded = load(None, &variant, Capacities { flows: Some(1024) });
        let (_, programs) = loaded.unwrap_or_else(|error| panic!("{variant:?}: {error}"));
        for name in CLASSIFIERS.into_iter().chain(HOOKS) {
            programs.get(name).unwrap();
        }
        programs.express().unwrap().unwrap_or_else(|error| panic!("{variant:?}: {error}"));
    }
}
