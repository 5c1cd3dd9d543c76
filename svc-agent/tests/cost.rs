//! What programs cost in instructions, and changes in stores and system calls, against the tables in `cost/`: a regression
//! that no clock would show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../svc-testbed/tests/cost_table/mod.rs"]
mod cost_table;
mod publish_support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cost_table::{Costs, check};
use publish_support::kernel::PinnedMaps;
use publish_support::node::Node;
use publish_support::plans;
use svc_agent::datapath::maps::Access;
use svc_agent::datapath::{Capacities as MapCapacities, Variant, load};
use svc_agent::publish::memory::Write;
use svc_agent::publish::{Capacities, GRACE, Publisher};

const CAPACITIES: Capacities =
    Capacities { services: 256, slots: 8192, backends: 4096, frontends_v4: 512, frontends_v6: 512 };
/// The verifier's count moves a little with every change elsewhere.
const PERCENT: u64 = 2;

const ABOUT_CHANGES: &str = "\
# What a change writes: stores (of 8 bytes, to mapped memory) and calls (of bpf(2)). Beside it are 100 other Services.
# `cargo xtask cost --write` writes this file; a commit that makes a number larger says why.
";
const ABOUT_PROGRAMS: &str = "\
# Instructions of each program as the kernel runs it, before its own compiler, and those the verifier looked at, which are limited
# to a million. Recorded for one kernel version, compared only there.
# `cargo xtask cost --write` writes this file; a commit that makes a number larger says why.
";

fn table(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost").join(name)
}

/// A Service with so many endpoints, numbered from `first`.
fn service(first: u32, count: u32) -> String {
    let endpoints = (first..first + count).map(|n| format!(" 10.1.{}.{}:8080", n / 250, n % 250 + 1));
    format!("default/web:http 10.96.0.1:80/tcp forward{}", endpoints.collect::<String>())
}

fn costs_of(log: &[Write]) -> BTreeMap<String, u64> {
    let (mut stores, mut calls) = (0, 0);
    for write in log {
        match write {
            // All words but the publication.
            Write::Service(_) => stores += 7,
            Write::Slots(_, slots) => stores += slots.len() as u64,
            Write::Backend(_) => stores += 4,
            Write::InsertFrontend(..)
            | Write::DeleteFrontend(_)
            | Write::InsertName(..)
            | Write::DeleteName(_)
            | Write::DeleteCounters(_) => calls += 1,
            _ => stores += 1,
        }
    }
    BTreeMap::from([("stores".to_owned(), stores), ("calls".to_owned(), calls)])
}

#[test]
fn stores_and_calls_of_changes() {
    let mut costs = Costs::new();
    for size in [10, 1000] {
        let mut node = Node::new(CAPACITIES);
        for number in 1..=100 {
            let other = format!("default/other-{number} 10.97.0.{number}:80/tcp forward 10.9.0.1:80 10.9.0.2:80");
            node.publish(&[&other]);
        }
        let mut note = |what: &str, log: &[Write]| {
            costs.insert(format!("{what}, {size} endpoints"), costs_of(log));
        };
        note("a new Service", &node.publish(&[&service(0, size)]));
        note("nothing changes", &node.publish(&[&service(0, size)]));
        note("one endpoint more", &node.publish(&[&service(0, size + 1)]));
        node.pass(GRACE);
        note("one endpoint less", &node.publish(&[&service(0, size)]));
        node.pass(GRACE);
        let draining = format!("{} 10.1.200.1:8080+draining", service(1, size - 1));
        note("one endpoint replaced, the old one drains", &node.publish(&[&draining]));
        note("another affinity", &node.publish(&[&draining.replace("forward", "forward affinity=30s")]));
        note("no endpoint is left", &node.publish(&["default/web:http 10.96.0.1:80/tcp reject"]));
        note("the Service goes", &node.remove("default/web"));
        note("a second later", &node.pass(GRACE));
    }
    check(&table("changes.table"), ABOUT_CHANGES, &costs, 0);
}

/// The table counts what is asked of the maps; that stores are no system calls the kernel itself must say.
#[test]
fn an_endpoint_change_makes_no_system_call() {
    let Some(pinned) = PinnedMaps::create(CAPACITIES) else { return };
    let mut publisher = Publisher::new(pinned.open(Access::ReadWrite));
    let now = Instant::now();
    let publish = |publisher: &mut Publisher<_>, text: &str| {
        let plans = plans(&[text]);
        publisher.publish_service(now, &plans[0].id.service, &plans).map_err(|error| error.to_string())
    };
    publish(&mut publisher, &service(0, 10)).unwrap();
    let changes = [service(0, 11), service(1, 9), service(0, 10).replace("forward", "forward affinity=9s")];
    std::thread::scope(|scope| {
        // The filter is for this thread, which ends with it.
        scope.spawn(|| {
            forbid_bpf();
            for change in &changes {
                assert_eq!(publish(&mut publisher, change), Ok(true), "{change}");
            }
            // What needs a call fails here, or the filter would prove nothing. The marker of an address is one.
            let gone = publish(&mut publisher, "default/web:http 10.96.0.1:80/tcp reject");
            assert!(gone.is_ok_and(|changed| changed));
            assert!(publish(&mut publisher, "default/new:http 10.96.0.2:80/tcp reject").is_err());
        });
    });
}

/// From here on bpf(2) fails with EPERM in this thread.
fn forbid_bpf() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        // The number of the call.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_bpf as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls only read their arguments; `program` and `filter` outlive them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn instructions_of_programs() {
    let variants = [("stack", false), ("direct", true)];
    let mut costs = Costs::new();
    for (forwarding, forward_direct) in variants {
        let variant = Variant {
            trace: false,
            coarse_clock: true,
            tick_shift: 8,
            set_retval: true,
            ipv6_csum_flag: true,
            forward_direct,
            host_netns_cookie: 1,
            express: true,
        };
        let loaded = load(None, &variant, MapCapacities { flows: Some(1024) });
        let (ebpf, _programs) = loaded.unwrap_or_else(|error| panic!("needs root: {error}"));
        for (name, program) in ebpf.programs() {
            let Ok(info) = program.info() else { continue };
            let numbers = [
                ("translated", info.size_translated().map(|bytes| bytes / 8)),
                ("verified", info.verified_instruction_count()),
            ];
            let known = numbers.into_iter().filter_map(|(name, number)| Some((name.to_owned(), number?.into())));
            costs.insert(format!("{name} ({forwarding})"), known.collect());
        }
    }
    let kernel = kernel_version();
    let recorded = std::fs::read_to_string(table("programs.table")).unwrap_or_default();
    let writes = std::env::var_os("SVC_COST").is_some();
    if !writes && !recorded.contains(&format!("# Linux {kernel}\n")) {
        println!("SKIPPED: recorded for another kernel; this is Linux {kernel}: {costs:#?}");
        return;
    }
    check(&table("programs.table"), &format!("{ABOUT_PROGRAMS}# Linux {kernel}\n"), &costs, PERCENT);
}

/// As in `6.18`.
fn kernel_version() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}
