//! Plays a case on any implementation of the dataplane and says in words where it differs.
//! Neighbours: [`super::native`] and [`super::kernel`] are the implementations.

use std::fmt::Write as _;
use std::net::SocketAddr;

use etherparse::{IpNumber, SlicedPacket, TransportSlice};

use super::case::{CHOSEN, Case, Hook, Outcome, Output, PacketStep, Step, resolve};
use super::frame::Checksums;
use super::oracle;
use super::packet::MemoryPacket;
use super::show;
use super::state::State;
use super::world::Change;

/// Programs with their maps.
pub trait Dataplane {
    fn apply(&mut self, change: &Change);
    fn state(&mut self) -> State;
    /// `Err` says what the implementation itself found wrong. `unsummed`: nobody will verify a sum over the packet.
    fn run(&mut self, hook: Hook, packet: &mut MemoryPacket, unsummed: bool) -> Result<Outcome, String>;
}

/// Plays all steps; `Err` is a report for people. Every step is compared, so that one report shows all.
pub fn play(case: &Case, checksums: Checksums, dataplane: &mut impl Dataplane) -> Result<(), String> {
    let mut report = String::new();
    let mut before: Option<MemoryPacket> = None;
    let mut chosen = None;
    for (number, step) in case.steps.iter().enumerate() {
        match step {
            Step::World(changes) => changes.iter().for_each(|change| {
                dataplane.apply(&with_chosen_port(change, chosen));
            }),
            Step::Packet(step) => {
                let mut packet = step.packet(checksums, chosen, before.as_ref());
                let entered = packet.clone();
                let old = dataplane.state();
                let unsummed =
                    matches!(step.output, Output::Answer { .. } | Output::Gone) || step.is_without_checksum();
                let outcome = dataplane.run(step.hook, &mut packet, unsummed);
                let new = dataplane.state();
                let mut wrong = String::new();
                match outcome {
                    Ok(outcome) => compare_packet(step, &entered, &packet, outcome, &mut chosen, &mut wrong),
                    Err(error) => wrong = format!("    {error}\n"),
                }
                compare_changes(step, &old, &new, &mut chosen, &mut wrong);
                if !wrong.is_empty() {
                    let _ = writeln!(
                        report,
                        "  step {} at {:?}: {}",
                        number + 1,
                        step.hook,
                        show::summary(entered.bytes())
                    );
                    report.push_str(&wrong);
                }
                before = Some(packet);
            }
        }
    }
    match report.is_empty() {
        true => Ok(()),
        false => Err(format!("case '{}' with checksums {checksums:?}\n{report}", case.name)),
    }
}

fn compare_packet(
    step: &PacketStep,
    entered: &MemoryPacket,
    packet: &MemoryPacket,
    outcome: Outcome,
    chosen: &mut Option<u16>,
    wrong: &mut String,
) {
    if outcome != step.outcome {
        let _ = writeln!(wrong, "    outcome: expected {:?}, actual {outcome:?}", step.outcome);
    }
    let actual = packet.finish();
    let expected = match &step.output {
        Output::Gone => return,
        Output::Unchanged => entered.finish(),
        Output::Answer { complete, offloaded } => match packet.offloaded_field() {
            None => complete.bytes(Checksums::Complete),
            Some(field) => acceptable_answer(offloaded.bytes(Checksums::Complete), &actual, field),
        },
        Output::Frame(frame) => {
            if chosen.is_none() && frame.source.port() == CHOSEN {
                *chosen = source_port(&actual);
            }
            resolve(frame, *chosen).bytes(Checksums::Complete)
        }
    };
    if actual != expected {
        let _ = write!(wrong, "  packet:\n{}", show::difference(&expected, &actual));
    }
    if oracle::verify(&entered.finish()).is_ok()
        && let Err(error) = oracle::verify(&actual)
    {
        let _ = writeln!(wrong, "    a receiver would discard the packet: {error}");
    }
}

