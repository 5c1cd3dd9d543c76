//! One hash map with typed keys and values: single operations through aya, bulk ones through [`super::batch`].
//! Must not know what the entries mean.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap};
use aya::util::nr_cpus;
use bytemuck::Pod;

use super::batch;
use crate::publish::{BatchError, MapsError};

/// What may be a key or value.
pub trait Element: Pod + aya::Pod {}
impl<T: Pod + aya::Pod> Element for T {}

/// Some entries of a map, and where the next ones are: `None` at the end.
pub struct Slice<K, V> {
    pub entries: Vec<(K, V)>,
    pub next: Option<u32>,
}

/// Entries asked for at once when reading.
const READ_BATCH: usize = 1024;
/// Entries that are counted one by one; what a map has beyond them is estimated.
const SAMPLE: u64 = 16_384;
/// Room for values that are only counted.
const SAMPLE_BYTES: usize = 64 * 1024;
/// The kernel holds no lock over a batch, so this only bounds the copy of keys and values.
const WRITE_BATCH: usize = 1024;

pub struct Table<K: aya::Pod, V: aya::Pod> {
    name: &'static str,
    capacity: u32,
    map: HashMap<MapData, K, V>,
    fd: OwnedFd,
}

impl<K: Element, V: Element> Table<K, V> {
    pub(super) fn new(name: &'static str, data: MapData, lru: bool) -> Result<Self, MapError> {
        let capacity = data.info()?.max_entries();
        let fd = batch::clone_fd(&data)?;
        let map = HashMap::try_from(if lru { Map::LruHashMap(data) } else { Map::HashMap(data) })?;
        Ok(Self { name, capacity, map, fd })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    pub fn get(&self, key: &K) -> Result<Option<V>, MapsError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.error("read", error)),
        }
    }

    /// The number of entries; in a large map an estimate.
    pub fn estimate(&self) -> Result<u64, MapsError> {
        match estimate::<K, V>(&self.fd, 1, self.capacity) {
            Err(error) if batch::is_unsupported(&error) => Ok(self.map.keys().filter(Result::is_ok).count() as u64),
            counted => counted.map_err(|source| MapsError::Refused { map: self.name, action: "read", source }),
        }
    }

    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), MapsError> {
        self.map.insert(key, value, 0).map_err(|error| self.error("write", error))
    }

    /// Inserts in order; `keys` and `values` have the same length.
    pub fn insert_all(&mut self, keys: &[K], values: &[V]) -> Result<(), BatchError> {
        let mut done = 0;
        for (keys, values) in keys.chunks(WRITE_BATCH).zip(values.chunks(WRITE_BATCH)) {
            let batched = if keys.len() == 1 { 0 } else { self.insert_batch(keys, values) };
            for (offset, (key, value)) in keys.iter().zip(values).enumerate().skip(batched) {
                self.insert(key, value).map_err(|error| BatchError { done: done + offset, error })?;
            }
            done += keys.len();
        }
        Ok(())
    }

    /// Number of entries written. An error is left to the single insert of the entry it concerns to find again.
    fn insert_batch(&self, keys: &[K], values: &[V]) -> usize {
        match batch::update(self.fd.as_fd(), keys, values) {
            Ok(()) => keys.len(),
            Err((done, _)) => done,
        }
    }

    /// An entry that does not exist counts as removed.
    pub fn remove(&mut self, key: &K) -> Result<(), MapsError> {
        match self.map.remove(key) {
            Err(error) if !is_missing(&error) => Err(self.error("delete from", error)),
            _ => Ok(()),
        }
    }

    pub fn entries(&self) -> Result<Vec<(K, V)>, MapsError> {
        let mut entries = Vec::new();
        let batched = read_batches(&self.fd, 1, |key: &K, values: &[V]| {
            entries.extend(values.first().map(|value| (*key, *value)));
        });
        match batched {
            Err(error) if batch::is_unsupported(&error) => self.entries_one_by_one(),
            Err(source) => Err(MapsError::Refused { map: self.name, action: "read", source }),
            Ok(()) => Ok(entries),
        }
    }

    /// About `room` entries from `start` on, which is the end of an earlier slice; all of them where the kernel cannot stop.
    pub fn slice(&self, start: Option<u32>, room: usize) -> Result<Slice<K, V>, MapsError> {
        let mut slice = Slice { entries: Vec::new(), next: None };
        let batched = walk(&self.fd, start, 1, room, |keys: &[K], values: &[V], next| {
            slice.entries.extend(keys.iter().copied().zip(values.iter().copied()));
            slice.next = next;
            ControlFlow::Break(())
        });
        match batched {
            Err(error) if batch::is_unsupported(&error) => {
                Ok(Slice { entries: self.entries_one_by_one()?, next: None })
            }
            Err(source) => Err(MapsError::Refused { map: self.name, action: "read", source }),
            Ok(()) => Ok(slice),
        }
    }

    fn entries_one_by_one(&self) -> Result<Vec<(K, V)>, MapsError> {
        self.map.iter().collect::<Result<_, _>>().map_err(|error| self.error("read", error))
    }

    fn error(&self, action: &'static str, error: MapError) -> MapsError {
        maps_error(self.name, action, error)
    }
}

