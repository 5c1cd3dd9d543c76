//! What direct forwarding would bypass is found in the kernel's own list of chains. Needs root and nft.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;
use svc_agent::datapath::netfilter::{ForwardChain, forward_chains};

fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

#[test]
fn chains_on_forward_are_found_and_others_are_not() {
    // A namespace of this thread's own, gone with it.
    let found = std::thread::spawn(|| {
        // SAFETY: a new network namespace leaves files and memory as they are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let before = forward_chains().unwrap();
        nft("table inet guard {
                 chain forward { type filter hook forward priority 0; policy drop; ip daddr 10.0.0.1 accept; ip daddr 10.0.0.2 accept; }
                 chain idle { type filter hook forward priority 1; }
                 chain input { type filter hook input priority 0; policy drop; tcp dport 22 accept; }
             }
             table ip legacy { chain later { type filter hook forward priority 5; counter; }
             }");
        (before, forward_chains().unwrap())
    });
    let (before, mut after) = found.join().unwrap();
    assert_eq!(before, []);
    after.sort_by(|a, b| a.table.cmp(&b.table));
    let chain = |family, table: &str, chain: &str, rules, drops_by_default| ForwardChain {
        family,
        table: table.to_owned(),
        chain: chain.to_owned(),
        rules,
        drops_by_default,
    };
    assert_eq!(after, [chain("inet", "guard", "forward", 2, true), chain("ip", "legacy", "later", 1, false)]);
    assert_eq!(after[0].to_string(), "inet guard forward: 2 rules, drops by default");
}
