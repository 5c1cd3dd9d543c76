//! Loads the embedded object: adopts pinned maps or creates and pins them, fixes the programs' read-only globals, and
//! passes every program through the verifier. Attaches nothing: the old programs keep running until `tc` and `cgroup`
//! replace them. Neighbours: `features` says which variant, `pin` where the maps are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::maps::{MapError, MapInfo, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd};
use aya::{Ebpf, EbpfError, EbpfLoader};
use svc_common::{ServiceCounters, map, program, tail_call};

use super::pin::PinDir;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SVC_EBPF_OBJECT"));

/// Ring buffer of aya-log: belongs to one load, never pinned.
const LOG_MAP: &str = "AYA_LOGS";
/// What an operator can use of a verifier log is at its end.
const LOG_LINES: usize = 40;
/// Programs that the kernel verifies at the same time; each takes a CPU, and memory for its states.
const VERIFIERS: usize = 4;

#[derive(thiserror::Error, Debug)]
pub enum LoadError {
    #[error(
        "pinned map {map} has {property} {found}, this agent needs {wanted}: it was left by another version or other \
         options. Start with the options used before, or remove it with `svc-agent cleanup` (flows are lost)"
    )]
    MapMismatch { map: String, property: &'static str, found: u32, wanted: u32 },
    #[error("cannot read the pinned map {map}: {error}; `svc-agent cleanup` removes it")]
    MapUnreadable { map: String, error: MapError },
    #[error("the kernel refused program {program}: {error}\n{log}")]
    Verifier { program: String, error: io::Error, log: String },
    #[error("cannot load program {program}: {error}")]
    Program { program: String, error: ProgramError },
    #[error("the object has no program {program}: it does not belong to this agent")]
    ProgramMissing { program: &'static str },
    #[error("the object has no map {map}: it does not belong to this agent")]
    MapMissing { map: &'static str },
    #[error("cannot connect the programs (map PROGRAMS): {error}")]
    TailCall { error: MapError },
    #[error("cannot load the object: {}", chain(.0))]
    Object(EbpfError),
    #[error("cannot read the object: {0}")]
    Parse(#[from] aya_obj::ParseError),
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |message, source| format!("{message}: {source}"))
}

/// The read-only globals of the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    pub trace: bool,
    pub coarse_clock: bool,
    /// See [`tick_shift`].
    pub tick_shift: u8,
    pub set_retval: bool,
    pub ipv6_csum_flag: bool,
    /// Packets of known flows leave past the node's stack.
    pub forward_direct: bool,
    /// Zero if unknown.
    pub host_netns_cookie: u64,
    /// The XDP program is wanted, too.
    pub express: bool,
}

/// Entries of the maps an operator may want to size; `None` leaves the object's default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacities {
    /// Of each address family.
    pub flows: Option<u32>,
}

impl Capacities {
    fn of(self, name: &str) -> Option<u32> {
        match name {
            map::FLOWS_V4 | map::FLOWS_V6 => self.flows,
            map::SERVICE_COUNTERS_FIRST => Some(first_counters()),
            _ => None,
        }
    }
}

/// Services whose counters are in an array: as many as this much memory holds, with one of everything for each CPU.
fn first_counters() -> u32 {
    const BYTES: usize = 16 << 20;
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    (BYTES / (size_of::<ServiceCounters>() * cpus)).clamp(256, 16_384) as u32
}

/// How often the kernel's jiffies must be halved to count in ticks of at least a second. The coarse clocks move with each jiffy.
pub fn tick_shift() -> u8 {
    const NANOSECONDS: u32 = 1_000_000_000;
    let jiffy = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse).tv_nsec as u32;
    (NANOSECONDS / jiffy.clamp(1, NANOSECONDS)).next_power_of_two().trailing_zeros() as u8
}

/// All programs, accepted by the kernel, by name.
pub struct Programs {
    loaded: BTreeMap<&'static str, ProgramFd>,
    /// Nothing depends on it: the agent does without if the kernel refuses it. `None`: not asked for.
    express: Option<Result<ProgramFd, LoadError>>,
}

pub const CLASSIFIERS: [&str; 4] =
    [program::POD_INGRESS, program::POD_EGRESS, program::UPLINK_INGRESS, program::UPLINK_EGRESS];

pub const HOOKS: [&str; 6] = [
    program::BIND4,
    program::BIND6,
    program::CONNECT4,
    program::CONNECT6,
    program::GETPEERNAME4,
    program::GETPEERNAME6,
];

impl Programs {
    pub fn get(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        let program = self.loaded.get(name).ok_or(LoadError::ProgramMissing { program: name })?;
        Ok(program.as_fd())
    }

    /// The XDP program, if it was asked for.
    pub fn express(&self) -> Option<Result<BorrowedFd<'_>, &LoadError>> {
        self.express.as_ref().map(|program| program.as_ref().map(ProgramFd::as_fd))
    }
}

