//! Turns the present state of the directory into the events that lead there from the last one. Blocking.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use tracing::{debug, error, info, warn};

use super::Options;
use super::claims::{Claims, Duplicate, Key};
use super::directory::{Directory, Stamp};
use super::document::{Found, parse_file};
use crate::source::convert::{ParseError, RejectReason, Rejection};
use crate::source::{Interner, Kind, SourceEvent, SourceStats};

/// Objects are shared with the receiver, not copied.
#[derive(Debug)]
pub(super) struct Reader {
    directory: Directory,
    node_name: Arc<str>,
    stats: Arc<SourceStats>,
    interner: Interner,
    files: BTreeMap<OsString, File>,
    claims: Claims,
    missing: bool,
    listed: bool,
}

#[derive(Default, Debug)]
struct File {
    /// `None`: look into it again next time.
    stamp: Option<Stamp>,
    /// What it said when it could last be understood.
    keys: Vec<Key>,
    problem: Option<String>,
}

impl Reader {
    pub(super) fn new(options: &Options, stats: Arc<SourceStats>) -> Self {
        Self {
            directory: Directory::new(options.directory.clone()),
            node_name: options.node_name.clone(),
            stats,
            interner: Interner::default(),
            files: BTreeMap::new(),
            claims: Claims::default(),
            missing: false,
            listed: false,
        }
    }

    pub(super) fn read(&mut self) -> Vec<SourceEvent> {
        let present = match self.directory.list() {
            Ok(present) => present,
            Err(problem) => {
                self.note_missing(&problem);
                return Vec::new();
            }
        };
        if std::mem::take(&mut self.missing) {
            info!("the directory is back");
        }
        self.each_kind(|stats| stats.set_connected(true));
        let gone: Vec<_> = self.files.keys().filter(|name| !present.contains_key(*name)).cloned().collect();
        for name in gone {
            debug!(file = %name.display(), "the file is gone");
            let old = self.files.remove(&name).unwrap_or_default();
            self.replace(&name, &old.keys, Vec::new());
        }
        for (name, stamp) in present {
            let known = self.files.get(&name).and_then(|file| file.stamp);
            if known != Some(stamp) {
                self.read_file(name, stamp);
            }
        }
        let broken = self.files.values().filter(|file| file.problem.is_some()).count();
        self.stats.set_broken_files(broken);
        self.take_events()
    }

