//! The same packet cases through the real programs in the kernel (BPF_PROG_TEST_RUN), and damaged packets through both
//! the programs and the ordinary code. Needs root and the object of `cargo xtask build-ebpf`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fmt::Write as _;

use svc_testbed::packets::case::{Case, Hook, Outcome};
use svc_testbed::packets::cases;
use svc_testbed::packets::frame::Checksums;
use svc_testbed::packets::kernel::{Kernel, can_verify_complete, check, object_path};
use svc_testbed::packets::packet::{MemoryPacket, Offload};
use svc_testbed::packets::runner::Dataplane;
use svc_testbed::packets::show;
use svc_testbed::packets::tables::MemoryTables;

/// Loading verifies every program, so one test does it once for both parts.
#[test]
fn kernel_and_code_agree() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: loading programs needs root");
        return;
    }
    // Fragments that are sent again come to the loopback interface: to one where nobody is.
    // SAFETY: the test has a thread of its own, and only that thread's network namespace changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("a network namespace");
    let mut kernel = Kernel::load(&object_path()).expect("the programs load");
    let cases = cases::all();
    let mut failures = every_case(&mut kernel, &cases);
    failures.extend(damaged_packets(&mut kernel, &cases));
    assert!(failures.is_empty(), "{} failures\n\n{}", failures.len(), failures.join("\n"));
}

fn every_case(kernel: &mut Kernel, cases: &[Case]) -> Vec<String> {
    let watched = can_verify_complete(kernel);
    if !watched {
        eprintln!("this kernel does not watch over CHECKSUM_COMPLETE in test runs (6.16 does): not checked");
    }
    let modes = if watched { &[false, true][..] } else { &[false] };
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| case.native_only.is_none()) {
        for complete in modes {
            if let Err(report) = check(kernel, case, *complete) {
                failures.push(format!("with the kernel's own sum: {complete}\n{report}"));
            }
        }
    }
    failures
}

/// Frames of the cases with one byte changed or their end cut off: both implementations do the same with them.
fn damaged_packets(kernel: &mut Kernel, cases: &[Case]) -> Vec<String> {
    let mut seed = 0x2545_f491_u32;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as usize % below
    };
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| case.native_only.is_none() && case.random.is_empty()) {
        let Some((hook, frame)) = case.inputs().next() else { continue };
        for round in 0..12 {
            let mut bytes = frame.bytes(Checksums::Complete);
            if round % 3 == 0 {
                // The kernel takes no frame without an Ethernet header.
                bytes.truncate(15 + random(bytes.len() - 14));
            } else {
                let at = 12 + random(bytes.len().min(80) - 12);
                bytes[at] ^= 1 << random(8);
            }
            if let Err(report) = compare(kernel, case, hook, bytes) {
                failures.push(format!("case '{}', damaged, at {hook:?}\n{report}", case.name));
            }
        }
    }
    failures
}

fn compare(kernel: &mut Kernel, case: &Case, hook: Hook, bytes: Vec<u8>) -> Result<(), String> {
    kernel.reset().map_err(|error| format!("emptying the maps: {error:#}"))?;
    case.world.iter().for_each(|change| kernel.apply(change));
    let entered = MemoryPacket::new(bytes, Offload::Complete, false);
    let (code, by_code, changed) = run_code(case, hook, &entered, &[0; 16])?;
    // What depends on the dice differs rightly.
    let thrown = run_code(case, hook, &entered, &[u32::MAX - 1; 16])? != (code, by_code.clone(), changed.clone());
    let before = kernel.state();
    let mut by_kernel = entered.clone();
    let ran = match kernel.run(hook, &mut by_kernel, true) {
        // Some kernels refuse frames that are shorter than the network header they announce.
        Err(error) if error.contains("os error 22") => return Ok(()),
        other => other?,
    };
    let changes = [changed, before.changes(&kernel.state())];
    let mut report = String::new();
    if code != ran {
        let _ = writeln!(report, "    outcome: code {code:?}, kernel {ran:?}");
    }
    if !thrown && !matches!(code, Outcome::Drop(_)) && by_code.bytes() != by_kernel.bytes() {
        let _ = write!(report, "  packet (code, kernel):\n{}", show::difference(by_code.bytes(), by_kernel.bytes()));
    }
    if !thrown && changes[0] != changes[1] {
        let _ = write!(report, "  changes (code, kernel):\n{}", show::line_difference(&changes[0], &changes[1]));
    }
    match report.is_empty() {
        true => Ok(()),
        false => Err(format!("  {}\n{report}", show::summary(entered.bytes()))),
    }
}

/// What the ordinary code makes of a packet when the dice show `random`.
fn run_code(
    case: &Case,
    hook: Hook,
    entered: &MemoryPacket,
    random: &[u32],
) -> Result<(Outcome, MemoryPacket, Vec<String>), String> {
    let mut tables = MemoryTables::new(&case.world, random);
    let before = tables.state();
    let mut packet = entered.clone();
    let outcome = Dataplane::run(&mut tables, hook, &mut packet, true)?;
    Ok((outcome, packet, before.changes(&tables.state())))
}
