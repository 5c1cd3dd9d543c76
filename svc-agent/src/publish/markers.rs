//! Address markers: one more entry in FRONTENDS for every address that a frontend has, so that programs refuse packets
//! to ports the address does not have, and know whether to answer a ping. A marker comes right before the first frontend
//! of its address and goes after the last one. Neighbours: [`super::apply`] announces frontends, [`super::retire`] takes them away.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use svc_common::{Verdict, address_marker};

use super::maps::{Frontend, Maps, MapsError};
use super::publisher::Publisher;

/// Which markers the maps hold, with which of [`address_marker`]. Each is named by its own key, see [`Frontend::marker`].
#[derive(Debug, Default)]
pub struct Markers {
    pub present: HashMap<Frontend, u32>,
    /// Addresses whose last frontend may be gone, or whose services decide otherwise, by the operation under way.
    touched: BTreeSet<Frontend>,
    /// Not as they should be: a write failed, or an earlier agent did not make them. Left to the next tick.
    pub overdue: BTreeSet<Frontend>,
}

impl Markers {
    /// To be called for every frontend that was, or was meant to be, in the maps, and when its verdict changed.
    pub fn touch(&mut self, frontend: Frontend) {
        self.touched.insert(frontend.marker());
    }

    pub fn touch_overdue(&mut self) {
        self.touched.append(&mut self.overdue);
    }
}

impl<M: Maps> Publisher<M> {
    /// Takes over the markers that were found; `addresses` are those of all frontends in the maps.
    pub(super) fn adopt_markers(&mut self, found: Vec<(Frontend, u32)>, addresses: &HashSet<Frontend>) {
        for (marker, value) in found {
            if addresses.contains(&marker) {
                self.markers.present.insert(marker, value);
            } else {
                self.stale_frontends.push(marker);
            }
        }
        let needed: BTreeSet<Frontend> = self.frontends.keys().map(Frontend::marker).collect();
        let wrong = |marker: &Frontend| self.markers.present.get(marker).copied() != self.marker_value(*marker);
        let overdue: Vec<Frontend> = needed.into_iter().filter(wrong).collect();
        self.markers.overdue.extend(overdue);
    }

    /// Shows services to clients: their frontends, and the markers those lack. What could not be written is added to
    /// `refused`, by service index.
    pub(super) fn insert_frontends(
        &mut self,
        now: Instant,
        frontends: &[(Frontend, u32)],
        refused: &mut HashMap<u32, MapsError>,
    ) {
        let mut entries = Vec::with_capacity(frontends.len() * 2);
        let mut planned = HashSet::new();
        for (frontend, index) in frontends {
            let marker = frontend.marker();
            if !self.markers.present.contains_key(&marker) && planned.insert(marker) {
                entries.push((marker, self.marker_value(marker).unwrap_or(address_marker::REFUSES)));
            }
            entries.push((*frontend, *index));
        }
        let mut rest = entries.as_slice();
        let mut changed;
        while let Err(stopped) = self.maps.insert_frontends(rest) {
            let (shown, failed) = rest.split_at(stopped.done.min(rest.len()));
            self.shown(now, shown);
            rest = match failed {
                [] => &[],
                [(marker, value), (_, index), others @ ..] if marker.is_marker() => {
                    refused.insert(*index, stopped.error);
                    // The next frontend of the address is the first one now.
                    match others.iter().position(|(other, _)| other.marker() == *marker) {
                        Some(position) => {
                            let mut others = others.to_vec();
                            others.insert(position, (*marker, *value));
                            changed = others;
                            changed.as_slice()
                        }
                        None => others,
                    }
                }
                [(_, index), others @ ..] => {
                    refused.insert(*index, stopped.error);
                    others
                }
            };
        }
        self.shown(now, rest);
    }

    /// These entries are in the maps now.
    fn shown(&mut self, now: Instant, entries: &[(Frontend, u32)]) {
        for (frontend, index) in entries {
            if frontend.is_marker() {
                self.markers.present.insert(*frontend, *index);
            } else if let Some(record) = self.records.get_mut(index) {
                record.announced = true;
            }
            self.forget_deletion(now, *frontend);
        }
    }

