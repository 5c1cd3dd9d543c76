//! The same packet cases through the real programs in the kernel (BPF_PROG_TEST_RUN). Needs root and the object of
//! `cargo xtask build-ebpf`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use svc_testbed::packets::cases;
use svc_testbed::packets::kernel::{Kernel, can_verify_complete, check, object_path};

#[test]
fn every_case() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: loading programs needs root");
        return;
    }
    let mut kernel = Kernel::load(&object_path()).expect("the programs load");
    let watched = can_verify_complete(&mut kernel);
    if !watched {
        eprintln!("this kernel does not watch over CHECKSUM_COMPLETE in test runs (6.16 does): not checked");
    }
    let mut failures = Vec::new();
    for case in cases::all().iter().filter(|case| case.native_only.is_none()) {
        for complete in [false, true] {
            if complete && !watched {
                continue;
            }
            if let Err(report) = check(&mut kernel, case, complete) {
                failures.push(format!("with the kernel's own sum: {complete}\n{report}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} cases fail\n\n{}", failures.len(), failures.join("\n"));
}