/// Hardware still completes a checksum that the packet no longer has: it stores one into `field`. Harmless if a receiver
/// accepts the result, which the oracle decides; so this field and the checksum that covers it are not compared. The
/// kernel does not cut the field off either: of an answer that ends before it, only the IP packet is compared.
fn acceptable_answer(mut expected: Vec<u8>, actual: &[u8], field: usize) -> Vec<u8> {
    let checksum = match SlicedPacket::from_ethernet(&expected).ok().and_then(|packet| packet.transport) {
        Some(TransportSlice::Icmpv4(icmp)) => expected.len() - icmp.slice().len() + 2,
        Some(TransportSlice::Icmpv6(icmp)) => expected.len() - icmp.slice().len() + 2,
        _ => field,
    };
    if field + 2 > expected.len() && actual.len() >= field + 2 {
        expected.extend_from_slice(&actual[expected.len()..]);
    }
    for at in [field, checksum] {
        if let (Some(to), Some(from)) = (expected.get_mut(at..at + 2), actual.get(at..at + 2)) {
            to.copy_from_slice(from);
        }
    }
    expected
}

fn compare_changes(step: &PacketStep, old: &State, new: &State, chosen: &mut Option<u16>, wrong: &mut String) {
    let mut expected: Vec<String> =
        step.changes.iter().map(|line| line.replace(":CHOSEN", &format!(":{CHOSEN}"))).collect();
    expected.sort();
    let lines = old.changes(new);
    *chosen = chosen.or_else(|| chosen_in(&expected, &lines));
    let mut actual: Vec<String> = lines.iter().map(|line| with_placeholder(line, *chosen)).collect();
    actual.sort();
    if actual != expected {
        let _ = write!(wrong, "  changes of the maps:\n{}", show::line_difference(&expected, &actual));
    }
    let fresh: Vec<&String> = new.halves().iter().filter(|half| !old.halves().contains(half)).collect();
    match (step.leaves_half, fresh.as_slice()) {
        (None, [_, ..]) => {
            let _ = writeln!(wrong, "    flows without their other half: {fresh:?}");
        }
        (Some(reason), []) => {
            let _ = writeln!(wrong, "    expected a flow without its other half ({reason})");
        }
        _ => {}
    }
}

/// The port that makes one of the lines the expected one.
fn chosen_in(expected: &[String], actual: &[String]) -> Option<u16> {
    let placeholder = format!(":{CHOSEN}");
    let (line, (before, _)) = expected.iter().find_map(|line| Some((line, line.split_once(&placeholder)?)))?;
    actual.iter().find_map(|candidate| {
        let rest = candidate.strip_prefix(before)?.strip_prefix(':')?;
        let port = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        (with_placeholder(candidate, Some(port)) == *line).then_some(port)
    })
}

/// Source port of a TCP or UDP frame, also of the first fragment of one.
pub fn source_port(frame: &[u8]) -> Option<u16> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let transport = sliced.ip_payload()?;
    let has_ports = matches!(transport.ip_number, IpNumber::TCP | IpNumber::UDP);
    transport.payload.first_chunk().filter(|_| has_ports).map(|port| u16::from_be_bytes(*port))
}

fn with_placeholder(line: &str, chosen: Option<u16>) -> String {
    let Some(port) = chosen else { return line.to_owned() };
    let (from, to) = (format!(":{port}"), format!(":{CHOSEN}"));
    line.split(' ')
        .map(|word| {
            let bare = word.trim_end_matches(',');
            match bare.strip_suffix(&from) {
                Some(address) => format!("{address}{to}{}", &word[bare.len()..]),
                None => word.to_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn with_chosen_port(change: &Change, chosen: Option<u16>) -> Change {
    let replaced = |end: SocketAddr| match chosen {
        Some(port) if end.port() == CHOSEN => SocketAddr::new(end.ip(), port),
        _ => end,
    };
    match change {
        Change::ForgetFlow { stage, protocol, source, destination } => Change::ForgetFlow {
            stage: *stage,
            protocol: *protocol,
            source: replaced(*source),
            destination: replaced(*destination),
        },
        other => other.clone(),
    }
}
