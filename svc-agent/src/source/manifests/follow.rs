//! Says when to look at the directory again. Follows the directory's path, not the inode it had at first: it may be
//! renamed, replaced, removed and made again, and so may a link that stands in its place.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RemoveKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout};
use tracing::warn;

/// A stream of changes is read at least this often, in multiples of the quiet time.
const MAX_QUIET: u32 = 10;
/// A file that is being written in place is waited for so long.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct DirectoryWatch {
    directory: PathBuf,
    quiet: Duration,
    watcher: RecommendedWatcher,
    notices: UnboundedReceiver<Notice>,
    /// Device and inode of what is watched.
    watched: Option<(u64, u64)>,
    watched_parent: Option<(u64, u64)>,
    complained: bool,
}

/// One thing that happened in the directory.
enum Notice {
    Changed,
    /// Written to, but not closed yet: half a file may look like a whole one.
    Writing(PathBuf),
    Written(PathBuf),
}

impl DirectoryWatch {
    pub(super) fn new(directory: &Path, quiet: Duration) -> notify::Result<Self> {
        let directory = std::path::absolute(directory).map_err(notify::Error::io)?;
        let (sender, notices) = mpsc::unbounded_channel();
        let ours = directory.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Some(notice) = read_notice(event, &ours) {
                // Fails only when nobody follows the directory any more.
                sender.send(notice).ok();
            }
        })?;
        Ok(Self { directory, quiet, watcher, notices, watched: None, watched_parent: None, complained: false })
    }

    /// Watches what is now at the path of the directory. To be called before each look at it.
    pub(super) fn follow_current(&mut self) {
        let directory = self.directory.clone();
        if let Some(parent) = directory.parent() {
            self.watched_parent = self.watch_current(parent, self.watched_parent);
        }
        self.watched = self.watch_current(&directory, self.watched);
    }

    fn watch_current(&mut self, path: &Path, watched: Option<(u64, u64)>) -> Option<(u64, u64)> {
        let current = fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if current == watched {
            return watched;
        }
        if watched.is_some() {
            // Fails if the kernel has dropped the watch together with the directory.
            self.watcher.unwatch(path).ok();
        }
        current?;
        match self.watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => current,
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!(
                        path = %path.display(), %error,
                        "the directory cannot be watched and is looked at every few seconds: raise \
                         fs.inotify.max_user_watches"
                    );
                }
                None
            }
        }
    }

    /// Returns when something may have changed and nothing has for a moment, or after `at_most`.
    pub(super) async fn changed(&mut self, at_most: Duration) {
        let Ok(Some(first)) = timeout(at_most, self.notices.recv()).await else {
            return;
        };
        let begin = Instant::now();
        let mut writing = HashSet::new();
        let mut notice = Some(first);
        loop {
            match notice {
                Some(Notice::Writing(path)) => {
                    writing.insert(path);
                }
                Some(Notice::Written(path)) => {
                    writing.remove(&path);
                }
                Some(Notice::Changed) | None => {}
            }
            let patience = if writing.is_empty() { self.quiet * MAX_QUIET } else { WRITE_PATIENCE };
            let Some(left) = patience.checked_sub(begin.elapsed()) else {
                return;
            };
            let wait = if writing.is_empty() { left.min(self.quiet) } else { left };
            match timeout(wait, self.notices.recv()).await {
                Ok(Some(next)) => notice = Some(next),
                Ok(None) => return,
                Err(_) => return,
            }
        }
    }
}

/// `None` for what cannot have changed a manifest, our own reading above all.
fn read_notice(event: notify::Result<notify::Event>, directory: &Path) -> Option<Notice> {
    // An error of the watch itself, or lost events: look at everything.
    let Ok(event) = event else {
        return Some(Notice::Changed);
    };
    if event.need_rescan() {
        return Some(Notice::Changed);
    }
    let path = event.paths.iter().find(|path| *path == directory || path.parent() == Some(directory))?;
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Notice::Written(path.clone())),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) => Some(Notice::Writing(path.clone())),
        EventKind::Remove(RemoveKind::File) => Some(Notice::Written(path.clone())),
        _ => Some(Notice::Changed),
    }
}