    fn read_file(&mut self, name: OsString, stamp: Stamp) {
        let stamp = stamp.is_settled().then_some(stamp);
        let content = match self.directory.read(&name) {
            Ok(content) => content,
            // The next look finds it gone.
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return,
            Err(problem) => return self.note_broken(name, None, problem.to_string()),
        };
        let found = match parse_file(&mut self.interner, &name, &content, &self.node_name) {
            Ok(found) => found,
            Err(problem) => return self.note_broken(name, stamp, problem.to_string()),
        };
        let old = self.files.remove(&name).unwrap_or_default();
        if old.problem.is_some() {
            info!(file = %name.display(), "the file can be understood again");
        }
        let mut objects: BTreeMap<Key, SourceEvent> = BTreeMap::new();
        for found in found {
            let Some((key, event)) = self.usable(&name, found) else {
                continue;
            };
            match objects.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(event);
                }
                Entry::Occupied(place) => {
                    let (kind, object) = place.key();
                    self.stats.kind(*kind).count_unusable(RejectReason::DuplicateObject.label());
                    warn!(
                        file = %name.display(), object = format!("{kind} {object}"),
                        "the object is in the file twice, the first counts: remove one"
                    );
                }
            }
        }
        let keys = objects.keys().cloned().collect();
        self.replace(&name, &old.keys, objects.into_iter().collect());
        let file = File { stamp, keys, problem: None };
        self.files.insert(name, file);
    }

    /// What the file now says of the object, if anything.
    fn usable(&self, file: &OsStr, found: Found) -> Option<(Key, SourceEvent)> {
        let stats = self.stats.kind(found.kind);
        let object = match &found.key {
            Some((kind, name)) => format!("{kind} {name}"),
            None => format!("{} without name", found.kind),
        };
        match found.parsed {
            Ok(parsed) => {
                for rejection in &parsed.rejected {
                    stats.count_unusable(rejection.reason.label());
                    warn!(
                        file = %file.display(), line = found.line, object, reason = rejection.reason.label(),
                        problem = %rejection, "part of the object is left out: correct the file"
                    );
                }
                Some((found.key?, parsed.object))
            }
            Err(ParseError::Ignored(ignored)) => {
                stats.count_unusable(ignored.label());
                debug!(file = %file.display(), line = found.line, object, reason = %ignored, "not ours");
                None
            }
            Err(ParseError::Rejected(rejection)) => {
                self.note_rejected(file, found.line, &object, &rejection);
                stats.count_unusable(rejection.reason.label());
                let key = found.key?;
                let earlier = self.claims.get(file, &key)?.clone();
                Some((key, earlier))
            }
        }
    }

    fn note_rejected(&self, file: &OsStr, line: u64, object: &str, rejection: &Rejection) {
        warn!(
            file = %file.display(), line, object, reason = rejection.reason.label(), problem = %rejection,
            "the object cannot be used, what the file said of it before stays in force: correct the file"
        );
    }

    fn replace(&mut self, file: &OsStr, old: &[Key], new: Vec<(Key, SourceEvent)>) {
        for duplicate in self.claims.replace(&file.into(), old, new) {
            let Duplicate { key, winner, loser } = duplicate;
            self.stats.kind(key.0).count_unusable(RejectReason::DuplicateObject.label());
            warn!(
                file = %loser.display(), object = format!("{} {}", key.0, key.1), winner = %winner.display(),
                "the object is in two files, the file whose name sorts first counts: remove it from the other"
            );
        }
    }

    fn take_events(&mut self) -> Vec<SourceEvent> {
        let changes = self.claims.take_changes();
        for change in &changes {
            match change {
                SourceEvent::ServiceApplied(_) => self.stats.kind(Kind::Service).count_applied(),
                SourceEvent::SliceApplied(_) => self.stats.kind(Kind::EndpointSlice).count_applied(),
                SourceEvent::NodeApplied(_) => self.stats.kind(Kind::Node).count_applied(),
                SourceEvent::ServiceDeleted(_) => self.stats.kind(Kind::Service).count_deleted(),
                SourceEvent::SliceDeleted(_) => self.stats.kind(Kind::EndpointSlice).count_deleted(),
                SourceEvent::NodeDeleted => self.stats.kind(Kind::Node).count_deleted(),
                SourceEvent::ListStarted(_) | SourceEvent::ListCompleted(_) | SourceEvent::Kept(..) => {}
            }
        }
        if std::mem::replace(&mut self.listed, true) {
            return changes;
        }
        info!(files = self.files.len(), objects = changes.len(), "read completely");
        self.each_kind(|stats| stats.count_list());
        let mut events: Vec<_> = Kind::ALL.map(SourceEvent::ListStarted).into();
        events.extend(changes);
        events.extend(Kind::ALL.map(SourceEvent::ListCompleted));
        events
    }

    fn note_missing(&mut self, problem: &io::Error) {
        self.each_kind(|stats| {
            stats.set_connected(false);
            stats.count_error();
        });
        if !std::mem::replace(&mut self.missing, true) {
            error!(
                directory = %self.directory.path().display(), %problem,
                "the directory of manifests cannot be read, what it said before stays in force: create it or correct --manifests"
            );
        }
    }

    fn note_broken(&mut self, name: OsString, stamp: Option<Stamp>, problem: String) {
        let file = self.files.entry(name.clone()).or_default();
        file.stamp = stamp;
        if file.problem.as_ref() == Some(&problem) {
            return;
        }
        error!(
            file = %name.display(), problem, kept = file.keys.len(),
            "the file cannot be understood, what it said before stays in force: correct it"
        );
        file.problem = Some(problem);
        self.each_kind(|stats| stats.count_error());
    }

    fn each_kind(&self, change: impl Fn(&crate::source::KindStats)) {
        Kind::ALL.iter().for_each(|&kind| change(self.stats.kind(kind)));
    }
}
