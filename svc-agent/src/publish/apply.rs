//! Brings one object from what the maps hold to what its plans ask for, in two halves: first everything that no client
//! can reach yet, then, for many objects together, names and frontends, and only then removals.
//! Neighbours: [`super::settle`] for slots and backends, [`super::markers`] for frontends, [`super::retire`].

use std::collections::HashMap;
use std::time::Instant;

use svc_common::{ServiceEntry, address_class, map};

use super::error::PublishError;
use super::maps::{Frontend, Maps, MapsError, ip_of};
use super::publisher::{Published, Publisher, Waiting};
use super::record::{Goal, Record, name_of};
use super::settle::Settled;
use crate::model::ObjectName;
use crate::plan::{ServiceId, ServicePlan};

/// A service that has everything but its name and frontend.
struct Added {
    index: u32,
    /// Who has the frontend so far: a service that no plan has claimed.
    replaces: Option<u32>,
}

pub(super) struct Work<'a> {
    object: &'a ObjectName,
    plans: &'a [ServicePlan],
    kept: Vec<u32>,
    added: Vec<Added>,
    failures: Vec<PublishError>,
    failed: Vec<ServiceId>,
    changed: bool,
}

impl<M: Maps> Publisher<M> {
    /// Everything of one object that nobody can reach yet, and changes of what it has already.
    pub(super) fn prepare<'a>(&mut self, now: Instant, object: &'a ObjectName, plans: &'a [ServicePlan]) -> Work<'a> {
        let mut work = Work {
            object,
            plans,
            kept: Vec::with_capacity(plans.len()),
            added: Vec::new(),
            failures: Vec::new(),
            failed: Vec::new(),
            changed: false,
        };
        // What stays comes first: it may be renamed, and what is new shares its affinity with what bears its name then.
        let stays = |plan: &&ServicePlan| {
            let owner = self.frontends.get(&Frontend::new(plan.frontend, plan.id.transport));
            owner.and_then(|index| self.records.get(index)).is_some_and(|record| record.id.service == *object)
        };
        let (staying, new): (Vec<_>, Vec<_>) = plans.iter().partition(stays);
        for plan in staying.into_iter().chain(new) {
            if let Err(error) = self.prepare_plan(now, plan, &mut work) {
                work.failed.push(plan.id.clone());
                work.failures.push(error);
            }
        }
        work
    }

    fn prepare_plan(&mut self, now: Instant, plan: &ServicePlan, work: &mut Work<'_>) -> Result<(), PublishError> {
        let frontend = Frontend::new(plan.frontend, plan.id.transport);
        let goal = Goal::of(plan);
        let owner = self.frontends.get(&frontend).copied();
        let replaces = match owner.and_then(|index| self.records.get_mut(&index).map(|record| (index, record))) {
            Some((index, record)) if record.id.service == *work.object && !work.kept.contains(&index) => {
                record.claimed = true;
                work.kept.push(index);
                let renamed = self.rename(index, &plan.id);
                let settled = renamed.and_then(|renamed| Ok((renamed, self.settle(now, index, &goal)?)));
                let (renamed, settled) = settled.map_err(|error| self.describe(error, &plan.id, frontend))?;
                work.changed |= renamed | settled.changed;
                self.note_reduced(settled, &plan.id, frontend, work);
                return Ok(());
            }
            Some((_, record)) if record.claimed => {
                let owner = Box::new(record.id.clone());
                return Err(PublishError::FrontendTaken { service: plan.id.clone(), frontend, owner });
            }
            Some((index, _)) => Some(index),
            None => None,
        };
        let affinity_id = self.affinity_id(&plan.id, &work.kept);
        let added = self.add(now, plan.id.clone(), frontend, &goal, affinity_id);
        let (index, settled) = added.map_err(|error| self.describe(error, &plan.id, frontend))?;
        self.note_reduced(settled, &plan.id, frontend, work);
        self.frontends.insert(frontend, index);
        work.kept.push(index);
        work.added.push(Added { index, replaces });
        work.changed = true;
        Ok(())
    }

    fn note_reduced(&self, settled: Settled, id: &ServiceId, frontend: Frontend, work: &mut Work<'_>) {
        if settled.reduced {
            let capacity = self.maps.capacities().slots;
            work.failures.push(PublishError::Reduced { service: id.clone(), frontend, capacity });
        }
    }

    /// Everything of a new service but its name and frontend.
    fn add(
        &mut self,
        now: Instant,
        id: ServiceId,
        frontend: Frontend,
        goal: &Goal,
        affinity_id: u32,
    ) -> Result<(u32, Settled), MapsError> {
        let index = self.take_service(now).ok_or(MapsError::Full { map: map::SERVICES })?;
        let entry = ServiceEntry {
            address: frontend.address,
            port: frontend.port,
            protocol: frontend.protocol,
            family: frontend.family,
            flags: goal.flags(),
            affinity_timeout: goal.affinity_timeout,
            affinity_id,
            ..ServiceEntry::default()
        };
        let address = ip_of(frontend.address, frontend.family);
        let written = self
            .maps
            .write_service(index, &entry)
            .and_then(|()| self.maps.add_address_class(address, address_class::FRONTEND));
        if let Err(error) = written {
            self.services.put_back(index);
            return Err(error);
        }
        // The index rested, but TCP connections of its last service may have gone on counting. Not worth a Service, if it fails.
        self.succeeded(|publisher| publisher.maps.delete_counters(index));
        let record = Record {
            id,
            frontend,
            publication: entry.publication,
            flags: entry.flags,
            affinity_timeout: goal.affinity_timeout,
            affinity_id,
            slots: None,
            backends: Vec::new(),
            damaged: false,
            claimed: true,
            announced: false,
        };
        self.records.insert(index, record);
        match self.settle(now, index, goal) {
            Ok(settled) => Ok((index, settled)),
            Err(error) => {
                self.records.remove(&index);
                self.services.put_back(index);
                Err(error)
            }
        }
    }

