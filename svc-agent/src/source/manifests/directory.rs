//! The files of the directory, and how to tell that one has changed without reading it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Timestamps of files are this coarse at worst: a file may change twice without looking different.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

/// What a file looks like from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The manifests by name. Links are followed, hidden files and what editors leave behind are not looked at.
    pub(super) fn list(&self) -> io::Result<BTreeMap<OsString, Stamp>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if !is_manifest(&name) {
                continue;
            }
            match fs::metadata(self.path.join(&name)) {
                Ok(metadata) if metadata.is_file() => {
                    files.insert(name, Stamp::new(&metadata));
                }
                Ok(_) => {}
                // Gone since, or a link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    pub(super) fn read(&self, name: &OsStr) -> io::Result<String> {
        fs::read_to_string(self.path.join(name))
    }
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether every later change shows in the stamp.
    pub(super) fn is_settled(&self) -> bool {
        let changed = u64::try_from(self.changed.0).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED_AFTER + Duration::from_secs(1))
    }
}

fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    let hidden = name.as_encoded_bytes().first().is_some_and(|first| matches!(first, b'.' | b'#'));
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_count() {
        for name in ["a.yaml", "b.yml", "c.json", "..yaml.yaml.json"].map(OsStr::new) {
            assert_eq!(is_manifest(name), name != "..yaml.yaml.json", "{name:?}");
        }
        for name in ["a.yaml~", ".a.yaml.swp", ".a.yaml", "#a.yaml#", "#a.yaml", "..data", "README.md", "4913", "yaml"]
        {
            assert!(!is_manifest(OsStr::new(name)), "{name}");
        }
    }
}