/// Creates or adopts the maps and loads all programs. With `pins` the maps are pinned there, without they live as long
/// as the result. The [`Ebpf`] is needed for the log ring buffer only and may be dropped.
pub fn load(pins: Option<&PinDir>, variant: &Variant, capacities: Capacities) -> Result<(Ebpf, Programs), LoadError> {
    let wanted = wanted_maps(capacities)?;
    let mut loader = EbpfLoader::new();
    for (name, map) in &wanted {
        loader.map_max_entries(name, map.max_entries());
        if let Some(pins) = pins {
            check_adoption(pins, name, map)?;
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let flags =
        [variant.trace, variant.coarse_clock, variant.set_retval, variant.ipv6_csum_flag, variant.forward_direct]
            .map(u8::from);
    let [trace, coarse_clock, set_retval, ipv6_csum_flag, forward_direct] = &flags;
    let mut ebpf = loader
        // No program relocates against the kernel's types.
        .btf(None)
        .override_global("TRACE", trace, true)
        .override_global("HAVE_COARSE_CLOCK", coarse_clock, true)
        .override_global("TICK_SHIFT", &variant.tick_shift, true)
        .override_global("HAVE_SET_RETVAL", set_retval, true)
        .override_global("HAVE_IPV6_CSUM_FLAG", ipv6_csum_flag, true)
        .override_global("FORWARD_DIRECT", forward_direct, true)
        .override_global("HOST_NETNS_COOKIE", &variant.host_netns_cookie, true)
        .load(OBJECT)
        .map_err(LoadError::Object)?;
    let names: BTreeSet<_> =
        tail_call::TARGETS.map(|(_, name)| name).into_iter().chain(CLASSIFIERS).chain(HOOKS).collect();
    let express = variant.express.then_some(program::UPLINK_XDP);
    let mut verified = verify(&mut ebpf, names.iter().copied().chain(express).collect());
    let mut take = |name| verified.remove(name).unwrap_or(Err(LoadError::ProgramMissing { program: name }));
    let loaded = names.iter().map(|name| Ok((*name, take(name)?))).collect::<Result<BTreeMap<_, _>, LoadError>>()?;
    let express = express.map(take);
    connect_tail_calls(&mut ebpf, &loaded)?;
    Ok((ebpf, Programs { loaded, express }))
}

/// Passes programs through the verifier, side by side: it takes the better part of a start, and each of them alone.
fn verify(ebpf: &mut Ebpf, mut names: BTreeSet<&'static str>) -> BTreeMap<&'static str, Result<ProgramFd, LoadError>> {
    let mut waiting: Vec<(&'static str, &mut Program)> =
        ebpf.programs_mut().filter_map(|(name, program)| Some((names.take(name)?, program))).collect();
    // The longest first.
    waiting.sort_by_key(|(name, _)| !name.ends_with("_slow"));
    let waiting = Mutex::new(waiting.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let load = |(name, program)| (name, load_program(program).map_err(|error| refusal(name, error)));
    thread::scope(|scope| {
        let verifiers = thread::available_parallelism().map_or(1, usize::from).min(VERIFIERS);
        let running: Vec<_> =
            (0..verifiers).map(|_| scope.spawn(|| iter::from_fn(next).map(load).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// Puts the slow programs where the fast ones look for them: the old fast programs, still attached, go on with the new
/// ones from here.
fn connect_tail_calls(ebpf: &mut Ebpf, programs: &BTreeMap<&'static str, ProgramFd>) -> Result<(), LoadError> {
    let refused = |error| LoadError::TailCall { error };
    let map = ebpf.map_mut(map::PROGRAMS).ok_or(LoadError::MapMissing { map: map::PROGRAMS })?;
    let mut array = ProgramArray::try_from(map).map_err(refused)?;
    for (index, name) in tail_call::TARGETS {
        let program = programs.get(name).ok_or(LoadError::ProgramMissing { program: name })?;
        array.set(index, program, 0).map_err(refused)?;
    }
    Ok(())
}

fn load_program(program: &mut Program) -> Result<ProgramFd, ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(program.fd()?.try_clone()?)
}

fn refusal(name: &str, error: ProgramError) -> LoadError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            LoadError::Verifier { program: name.to_owned(), error: io_error, log: tail }
        }
        error => LoadError::Program { program: name.to_owned(), error },
    }
}

/// Every map of the object that outlives the agent, with the capacities asked for.
fn wanted_maps(capacities: Capacities) -> Result<BTreeMap<String, aya_obj::Map>, LoadError> {
    let object = aya_obj::Object::parse(OBJECT)?;
    let outlives = |name: &str| !name.starts_with('.') && name != LOG_MAP;
    Ok(object
        .maps
        .into_iter()
        .filter(|(name, _)| outlives(name))
        .map(|(name, mut map)| {
            if let Some(entries) = capacities.of(&name) {
                map.set_max_entries(entries);
            }
            (name, map)
        })
        .collect())
}

/// aya takes a pinned map as it is; programs would be refused, or worse, read it with another layout.
fn check_adoption(pins: &PinDir, name: &str, wanted: &aya_obj::Map) -> Result<(), LoadError> {
    let found = match MapInfo::from_pin(pins.map(name)) {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Ok(()),
        Err(error) => return Err(LoadError::MapUnreadable { map: name.to_owned(), error }),
    };
    let kind = found.map_type().map_err(|error| LoadError::MapUnreadable { map: name.to_owned(), error })? as u32;
    for (property, found, wanted) in [
        ("type", kind, wanted.map_type()),
        ("key size", found.key_size(), wanted.key_size()),
        ("value size", found.value_size(), wanted.value_size()),
        ("capacity", found.max_entries(), wanted.max_entries()),
        ("flags", found.map_flags(), wanted.map_flags()),
    ] {
        if found != wanted {
            return Err(LoadError::MapMismatch { map: name.to_owned(), property, found, wanted });
        }
    }
    Ok(())
}

pub(super) fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::NotFound)
}
