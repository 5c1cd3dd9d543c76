//! Fragments in any order. Only the first one of a datagram says whom it is for: those that overtake it are held, and
//! sent to the same hook once more when it has come. Goes before `tc`, which then sees the first one first.
//! Neighbours: `fragment` remembers ports; the programs carry out the returned [`Step`].

use svc_common::{AddrV4, AddrV6, DropReason, FlowKey, HeldKey, address_class, flow_stage};

use crate::fragment::{datagram, remember_ports};
use crate::parse::{ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Headers, ParseNetwork, parse_transport};
use crate::tables::{FamilyTables, Fragments, Packet};
use crate::tc::{ethertype, translatable};

/// Fragments held of one datagram: 64 KiB in pieces of the smallest IPv6 MTU, and then some.
pub const MOST: u32 = 56;
/// Seconds after which a held fragment is given up: net.ipv4.ipfrag_time.
pub const LIFETIME: u32 = 30;

/// What becomes of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It goes on to `tc`.
    Proceed,
    /// It is held, or was sent on its way once more: this copy ends here.
    Gone,
}

/// Whether the packet is a fragment at all.
#[inline(always)]
pub fn is_fragment<P: Packet>(packet: &P) -> bool {
    const IPV6_FRAGMENT: u8 = 44;
    let at = |offset| packet.load::<2>(ETHERNET_LENGTH + offset).unwrap_or([0; 2]);
    match ethertype(packet) {
        // All but Don't Fragment.
        Some(ETHERTYPE_IPV4) => u16::from_be_bytes(at(6)) & 0x3fff != 0,
        Some(ETHERTYPE_IPV6) => at(6)[0] == IPV6_FRAGMENT,
        _ => false,
    }
}

/// A fragment that enters the node's stack.
#[inline(always)]
pub fn ingress<P: Packet, T: Fragments<P>>(packet: &mut P, tables: &T) -> Step {
    either(packet, tables, flow_stage::INGRESS)
}

/// A fragment that leaves the node's stack.
#[inline(always)]
pub fn egress<P: Packet, T: Fragments<P>>(packet: &mut P, tables: &T) -> Step {
    either(packet, tables, flow_stage::EGRESS)
}

#[inline(always)]
fn either<P: Packet, T: Fragments<P>>(packet: &mut P, tables: &T, stage: u8) -> Step {
    let held = match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => inspect::<AddrV4, _, _>(packet, tables, stage),
        Some(ETHERTYPE_IPV6) => inspect::<AddrV6, _, _>(packet, tables, stage),
        _ => None,
    };
    match held {
        Some((key, Fragment::First)) => release(packet, tables, key),
        Some((key, _)) => hold(packet, tables, key),
        None => Step::Proceed,
    }
}

/// The datagram of a fragment that has to be held, or that others may wait for; `None` if it need not concern us.
#[inline(always)]
fn inspect<A: ParseNetwork, P: Packet, T: Fragments<P> + FamilyTables<A>>(
    packet: &P,
    tables: &T,
    stage: u8,
) -> Option<(HeldKey, Fragment)> {
    let mut headers = A::parse_network(packet, stage)?;
    if headers.fragment == Fragment::Whole
        || headers.end > packet.length()
        || !translatable(headers.key.protocol)
        || !may_be_translated(tables, &headers.key)
    {
        return None;
    }
    let key = HeldKey { datagram: datagram(&headers.key, headers.fragment_id()), number: 0 };
    let known = tables.fragment(&key.datagram).is_some();
    if headers.fragment == Fragment::Later {
        return (!known).then_some((key, Fragment::Later));
    }
    // Where packets leave, the first fragment comes here again while this program still runs: known by then.
    if known && stage == flow_stage::EGRESS {
        return None;
    }
    announce_first(packet, tables, &mut headers, &key)
}

/// From here on no fragment of the datagram is held any more, so that whoever is held already can be seen.
#[inline(always)]
fn announce_first<A: ParseNetwork, P: Packet, T: Fragments<P>>(
    packet: &P,
    tables: &T,
    headers: &mut Headers<A>,
    key: &HeldKey,
) -> Option<(HeldKey, Fragment)> {
    parse_transport(packet, headers)?;
    remember_ports(tables, &headers.key, &key.datagram);
    tables.held_since(key).is_some().then_some((*key, Fragment::First))
}

/// Whether `tc` may look for a flow of packets between these addresses.
#[inline(always)]
fn may_be_translated<A: ParseNetwork, T: FamilyTables<A>>(tables: &T, key: &FlowKey<A>) -> bool {
    let destination = tables.address_class(key.destination);
    if key.stage == flow_stage::INGRESS {
        return destination & (address_class::FRONTEND | address_class::NODE) != 0;
    }
    (destination | tables.address_class(key.source)) & address_class::BACKEND != 0
}

/// The first fragment goes once more, and then those that waited for it.
#[inline(always)]
fn release<P: Packet, T: Fragments<P>>(packet: &mut P, tables: &T, mut key: HeldKey) -> Step {
    let stage = key.datagram.stage;
    // Where packets enter, the copy waits in a queue: until it comes back, fragments must be held as before.
    if stage == flow_stage::INGRESS {
        tables.forget_fragment(&key.datagram);
    }
    tables.send_again(packet, stage);
    let now = tables.now();
    for number in 0..MOST {
        key.number = number;
        let Some(since) = tables.held_since(&key) else { break };
        if now.wrapping_sub(since) > LIFETIME {
            give_up(tables, &key);
        } else if tables.take_held(packet, &key) {
            tables.send_again(packet, stage);
        }
    }
    Step::Gone
}

#[inline(always)]
fn hold<P: Packet, T: Fragments<P>>(packet: &mut P, tables: &T, mut key: HeldKey) -> Step {
    let now = tables.now();
    for number in 0..MOST {
        key.number = number;
        if let Some(since) = tables.held_since(&key) {
            if now.wrapping_sub(since) <= LIFETIME {
                continue;
            }
            give_up(tables, &key);
        }
        if !tables.hold(packet, &key, now) {
            continue;
        }
        // The first one may have come by another processor in the meantime, too early to see this one.
        if tables.fragment(&key.datagram).is_some() && tables.forget_held(&key) {
            return Step::Proceed;
        }
        return Step::Gone;
    }
    // Too many, or too long: lost or untranslated, as `tc` decides.
    Step::Proceed
}

/// The first fragment did not come in time.
#[inline(always)]
fn give_up<P: Packet, T: Fragments<P>>(tables: &T, key: &HeldKey) {
    if tables.forget_held(key) {
        tables.count_drop(DropReason::FragmentUnknown);
    }
}