    /// Brings the markers of all touched addresses in line with their frontends.
    pub(super) fn settle_markers(&mut self) {
        let touched = std::mem::take(&mut self.markers.touched);
        if touched.is_empty() {
            return;
        }
        let leaving: HashSet<Frontend> = self.leaving().map(|frontend| frontend.marker()).collect();
        let mut missing = Vec::new();
        for marker in touched {
            let present = self.markers.present.get(&marker).copied();
            if let Some(value) = self.marker_value(marker) {
                missing.extend((present != Some(value)).then_some((marker, value)));
            } else if present.is_some() && !leaving.contains(&marker) {
                if self.succeeded(|publisher| publisher.maps.delete_frontend(marker)) {
                    self.markers.present.remove(&marker);
                } else {
                    self.markers.overdue.insert(marker);
                }
            }
        }
        // One family may be full while the other is not.
        for missing in missing.chunk_by(|(a, _), (b, _)| a.family == b.family) {
            let done = match self.maps.insert_frontends(missing) {
                Ok(()) => missing.len(),
                Err(stopped) => {
                    self.failures.refused += 1;
                    stopped.done.min(missing.len())
                }
            };
            let (written, failed) = missing.split_at(done);
            self.markers.present.extend(written.iter().copied());
            self.markers.overdue.extend(failed.iter().map(|(marker, _)| *marker));
        }
    }

    /// Frontends that are still in the maps but lead nowhere any more.
    fn leaving(&self) -> impl Iterator<Item = Frontend> + '_ {
        let retired = self.retired.iter().filter_map(|retired| retired.frontend);
        retired.chain(self.stale_frontends.iter().copied().filter(|stale| !stale.is_marker()))
    }

    /// What the marker should say; `None` if no service has a frontend with its address.
    fn marker_value(&self, marker: Frontend) -> Option<u32> {
        let frontends = self.frontends.range(marker..).take_while(|(frontend, _)| frontend.marker() == marker);
        let verdicts = frontends.map(|(_, index)| self.records.get(index).map(|record| record.publication.verdict()));
        verdicts.fold(None, |value, verdict| {
            let value = match (value, verdict) {
                (Some(address_marker::ANSWERS), _) | (_, Some(Verdict::FORWARD)) => address_marker::ANSWERS,
                (Some(address_marker::DROPS), _) | (_, Some(Verdict::DROP)) => address_marker::DROPS,
                _ => address_marker::REFUSES,
            };
            Some(value)
        })
    }

    /// The first marker that is lost, left over, or not what the maps hold.
    pub(super) fn audit_markers(&self) -> Result<Option<String>, MapsError> {
        let found = self.maps.read_frontends()?.into_iter().filter(|(frontend, _)| frontend.is_marker());
        let found: HashMap<Frontend, u32> = found.collect();
        for (marker, value) in &self.markers.present {
            let address = marker.socket_address().ip();
            if found.get(marker).is_some_and(|other| other != value) {
                return Ok(Some(format!("marker of {address} is not what was written")));
            }
            let wanted = self.marker_value(*marker);
            if wanted.is_some_and(|wanted| wanted != *value) && !self.markers.overdue.contains(marker) {
                return Ok(Some(format!("marker of {address} does not say what its services do")));
            }
        }
        let found: HashSet<Frontend> = found.into_keys().collect();
        let stale = self.stale_frontends.iter().copied().filter(Frontend::is_marker);
        let known: HashSet<Frontend> = self.markers.present.keys().copied().chain(stale).collect();
        if let Some(marker) = found.symmetric_difference(&known).next() {
            let place = if found.contains(marker) { "only in the maps" } else { "not in the maps" };
            return Ok(Some(format!("marker of {} is {place}", marker.socket_address().ip())));
        }
        let mut used: HashSet<Frontend> = self.leaving().map(|frontend| frontend.marker()).collect();
        for frontend in self.frontends.keys() {
            used.insert(frontend.marker());
            if !self.markers.present.contains_key(&frontend.marker())
                && !self.markers.overdue.contains(&frontend.marker())
            {
                return Ok(Some(format!("{frontend} has no marker")));
            }
        }
        let leaked = |marker: &&Frontend| !used.contains(marker) && !self.markers.overdue.contains(marker);
        let leaked = self.markers.present.keys().find(leaked);
        Ok(leaked.map(|marker| format!("nothing has the marker of {}", marker.socket_address().ip())))
    }
}
