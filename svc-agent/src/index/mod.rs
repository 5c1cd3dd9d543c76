//! Indexed cluster state: services with their slices, the own node, and which services a change affects.
//! Plain and synchronous: no I/O, no clock, no tasks. Every change costs what it touches, not what the cluster holds;
//! only a completed list and a move of the node to another zone walk over everything.
//! Neighbours: [`crate::source`] feeds it, [`crate::plan`] reads it.

mod frontends;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{EndpointSlice, Frontend, IpFamily, LoadBalancing, Node, ObjectName, Service};
use crate::source::{Kind, SourceEvent};
use frontends::Frontends;

/// What the source told us of the cluster.
#[derive(Debug)]
pub struct Index {
    entries: HashMap<ObjectName, Entry>,
    /// Slice → name of the Service it belongs to, in the slice's namespace.
    slice_owners: HashMap<ObjectName, Arc<str>>,
    frontends: Frontends,
    node: Arc<Node>,
    load_balancing: LoadBalancing,
    node_listed: Generation,
    lists: [List; 3],
    affected: BTreeSet<ObjectName>,
    node_changed: bool,
    triggers: Vec<(IpFamily, SystemTime)>,
}

/// Counts lists of one kind; an object carries the number of the last list that mentioned it.
type Generation = u32;

#[derive(Default, Debug)]
struct List {
    generation: Generation,
    completed: bool,
}

/// All we know under one Service name. It exists as long as there is a Service or a slice of that name.
#[derive(Default, Debug)]
struct Entry {
    service: Option<Listed<Service>>,
    /// Sorted by name.
    slices: Vec<Listed<EndpointSlice>>,
}

#[derive(Debug)]
struct Listed<T> {
    object: Arc<T>,
    generation: Generation,
}

/// What has changed since the last [`Index::take_changes`].
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Changes {
    /// Services to plan and publish again, those that are gone first. Plan each with [`crate::plan::plan_affected`].
    pub services: Vec<ObjectName>,
    /// Something of [`Index::node`] changed.
    pub node: bool,
    /// Times of the changes behind these, as far as slices carry them, once the index is synced.
    pub triggers: Vec<(IpFamily, SystemTime)>,
}

/// Sizes, read when somebody asks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IndexStats {
    pub services: usize,
    pub slices: usize,
    pub endpoints: usize,
    pub frontends: usize,
    /// Frontends that more than one Service claims.
    pub conflicts: usize,
}

impl Index {
    pub fn new(node_name: &str) -> Self {
        Self {
            entries: HashMap::new(),
            slice_owners: HashMap::new(),
            frontends: Frontends::default(),
            node: unknown_node(node_name.into()),
            load_balancing: LoadBalancing::default(),
            node_listed: 0,
            lists: Default::default(),
            affected: BTreeSet::new(),
            node_changed: false,
            triggers: Vec::new(),
        }
    }

    /// For Services that do not ask for an algorithm; to be said before the first change is taken.
    pub fn with_load_balancing(self, load_balancing: LoadBalancing) -> Self {
        Self { load_balancing, ..self }
    }