/// A hash map with one value for each CPU, which only the kernel writes.
pub(super) struct PerCpuTable<K: aya::Pod, V: aya::Pod> {
    name: &'static str,
    capacity: u32,
    map: PerCpuHashMap<MapData, K, V>,
    fd: OwnedFd,
}

impl<K: Pod + aya::Pod, V: Pod + aya::Pod> PerCpuTable<K, V> {
    pub fn new(name: &'static str, data: MapData) -> Result<Self, MapError> {
        let capacity = data.info()?.max_entries();
        let fd = batch::clone_fd(&data)?;
        Ok(Self { name, capacity, map: Map::PerCpuHashMap(data).try_into()?, fd })
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// As [`Table::estimate`].
    pub fn estimate(&self) -> Result<u64, MapsError> {
        match estimate::<K, V>(&self.fd, cpus(self.name)?, self.capacity) {
            Err(error) if batch::is_unsupported(&error) => Ok(self.map.keys().filter(Result::is_ok).count() as u64),
            counted => counted.map_err(|source| MapsError::Refused { map: self.name, action: "read", source }),
        }
    }

    /// An entry that does not exist counts as removed.
    pub fn remove(&mut self, key: &K) -> Result<(), MapsError> {
        match self.map.remove(key) {
            Err(error) if !is_missing(&error) => Err(maps_error(self.name, "delete from", error)),
            _ => Ok(()),
        }
    }

    /// Every entry with its values of all CPUs.
    pub fn entries<T>(&self, mut combine: impl FnMut(&[V]) -> T) -> Result<Vec<(K, T)>, MapsError> {
        let mut entries = Vec::new();
        let batched =
            read_batches(&self.fd, cpus(self.name)?, |key: &K, values: &[V]| entries.push((*key, combine(values))));
        match batched {
            Err(error) if batch::is_unsupported(&error) => {
                let mut entries = Vec::new();
                for entry in self.map.iter() {
                    let (key, values) = entry.map_err(|error| maps_error(self.name, "read", error))?;
                    entries.push((key, combine(&values)));
                }
                Ok(entries)
            }
            Err(source) => Err(MapsError::Refused { map: self.name, action: "read", source }),
            Ok(()) => Ok(entries),
        }
    }
}

/// How many values an entry of a per-CPU map has.
pub(super) fn cpus(map: &'static str) -> Result<usize, MapsError> {
    nr_cpus().map_err(|(_, source)| MapsError::Refused { map, action: "read", source })
}

pub(super) fn read_batches<K: Pod, V: Pod>(
    fd: &OwnedFd,
    repeat: usize,
    mut visit: impl FnMut(&K, &[V]),
) -> io::Result<()> {
    walk(fd, None, repeat, READ_BATCH, |keys: &[K], values: &[V], _| {
        keys.iter().zip(values.chunks(repeat)).for_each(|(key, values)| visit(key, values));
        ControlFlow::Continue(())
    })
}

/// Counts the entries of the first buckets: the kernel's hash spreads entries evenly, so the others hold as many.
fn estimate<K: Pod, V: Pod>(fd: &OwnedFd, repeat: usize, capacity: u32) -> io::Result<u64> {
    let buckets = u64::from(capacity).next_power_of_two();
    let room = (SAMPLE_BYTES / (size_of::<V>() * repeat).max(1)).clamp(16, READ_BATCH);
    let (mut counted, mut seen) = (0, buckets);
    walk(fd, None, repeat, room, |keys: &[K], _: &[V], next_bucket| {
        counted += keys.len() as u64;
        match next_bucket {
            Some(bucket) if counted >= SAMPLE => {
                seen = u64::from(bucket).clamp(1, buckets);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    })?;
    Ok((counted * buckets / seen).min(u64::from(capacity).max(counted)))
}

/// Visits entries from the bucket `cursor` on in batches, each with the number of the bucket after it (`None` at the end).
fn walk<K: Pod, V: Pod>(
    fd: &OwnedFd,
    mut cursor: Option<u32>,
    repeat: usize,
    mut room: usize,
    mut visit: impl FnMut(&[K], &[V], Option<u32>) -> ControlFlow<()>,
) -> io::Result<()> {
    let (mut keys, mut values) = (vec![K::zeroed(); room], vec![V::zeroed(); room * repeat]);
    loop {
        match batch::lookup(fd.as_fd(), &mut cursor, &mut keys, &mut values, repeat) {
            Ok((count, last)) => {
                let next = cursor.filter(|_| !last);
                if visit(&keys[..count], &values[..count * repeat], next).is_break() || last {
                    return Ok(());
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                room *= 2;
                keys.resize(room, K::zeroed());
                values.resize(room * repeat, V::zeroed());
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

pub(super) fn maps_error(map: &'static str, action: &'static str, error: MapError) -> MapsError {
    let source = match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        other => io::Error::other(other),
    };
    match source.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => MapsError::Full { map },
        _ => MapsError::Refused { map, action, source },
    }
}
