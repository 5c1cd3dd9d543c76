//! Listening to the events of the programs: the ring buffer, the time until which programs write to it, and the lock
//! that keeps a second reader out (two readers of one ring would each see half). Must not interpret events.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{MapData, MapInfo, RingBuf};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use svc_common::{Event, map};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::maps::{Access, KernelMaps, OpenError, Traffic};
use crate::publish::{ConfigField, Maps, MapsError};

/// Programs stop writing this long after the last [`EventListener::renew`], however the listener ends.
const LEASE_SECONDS: u32 = 3;
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Events handed over at once.
const BATCH: usize = 512;
/// A record as the ring buffer holds it: header and event.
const RECORD_BYTES: usize = 8 + size_of::<Event>();

#[derive(thiserror::Error, Debug)]
pub enum ListenError {
    #[error("another monitor listens to the maps in {}: there can be one at a time, end that one first", .directory.display())]
    Busy { directory: PathBuf },
    #[error("cannot lock {}: {source}", .directory.display())]
    Lock { directory: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(OpenError),
    #[error(transparent)]
    Access(MapsError),
    #[error("cannot wait for map EVENTS: {0}")]
    Wait(io::Error),
}

/// The only listener. Programs write events from the first [`Self::renew`] until it is dropped.
pub struct EventListener {
    ring: AsyncFd<RingBuf<MapData>>,
    maps: KernelMaps,
    /// Records the ring buffer holds at most.
    room: usize,
    /// Records read since the ring buffer was last seen empty.
    backlog: usize,
    _lock: File,
}

impl EventListener {
    /// `directory` holds the pinned maps. Needs a tokio runtime. What an earlier listener left unread is discarded.
    pub fn open(directory: &Path) -> Result<Self, ListenError> {
        let lock = lock(directory)?;
        let maps = KernelMaps::open_pinned(directory, Access::ReadWrite).map_err(ListenError::Open)?;
        let mut ring = Traffic::open_events(directory).map_err(ListenError::Open)?;
        while ring.next().is_some() {}
        let info = MapInfo::from_pin(directory.join(map::EVENTS))
            .map_err(|error| ListenError::Open(OpenError::refused(map::EVENTS)(error)))?;
        // SAFETY: the ring buffer owns its descriptor, always answers with that one, and is never taken out again.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| ListenError::Wait(error.into()))?;
        Ok(Self { ring, maps, room: info.max_entries() as usize / RECORD_BYTES, backlog: 0, _lock: lock })
    }

    /// Makes programs write events for the next seconds; to be called every [`RENEW_EVERY`].
    pub fn renew(&mut self) -> Result<(), ListenError> {
        let now = u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(u32::MAX);
        let until = ConfigField::EventsUntil(now.saturating_add(LEASE_SECONDS));
        self.maps.write_config(until).map_err(ListenError::Access)
    }

    /// Waits for events and appends them. Cancellation loses none that were not appended.
    pub async fn read(&mut self, events: &mut Vec<Event>) -> Result<(), ListenError> {
        let before = events.len();
        loop {
            let mut ready = self.ring.readable_mut().await.map_err(ListenError::Wait)?;
            let ring = ready.get_inner_mut();
            while let Some(record) = ring.next() {
                self.backlog += 1;
                if let Some(bytes) = record.get(..size_of::<Event>()) {
                    events.push(bytemuck::pod_read_unaligned(bytes));
                }
                if events.len() - before >= BATCH {
                    return Ok(());
                }
            }
            ready.clear_ready();
            if events.len() > before {
                return Ok(());
            }
            self.backlog = 0;
        }
    }

    /// Whether the ring buffer may have been full since the last call: programs do not wait then, they go on without.
    pub fn fell_behind(&mut self) -> bool {
        let behind = self.backlog >= self.room;
        if behind {
            self.backlog = 0;
        }
        behind
    }
}

impl Drop for EventListener {
    fn drop(&mut self) {
        // The lease ends by itself should this fail.
        let _ = self.maps.write_config(ConfigField::EventsUntil(0));
    }
}

/// Released by the kernel however the holder ends.
fn lock(directory: &Path) -> Result<File, ListenError> {
    let failed = |source| ListenError::Lock { directory: directory.to_path_buf(), source };
    let file = File::open(directory).map_err(failed)?;
    match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ListenError::Busy { directory: directory.to_path_buf() }),
        Err(error) => Err(failed(error.into())),
    }
}