    pub fn apply(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::ListStarted(kind) => {
                let list = &mut self.lists[kind as usize];
                list.generation = list.generation.wrapping_add(1);
            }
            SourceEvent::ListCompleted(kind) => self.complete_list(kind),
            SourceEvent::ServiceApplied(service) => self.apply_service(service),
            SourceEvent::ServiceDeleted(name) => self.delete_service(&name),
            SourceEvent::SliceApplied(slice) => self.apply_slice(slice),
            SourceEvent::SliceDeleted(name) => self.delete_slice(&name),
            SourceEvent::NodeApplied(node) => {
                self.node_listed = self.lists[Kind::Node as usize].generation;
                self.replace_node(node);
            }
            SourceEvent::NodeDeleted => self.forget_node(),
            SourceEvent::Kept(kind, name) => self.keep(kind, &name),
        }
    }

    /// Whether everything has been listed once. Nothing may be programmed, and nothing pruned, before.
    pub fn is_synced(&self) -> bool {
        self.lists.iter().all(|list| list.completed)
    }

    /// What to plan and publish; empty until the index is synced.
    pub fn take_changes(&mut self) -> Changes {
        if !self.is_synced() {
            return Changes::default();
        }
        let mut services: Vec<_> = std::mem::take(&mut self.affected).into_iter().collect();
        services.sort_by_key(|name| self.service(name).is_some());
        Changes { services, node: std::mem::take(&mut self.node_changed), triggers: std::mem::take(&mut self.triggers) }
    }

    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.entries.get(name)?.service.as_ref().map(|listed| &*listed.object)
    }

    /// Slices of the Service of this name, sorted by name.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.entries.get(service).into_iter().flat_map(|entry| entry.slices.iter().map(|listed| &*listed.object))
    }

    /// All Services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|entry| entry.service.as_ref()).map(|listed| &*listed.object)
    }

    /// The own node; only its name is known while the source has no such object.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Of Services that do not ask for an algorithm.
    pub fn load_balancing(&self) -> LoadBalancing {
        self.load_balancing
    }

    /// The Service that gets the frontend: of all that claim it, the one whose name sorts first.
    pub fn frontend_owner(&self, frontend: &Frontend) -> Option<&ObjectName> {
        self.frontends.owner(frontend)
    }

    pub fn stats(&self) -> IndexStats {
        let slices = self.entries.values().flat_map(|entry| &entry.slices);
        IndexStats {
            services: self.services().count(),
            slices: self.slice_owners.len(),
            endpoints: slices.map(|slice| slice.object.endpoints.len()).sum(),
            frontends: self.frontends.len(),
            conflicts: self.frontends.conflicts(),
        }
    }

    fn apply_service(&mut self, service: Arc<Service>) {
        let generation = self.lists[Kind::Service as usize].generation;
        let entry = self.entries.entry(service.name.clone()).or_default();
        match &mut entry.service {
            Some(known) if known.object == service => known.generation = generation,
            known => {
                let new = Listed { object: service.clone(), generation };
                let old = known.replace(new).map(|listed| listed.object);
                self.frontends.replace(&service.name, old.as_deref(), Some(&service), &mut self.affected);
                self.affected.insert(service.name.clone());
            }
        }
    }

    fn delete_service(&mut self, name: &ObjectName) {
        let MapEntry::Occupied(mut entry) = self.entries.entry(name.clone()) else {
            return;
        };
        if let Some(old) = entry.get_mut().service.take() {
            self.frontends.replace(name, Some(&old.object), None, &mut self.affected);
            self.affected.insert(name.clone());
        }
        if entry.get().slices.is_empty() {
            entry.remove();
        }
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>) {
        let owner = self.slice_owners.get(&slice.name);
        if owner.is_some_and(|owner| *owner != slice.service) {
            self.delete_slice(&slice.name);
        }
        let generation = self.lists[Kind::EndpointSlice as usize].generation;
        self.slice_owners.insert(slice.name.clone(), slice.service.clone());
        let service = ObjectName { namespace: slice.name.namespace.clone(), name: slice.service.clone() };
        let (family, trigger) = (slice.family, slice.last_change_trigger);
        let entry = self.entries.entry(service.clone()).or_default();
        let new = Listed { object: slice, generation };
        let known = entry.slices.binary_search_by(|known| known.object.name.cmp(&new.object.name));
        let old_trigger = match known {
            Ok(position) if entry.slices[position].object == new.object => {
                entry.slices[position].generation = generation;
                return;
            }
            Ok(position) => std::mem::replace(&mut entry.slices[position], new).object.last_change_trigger,
            Err(position) => {
                // Most services have one slice.
                entry.slices.reserve_exact(1);
                entry.slices.insert(position, new);
                None
            }
        };
        if trigger != old_trigger && self.is_synced() {
            self.triggers.extend(trigger.map(|trigger| (family, trigger)));
        }
        self.affected.insert(service);
    }

    fn delete_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.slice_owners.remove(name) else {
            return;
        };
        let service = ObjectName { namespace: name.namespace.clone(), name: owner };
        if let MapEntry::Occupied(mut entry) = self.entries.entry(service.clone()) {
            entry.get_mut().slices.retain(|slice| slice.object.name != *name);
            if entry.get().slices.is_empty() && entry.get().service.is_none() {
                entry.remove();
            }
        }
        self.affected.insert(service);
    }

    fn replace_node(&mut self, node: Arc<Node>) {
        if self.node == node {
            return;
        }
        let moved = self.node.zone != node.zone || self.node.name != node.name;
        self.node = node;
        self.node_changed = true;
        if moved {
            let hinted = |slice: &Listed<EndpointSlice>| slice.object.endpoints.iter().any(|e| e.hints.is_some());
            let hinted = self.entries.iter().filter(|(_, entry)| entry.slices.iter().any(hinted));
            self.affected.extend(hinted.map(|(name, _)| name.clone()));
        }
    }

    fn forget_node(&mut self) {
        self.replace_node(unknown_node(self.node.name.clone()));
    }

    fn keep(&mut self, kind: Kind, name: &ObjectName) {
        let generation = self.lists[kind as usize].generation;
        match kind {
            Kind::Service => {
                let service = self.entries.get_mut(name).and_then(|entry| entry.service.as_mut());
                service.into_iter().for_each(|service| service.generation = generation);
            }
            Kind::EndpointSlice => {
                let owner = self
                    .slice_owners
                    .get(name)
                    .map(|owner| ObjectName { namespace: name.namespace.clone(), name: owner.clone() });
                let entry = owner.and_then(|owner| self.entries.get_mut(&owner));
                let mut slices = entry.into_iter().flat_map(|entry| &mut entry.slices);
                let slice = slices.find(|slice| slice.object.name == *name);
                slice.into_iter().for_each(|slice| slice.generation = generation);
            }
            Kind::Node => self.node_listed = generation,
        }
    }

    /// Deletes what the list did not mention.
    fn complete_list(&mut self, kind: Kind) {
        let list = &mut self.lists[kind as usize];
        list.completed = true;
        let generation = list.generation;
        match kind {
            Kind::Service => {
                let services = self.entries.iter().filter_map(|(name, entry)| Some((name, entry.service.as_ref()?)));
                let gone = services.filter(|(_, service)| service.generation != generation);
                for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                    self.delete_service(&name);
                }
            }
            Kind::EndpointSlice => {
                let slices = self.entries.values().flat_map(|entry| &entry.slices);
                let gone = slices.filter(|slice| slice.generation != generation);
                for name in gone.map(|slice| slice.object.name.clone()).collect::<Vec<_>>() {
                    self.delete_slice(&name);
                }
            }
            Kind::Node => {
                if self.node_listed != generation {
                    self.forget_node();
                }
            }
        }
    }
}

/// What we know of a node without its object.
fn unknown_node(name: Arc<str>) -> Arc<Node> {
    Arc::new(Node { name, ..Node::default() })
}

#[cfg(test)]
mod tests;
