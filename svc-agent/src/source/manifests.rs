//! Follows a directory of manifests: `*.yaml`, `*.yml` and `*.json` files with Services, EndpointSlices and Nodes.
//! A file that cannot be read or understood keeps what it said before in force, and so does a missing directory.
//! Neighbours: [`super::convert`] parses objects, [`super::kubernetes`] is the source with an API server.

mod claims;
mod directory;
mod document;
mod follow;
mod reader;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tracing::{Instrument, info_span};

use super::{SourceEvent, SourceStats};
use follow::DirectoryWatch;
use reader::Reader;

/// How to follow a directory; the defaults suit production.
#[derive(Clone, Debug)]
pub struct Options {
    pub directory: PathBuf,
    /// Name of the own Node object; others are not used.
    pub node_name: Arc<str>,
    /// Changes that follow each other this closely are read together.
    pub quiet: Duration,
    /// Even without any notice the directory is looked at this often: links may lead to places we do not watch.
    pub look_again: Duration,
}

impl Options {
    pub fn new(directory: PathBuf, node_name: &str) -> Self {
        Self {
            directory,
            node_name: node_name.into(),
            quiet: Duration::from_millis(25),
            look_again: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    #[error("inotify is not available: {0}. Raise fs.inotify.max_user_instances and fs.inotify.max_user_watches")]
    Inotify(#[source] notify::Error),
    #[error("reading the manifests ended unexpectedly: {0}")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Follows the directory until the receiver is gone.
pub async fn run(options: Options, stats: Arc<SourceStats>, sender: Sender<SourceEvent>) -> Result<(), ManifestsError> {
    let span = info_span!("manifests", directory = %options.directory.display());
    async {
        let mut watch = DirectoryWatch::new(&options.directory, options.quiet).map_err(ManifestsError::Inotify)?;
        let mut reader = Reader::new(&options, stats);
        loop {
            watch.follow_current();
            // Parsing may take seconds and must not hold up the other tasks.
            let step = move || {
                let events = reader.read();
                (reader, events)
            };
            let (back, events) = tokio::task::spawn_blocking(step).await.map_err(ManifestsError::Interrupted)?;
            reader = back;
            for event in events {
                if sender.send(event).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = watch.changed(options.look_again) => {}
                () = sender.closed() => return Ok(()),
            }
        }
    }
    .instrument(span)
    .await
}
