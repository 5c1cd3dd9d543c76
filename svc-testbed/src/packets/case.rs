//! Cases: a world and the life of packets in it, each step with everything it may change. Must not know how a
//! program is run. Neighbours: [`super::cases`] are written with it, [`super::runner`] plays them.

use svc_common::DropReason;

use super::frame::{Checksums, Frame, Transport};
use super::packet::{MemoryPacket, Offload};
use super::world::{Change, World};

/// Stands for a source port the datapath chooses: the first frame that leaves with it says which one it is.
pub const CHOSEN: u16 = 65_535;

/// The programs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hook {
    PodIngress,
    PodEgress,
    UplinkIngress,
    UplinkEgress,
}

impl Hook {
    pub const ALL: [Self; 4] = [Self::PodIngress, Self::PodEgress, Self::UplinkIngress, Self::UplinkEgress];
}

/// What became of a packet; the kernel does not say why it dropped one.
#[derive(Clone, Copy, Eq, Debug)]
pub enum Outcome {
    Pass,
    Drop(Option<DropReason>),
    Redirect,
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pass, Self::Pass) | (Self::Redirect, Self::Redirect) => true,
            (Self::Drop(one), Self::Drop(two)) => one.is_none() || two.is_none() || one == two,
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Input {
    Frame(Box<Frame>),
    /// What the step before sent on.
    Output,
    /// No IP packet, or a broken one.
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
pub enum Output {
    Unchanged,
    Frame(Box<Frame>),
    /// A packet made in place of the one that came, which quotes it as it was: complete or offloaded.
    Answer {
        complete: Box<Frame>,
        offloaded: Box<Frame>,
    },
    /// Whatever is in a dropped packet is of no interest.
    Gone,
}

#[derive(Clone, Debug)]
pub struct PacketStep {
    pub hook: Hook,
    pub input: Input,
    pub outcome: Outcome,
    pub output: Output,
    pub changes: Vec<String>,
    /// Afterwards the flow table holds a flow without its other half, for the reason given.
    pub leaves_half: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Packet(Box<PacketStep>),
    World(Vec<Change>),
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub world: Vec<Change>,
    pub random: Vec<u32>,
    pub steps: Vec<Step>,
    /// Why the real kernel cannot play the case.
    pub native_only: Option<&'static str>,
    /// What becomes of the packets depends on who computes their checksums: the only way that is meant.
    pub only_with: Option<Checksums>,
}

pub fn case(name: &'static str, world: &World) -> Case {
    Case {
        name,
        world: world.changes().to_vec(),
        random: Vec::new(),
        steps: Vec::new(),
        native_only: None,
        only_with: None,
    }
}

/// Random numbers that choose the given slot out of so many.
pub fn dice(slot: u32, of: u32) -> u32 {
    (((u64::from(slot) << 32) + (1 << 31)) / u64::from(of)) as u32
}

impl Case {
    /// What the dice show, in the order they are thrown. A runner whose dice cannot be told repeats the case.
    pub fn random(mut self, numbers: &[u32]) -> Self {
        self.random = numbers.to_vec();
        self
    }

    pub fn native_only(mut self, reason: &'static str) -> Self {
        self.native_only = Some(reason);
        self
    }

    pub fn only_with(mut self, checksums: Checksums) -> Self {
        self.only_with = Some(checksums);
        self
    }

    fn push(mut self, hook: Hook, input: Input) -> Self {
        self.steps.push(Step::Packet(Box::new(PacketStep {
            hook,
            input,
            outcome: Outcome::Pass,
            output: Output::Unchanged,
            changes: Vec::new(),
            leaves_half: None,
        })));
        self
    }

    /// A frame arrives at a hook. Unless the calls that follow say otherwise, it passes and nothing changes at all.
    pub fn at(self, hook: Hook, frame: Frame) -> Self {
        self.push(hook, Input::Frame(Box::new(frame)))
    }

    /// The frame of the step before arrives at the next hook of its way.
    pub fn then_at(self, hook: Hook) -> Self {
        self.push(hook, Input::Output)
    }

    pub fn bytes_at(self, hook: Hook, bytes: &[u8]) -> Self {
        self.push(hook, Input::Bytes(bytes.to_vec()))
    }

    /// What the agent does, or time, before the next packet.
    pub fn meanwhile(mut self, changes: Vec<Change>) -> Self {
        self.steps.push(Step::World(changes));
        self
    }

    fn last(mut self, set: impl FnOnce(&mut PacketStep)) -> Self {
        match self.steps.last_mut() {
            Some(Step::Packet(step)) => set(step),
            _ => panic!("case '{}': an expectation needs a packet before it", self.name),
        }
        self
    }

    pub fn becomes(self, frame: Frame) -> Self {
        self.last(|step| step.output = Output::Frame(Box::new(frame)))
    }

    /// A refusal goes out of the interface the packet came from.
    pub fn is_answered_with(self, answer: impl Fn(Checksums) -> Frame) -> Self {
        let [complete, offloaded] = [Checksums::Complete, Checksums::Offloaded].map(|mode| Box::new(answer(mode)));
        self.last(|step| {
            step.outcome = Outcome::Redirect;
            step.output = Output::Answer { complete, offloaded };
        })
    }

    /// Goes out of the interface it came from, or another one, as this frame.
    pub fn is_redirected_as(self, frame: Frame) -> Self {
        self.last(|step| {
            step.outcome = Outcome::Redirect;
            step.output = Output::Frame(Box::new(frame));
        })
    }

    pub fn is_dropped(self, reason: DropReason) -> Self {
        self.last(|step| {
            step.outcome = Outcome::Drop(Some(reason));
            step.output = Output::Gone;
        })
    }

    /// The copy at hand ends here, without being lost: it is held, or was sent again.
    pub fn waits(self) -> Self {
        self.last(|step| {
            step.outcome = Outcome::Drop(None);
            step.output = Output::Gone;
        })
    }

    /// All changes of the maps, one a line (see [`super::state`]); the rest must stay as it is.
    pub fn changes(self, lines: &str) -> Self {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned);
        self.last(|step| step.changes.extend(lines))
    }

    pub fn leaves_half(self, reason: &'static str) -> Self {
        self.last(|step| step.leaves_half = Some(reason))
    }

    /// Frames that enter hooks, for tests that damage them.
    pub fn inputs(&self) -> impl Iterator<Item = (Hook, &Frame)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Packet(step) => match &step.input {
                Input::Frame(frame) => Some((step.hook, frame.as_ref())),
                _ => None,
            },
            Step::World(_) => None,
        })
    }

    /// Whether the case is meant for such checksums, and they make a difference anywhere in it.
    pub fn plays_with(&self, checksums: Checksums) -> bool {
        self.only_with.is_none_or(|only| only == checksums)
            && (checksums == Checksums::Complete || self.inputs().any(|(_, frame)| frame.can_offload()))
    }
}

impl PacketStep {
    /// A datagram that says it has no checksum.
    pub fn is_without_checksum(&self) -> bool {
        matches!(&self.input, Input::Frame(frame) if frame.transport == Transport::Udp { checksum: false })
    }

    /// The packet that enters the hook.
    pub fn packet(&self, checksums: Checksums, chosen: Option<u16>, before: Option<&MemoryPacket>) -> MemoryPacket {
        match &self.input {
            Input::Frame(frame) => resolve(frame, chosen).packet(checksums),
            Input::Bytes(bytes) => MemoryPacket::new(bytes.clone(), Offload::Complete, false),
            Input::Output => before.cloned().expect("case: no packet before this step"),
        }
    }
}

/// The frame with the chosen port in the placeholder's stead.
pub fn resolve(frame: &Frame, chosen: Option<u16>) -> Frame {
    match chosen {
        Some(port) => frame.clone().with_port(CHOSEN, port),
        None => frame.clone(),
    }
}
