//! What the sources have seen, counted for metrics and health. Written by the sources, read at scrape time.
//! Must not influence what a source does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Kind;

/// Counters of one source. Share it in an `Arc`.
#[derive(Default, Debug)]
pub struct SourceStats {
    kinds: [KindStats; 3],
    broken_files: AtomicUsize,
}

impl SourceStats {
    pub fn kind(&self, kind: Kind) -> &KindStats {
        &self.kinds[kind as usize]
    }

    /// Manifest files that cannot be understood at present.
    pub fn broken_files(&self) -> usize {
        self.broken_files.load(Ordering::Relaxed)
    }

    pub(super) fn set_broken_files(&self, count: usize) {
        self.broken_files.store(count, Ordering::Relaxed);
    }
}

/// Counters of one kind of objects; they only grow.
#[derive(Default, Debug)]
pub struct KindStats {
    applied: AtomicU64,
    deleted: AtomicU64,
    lists: AtomicU64,
    errors: AtomicU64,
    connected: AtomicBool,
    unusable: Mutex<BTreeMap<&'static str, u64>>,
}

impl KindStats {
    /// Objects taken over, new or changed.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Objects that went away.
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }

    /// Completed lists: the first one, and one more after each interruption that could not be resumed.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    /// Failed requests, broken watches, unreadable files.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Whether the source could be read the last time it tried.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Objects, or parts of objects, that were left out, by reason.
    pub fn unusable(&self) -> BTreeMap<&'static str, u64> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count_applied(&self) {
        self.applied.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_deleted(&self) {
        self.deleted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_list(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn count_unusable(&self, reason: &'static str) {
        let mut unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        *unusable.entry(reason).or_default() += 1;
    }
}
