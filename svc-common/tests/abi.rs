//! Holds every layout of the kernel/user contract against `abi.golden`. A difference means that pinned maps of an older
//! agent cannot be adopted: raise `ABI_VERSION` and replace the file (the failure prints the new text).

use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};

use svc_common::*;

macro_rules! layout {
    ($out:ident, $type:ty { $($field:ident),+ $(,)? }) => {
        let _ = writeln!($out, "{} size {} align {}", stringify!($type), size_of::<$type>(), align_of::<$type>());
        $(let _ = writeln!($out, "  {:4} {}", offset_of!($type, $field), stringify!($field));)+
    };
}

#[test]
fn layouts_match_the_golden_file() {
    let mut out = String::new();
    let _ = writeln!(out, "abi version {ABI_VERSION}");
    layout!(out, Config { abi_version, features, events_until, node_v4, node_v6, node_v4_interface, reserved });
    layout!(out, RangeKey { prefix_length, address });
    layout!(out, Uplink { address, flags });
    layout!(out, FrontendKeyV4 { address, port, protocol, zero });
    layout!(out, FrontendKeyV6 { address, port, protocol, zero });
    layout!(
        out,
        ServiceEntry { publication, address, port, protocol, family, flags, affinity_timeout, affinity_id, reserved }
    );
    layout!(out, ServiceName { bytes });
    layout!(out, BackendEntry { address, port, flags, generation, service, zero });
    layout!(out, AffinityKey { client, affinity_id, zero });
    layout!(out, AffinityValue { backend, last_seen, zero });
    layout!(out, FlowKeyV4 { source, destination, source_port, destination_port, protocol, stage, zero });
    layout!(out, FlowKeyV6 { source, destination, source_port, destination_port, protocol, stage, zero });
    layout!(
        out,
        FlowV4 {
            backend,
            source,
            destination,
            source_port,
            destination_port,
            service,
            last_seen,
            state,
            ops,
            peer_stage,
            tick
        }
    );
    layout!(
        out,
        FlowV6 {
            backend,
            source,
            destination,
            source_port,
            destination_port,
            service,
            last_seen,
            state,
            ops,
            peer_stage,
            tick
        }
    );
    layout!(out, Hop { neighbour, interface, mtu, kind, zero });
    layout!(out, FlowEntryV4 { flow, hop });
    layout!(out, FlowEntryV6 { flow, hop });
    layout!(out, FragmentKey { source, destination, id, protocol, stage, zero });
    layout!(out, FragmentPorts { source_port, destination_port });
    layout!(out, HeldKey { datagram, number });
    layout!(out, HeldFragment { since, length, packet });
    layout!(out, SocketKey { cookie, fact, zero });
    layout!(out, SocketValue { backend, frontend, backend_port, frontend_port });
    layout!(
        out,
        ServiceCounters {
            connections_tc,
            connections_socket,
            packets_to_backend,
            bytes_to_backend,
            packets_to_client,
            bytes_to_client,
            rejected
        }
    );
    layout!(
        out,
        Event {
            time,
            client,
            frontend,
            backend,
            client_port,
            frontend_port,
            backend_port,
            protocol,
            family,
            service,
            kind,
            path,
            reason,
            zero,
            process,
            reserved,
            command
        }
    );
    for reason in DropReason::ALL {
        let _ = writeln!(out, "drop reason {} {}", *reason as u8, reason.label());
    }
    assert!(out == include_str!("abi.golden"), "the contract changed; it is now:\n{out}");
}

#[test]
fn publication_word_keeps_its_parts_apart() {
    let word = Publication::new(Verdict::FORWARD, u32::MAX, Publication::MAX_SLOTS);
    assert_eq!((word.verdict(), word.first_slot(), word.slot_count()), (Verdict::FORWARD, u32::MAX, 0xff_ffff));
    assert_eq!(Publication::default().verdict(), Verdict::NONE);
}

#[test]
fn drop_reasons_are_found_by_their_index() {
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(DropReason::from_index(index as u8), Some(*reason));
        assert!(!reason.explanation().is_empty());
    }
    assert_eq!(DropReason::from_index(DropReason::COUNT as u8), None);
}
