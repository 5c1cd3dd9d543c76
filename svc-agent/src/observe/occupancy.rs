//! How full the maps are: read when somebody scrapes, and once a minute to say so before something does not fit.
//! Nothing is counted along, so nothing drifts. Neighbours: `collect` exports it, `shared` calls the watch.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use svc_common::{Family, Verdict, map};

use super::reader::{MapReader, ReadError};
use super::services::verdict_label;

/// Even a sample of the flow tables is thousands of entries; more often than this is not worth it.
const COUNT_LIFETIME: Duration = Duration::from_secs(30);
/// Share of a map, in percent, from which on an operator should know, and below which it is forgotten again.
const WARN_FROM: u64 = 80;
const FORGET_BELOW: u64 = 75;
/// In these the least recently used entries give way: full is how they look after a while.
const FORGETFUL: [&str; 6] =
    [map::FLOWS_V4, map::FLOWS_V6, map::AFFINITY, map::SOCKETS, map::FRAGMENTS, map::HELD_FRAGMENTS];

/// How full one map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    pub map: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

#[derive(Default)]
pub(super) struct Occupancy {
    /// Frontends by family and verdict.
    pub services: BTreeMap<(&'static str, &'static str), u64>,
    pub maps: Vec<Fill>,
}

/// The last answer of [`MapReader::counted`].
#[derive(Default)]
pub(super) struct Counts(Mutex<Option<(Instant, Vec<Fill>)>>);

impl Counts {
    fn get(&self, reader: &dyn MapReader) -> Result<Vec<Fill>, ReadError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((time, counts)) = &*known
            && time.elapsed() < COUNT_LIFETIME
        {
            return Ok(counts.clone());
        }
        let counts = reader.counted()?;
        *known = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }
}

impl Occupancy {
    pub fn read(reader: &dyn MapReader, counts: &Counts) -> Result<Self, ReadError> {
        let mut occupancy = Self::default();
        for family in ["IPv4", "IPv6"] {
            for verdict in [Verdict::FORWARD, Verdict::REJECT, Verdict::DROP] {
                occupancy.services.insert((family, verdict_label(verdict)), 0);
            }
        }
        let (mut frontends, mut addresses, mut lists) = ([0, 0], [HashSet::new(), HashSet::new()], HashSet::new());
        reader.services(&mut |_, entry| {
            let is_v6 = usize::from(entry.family == Family::V6);
            frontends[is_v6] += 1;
            addresses[is_v6].insert(entry.address);
            let key = (["IPv4", "IPv6"][is_v6], verdict_label(entry.publication.verdict()));
            *occupancy.services.entry(key).or_default() += 1;
            // Frontends of one Service port share one list.
            lists.insert(entry.publication);
        })?;
        let [v4, v6] = frontends;
        // Each address has an entry of its own beside those of its ports.
        let [own_v4, own_v6] = addresses.map(|of_family| of_family.len() as u64);
        let mut backends = 0;
        reader.backends(&mut |_, _| backends += 1)?;
        let entries = [
            (map::SERVICES, v4 + v6),
            (map::FRONTENDS_V4, v4 + own_v4),
            (map::FRONTENDS_V6, v6 + own_v6),
            (map::SLOTS, lists.iter().map(|list| u64::from(list.slot_count())).sum()),
            (map::BACKENDS, backends),
        ];
        let capacities: BTreeMap<&str, u32> = reader.capacities().into_iter().collect();
        let fill = |(map, entries)| Some(Fill { map, entries, capacity: u64::from(*capacities.get(map)?) });
        occupancy.maps = entries.into_iter().filter_map(fill).collect();
        occupancy.maps.extend(counts.get(reader)?);
        Ok(occupancy)
    }
}

/// Which maps an operator has been told of.
#[derive(Default)]
pub struct FillWatch {
    told: BTreeSet<&'static str>,
}

impl FillWatch {
    /// Those that have become fuller than 80 % since they were last emptier than 75 %.
    pub fn crossed(&mut self, maps: &[Fill]) -> Vec<Fill> {
        let share = |fill: &Fill| fill.entries * 100 / fill.capacity.max(1);
        for fill in maps.iter().filter(|fill| share(fill) < FORGET_BELOW) {
            self.told.remove(fill.map);
        }
        maps.iter().filter(|fill| share(fill) >= WARN_FROM && self.told.insert(fill.map)).copied().collect()
    }

    /// Looks, and logs what has crossed the line.
    pub(super) fn look(&mut self, reader: &dyn MapReader, counts: &Counts) {
        let occupancy = match Occupancy::read(reader, counts) {
            Ok(occupancy) => occupancy,
            Err(error) => {
                tracing::warn!(%error, "cannot see how full the maps are");
                return;
            }
        };
        for Fill { map, entries, capacity } in self.crossed(&occupancy.maps) {
            if FORGETFUL.contains(&map) {
                tracing::info!(
                    map,
                    entries,
                    capacity,
                    "map is 80 % full: the least recently used entries will give way"
                );
            } else {
                tracing::warn!(map, entries, capacity, "map is 80 % full: when it is full, new services will not fit");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crossing_is_told_once() {
        let mut watch = FillWatch::default();
        let mut told = |entries| {
            let maps = [
                Fill { map: map::SLOTS, entries, capacity: 1000 },
                Fill { map: map::BACKENDS, entries: 0, capacity: 0 },
            ];
            watch.crossed(&maps).len()
        };
        let shares = [0, 799, 800, 900, 760, 850, 749, 800, 1000];
        assert_eq!(shares.map(&mut told), [0, 0, 1, 0, 0, 0, 0, 1, 0]);
    }
}
