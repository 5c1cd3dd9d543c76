//! All packet cases on the packet logic as ordinary code, with complete and with offloaded checksums.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use svc_testbed::packets::{cases, native};

#[test]
fn every_case() {
    let failures: Vec<String> = cases::all().iter().filter_map(|case| native::check(case).err()).collect();
    assert!(failures.is_empty(), "{} cases fail\n\n{}", failures.len(), failures.join("\n"));
}