    /// The same for all families and frontends of one Service port, never used twice. `prepared` are services of the
    /// same object that are not in the list of objects yet.
    fn affinity_id(&mut self, id: &ServiceId, prepared: &[u32]) -> u32 {
        let records = |indexes: &[u32]| indexes.iter().filter_map(|index| self.records.get(index)).collect::<Vec<_>>();
        let same = |record: &&&Record| record.id.port_name == id.port_name && record.id.transport == id.transport;
        let staying = records(prepared);
        // One that goes may leave its id behind, unless one that stays has it and another name by now.
        let before = records(self.objects.get(&id.service).map_or(&[], Vec::as_slice));
        let free = |record: &&&Record| staying.iter().all(|other| other.affinity_id != record.affinity_id);
        let sibling = staying.iter().find(same).or_else(|| before.iter().filter(free).find(same));
        sibling.map(|record| record.affinity_id).unwrap_or_else(|| {
            let id = self.next_affinity_id;
            self.next_affinity_id += 1;
            id
        })
    }

    /// The port of a frontend got another name: clients notice nothing, counters start anew.
    fn rename(&mut self, index: u32, id: &ServiceId) -> Result<bool, MapsError> {
        let Some(record) = self.records.get_mut(&index) else { return Ok(false) };
        let renamed = record.id != *id;
        if renamed {
            self.maps.delete_counters(index)?;
            self.maps.insert_names(&[(index, name_of(id))]).map_err(|error| error.error)?;
        }
        // Also when it is equal: an adopted id does not share its text with the rest of the agent yet.
        record.id = id.clone();
        Ok(renamed)
    }

    /// Shows prepared services to clients, then takes away what no plan asks for any more.
    pub(super) fn finish(&mut self, now: Instant, works: Vec<Work<'_>>, published: &mut Published) {
        let added: Vec<u32> = works.iter().flat_map(|work| &work.added).map(|added| added.index).collect();
        let mut refused = self.announce(now, &added);
        let mut let_go = false;
        for mut work in works {
            for Added { index, replaces } in std::mem::take(&mut work.added) {
                match (refused.remove(&index), replaces) {
                    (Some(error), _) => {
                        work.kept.retain(|kept| *kept != index);
                        if let Some(record) = self.retire(now, index) {
                            self.frontends.extend(replaces.map(|owner| (record.frontend, owner)));
                            work.failures.push(self.describe(error, &record.id, record.frontend));
                            work.failed.push(record.id);
                        }
                    }
                    (None, Some(owner)) => drop(self.retire(now, owner)),
                    (None, None) => {}
                }
            }
            let before = self.objects.remove(work.object).unwrap_or_default();
            for index in before {
                let spared = |record: &Record| work.failed.contains(&record.id);
                if work.kept.contains(&index) || !self.records.contains_key(&index) {
                    continue;
                }
                if self.records.get(&index).is_some_and(spared) {
                    work.kept.push(index);
                } else {
                    self.retire(now, index);
                    (let_go, work.changed) = (true, true);
                }
            }
            if !work.kept.is_empty() {
                self.objects.insert(work.object.clone(), work.kept);
            }
            if work.failures.is_empty() {
                self.pending.remove(work.object);
            } else {
                let lacks_space = work.failures.iter().all(PublishError::is_lack_of_space);
                self.pending.insert(work.object.clone(), Waiting { plans: work.plans.to_vec(), lacks_space });
            }
            self.count_failures(&work.failures);
            published.changed += usize::from(work.changed);
            published.failures.append(&mut work.failures);
        }
        self.settle_markers();
        if let_go && !self.pending.is_empty() {
            self.let_go = Some(now);
        }
    }

    /// Writes names, then frontends with their markers. Returns what went wrong, by service index.
    fn announce(&mut self, now: Instant, added: &[u32]) -> HashMap<u32, MapsError> {
        let mut refused = HashMap::new();
        let records = |index: &u32| self.records.get(index).map(|record| (*index, record));
        let names: Vec<_> =
            added.iter().filter_map(records).map(|(index, record)| (index, name_of(&record.id))).collect();
        let frontends: Vec<_> =
            added.iter().filter_map(records).map(|(index, record)| (record.frontend, index)).collect();
        let mut rest = names.as_slice();
        while let Err(stopped) = self.maps.insert_names(rest) {
            let Some((index, _)) = rest.get(stopped.done) else { break };
            refused.insert(*index, stopped.error);
            rest = &rest[stopped.done + 1..];
        }
        let named: Vec<_> = frontends.into_iter().filter(|(_, index)| !refused.contains_key(index)).collect();
        self.insert_frontends(now, &named, &mut refused);
        refused
    }
}
