//! Scenario files: objects in, what the maps hold out. Each runs through conversion, index, plan and publish on plain
//! memory, on memory where writes fail at random (and are tried again), and on the kernel's maps.
//!
//! A file is a list of steps: `== start`, `== apply` (YAML documents), `== delete Kind namespace/name`, `== pass SECONDS`,
//! `== stop` (the agent is gone, objects still change), `== expect` (the dump of `MapsSnapshot`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod objects;
mod publish_support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use objects::{Objects, deleted, event, kind_of, list};
use publish_support::kernel::PinnedMaps;
use publish_support::{CAPACITIES, unreliable};
use serde_json::Value;
use svc_agent::datapath::maps::Access;
use svc_agent::index::Index;
use svc_agent::model::ObjectName;
use svc_agent::plan::plan_affected;
use svc_agent::publish::memory::MemoryMaps;
use svc_agent::publish::{GRACE, Maps, MapsSnapshot, Publisher};
use svc_agent::source::{Interner, Kind, SourceEvent};

const NODE: &str = "node-1";

/// The cluster as the API server has it, and the agent if it runs.
struct World<F> {
    /// Makes another handle on the same maps.
    open: F,
    interner: Interner,
    objects: Objects,
    agent: Option<(Index, Box<dyn Agent>)>,
    now: Instant,
}

/// A publisher over any maps.
trait Agent {
    fn publish(&mut self, now: Instant, index: &Index, services: &[ObjectName]);
    fn prune(&mut self, now: Instant);
    fn tick(&mut self, now: Instant);
    fn dump(&self) -> String;
    fn check(&self);
}

impl<M: Maps> Agent for Publisher<M> {
    fn publish(&mut self, now: Instant, index: &Index, services: &[ObjectName]) {
        let plans: Vec<_> = services.iter().map(|name| (name, plan_affected(index, name))).collect();
        // Failures wait for the next tick, as in the agent.
        self.publish_services(now, plans.iter().map(|(name, plans)| (*name, plans.as_slice())));
    }

    fn prune(&mut self, now: Instant) {
        Publisher::prune(self, now);
    }

    fn tick(&mut self, now: Instant) {
        Publisher::tick(self, now);
    }

    fn dump(&self) -> String {
        MapsSnapshot::read(self.maps()).unwrap().to_string()
    }

    fn check(&self) {
        assert_eq!(self.audit(), None);
    }
}

impl<M: Maps + 'static, F: FnMut() -> M> World<F> {
    fn new(open: F) -> Self {
        Self { open, interner: Interner::default(), objects: Objects::new(), agent: None, now: Instant::now() }
    }

    fn start(&mut self) {
        let (mut publisher, _) = Publisher::adopt((self.open)(), self.now).unwrap();
        let mut index = Index::new(NODE);
        list(&mut index, &mut self.interner, &self.objects);
        let changes = index.take_changes();
        Agent::publish(&mut publisher, self.now, &index, &changes.services);
        Agent::prune(&mut publisher, self.now);
        self.agent = Some((index, Box::new(publisher)));
    }

    fn apply(&mut self, documents: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(documents).unwrap();
        for document in documents {
            let kind = kind_of(document["kind"].as_str().unwrap());
            let metadata = &document["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            let name = format!("{namespace}/{}", metadata["name"].as_str().unwrap());
            let event = event(&mut self.interner, kind, &name, &document);
            self.objects.insert((kind, name), document);
            self.change(event);
        }
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.objects.remove(&(kind, name.to_owned())).expect("the object exists");
        self.change(deleted(kind, name));
    }

    fn change(&mut self, event: SourceEvent) {
        if let Some((index, agent)) = &mut self.agent {
            index.apply(event);
            let changes = index.take_changes();
            agent.publish(self.now, index, &changes.services);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if let Some((_, agent)) = &mut self.agent {
            agent.tick(self.now);
        }
    }

    fn expect(&mut self, expected: &str, place: &str) {
        // Whatever could not be written at once is written by now, also where writes fail.
        for _ in 0..40 {
            self.pass(GRACE);
        }
        match &self.agent {
            Some((_, agent)) => {
                agent.check();
                assert_eq!(agent.dump(), expected, "{place}");
            }
            None => assert_eq!(MapsSnapshot::read(&(self.open)()).unwrap().to_string(), expected, "{place}"),
        }
    }

    fn run(&mut self, file: &Path) {
        let content = std::fs::read_to_string(file).unwrap();
        let mut steps: Vec<(usize, String, String)> = Vec::new();
        for (number, line) in content.lines().enumerate() {
            match (line.strip_prefix("== "), steps.last_mut()) {
                (Some(step), _) => steps.push((number + 1, step.trim().to_owned(), String::new())),
                (None, Some((_, _, text))) => *text += &format!("{line}\n"),
                (None, None) => assert!(line.is_empty() || line.starts_with('#'), "{file:?}:{number}: {line}"),
            }
        }
        for (line, step, text) in steps {
            let words: Vec<&str> = step.split_whitespace().collect();
            match words.as_slice() {
                ["start"] => self.start(),
                ["stop"] => self.agent = None,
                ["apply"] => self.apply(&text),
                ["delete", kind, name] => self.delete(kind_of(kind), name),
                ["pass", seconds] => self.pass(Duration::from_secs(seconds.parse().unwrap())),
                ["expect"] => self.expect(&trimmed(&text), &format!("{}:{line}", file.display())),
                _ => panic!("{}:{line}: no such step: {step}", file.display()),
            }
        }
    }
}

/// Without comments and empty lines.
fn trimmed(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn scenarios_in_memory() {
    for file in files() {
        let memory = MemoryMaps::new(CAPACITIES);
        World::new(|| memory.share()).run(&file);
    }
}

#[test]
fn scenarios_where_writes_fail() {
    for file in files() {
        for seed in 1..6 {
            let memory = MemoryMaps::new(CAPACITIES);
            World::new(|| unreliable(&memory, seed)).run(&file);
        }
    }
}

#[test]
fn scenarios_on_kernel_maps() {
    for file in files() {
        let Some(pinned) = PinnedMaps::create(CAPACITIES) else { return };
        World::new(|| pinned.open(Access::ReadWrite)).run(&file);
    }
}
