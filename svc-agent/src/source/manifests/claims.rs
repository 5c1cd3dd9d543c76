//! Which file's word counts when several name one object: that of the file whose name sorts first. Costs what changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;

use crate::model::ObjectName;
use crate::source::{Kind, SourceEvent};

/// A Node has an empty namespace.
pub(super) type Key = (Kind, ObjectName);

#[derive(Default, Debug)]
pub(super) struct Claims {
    /// For each object the event that takes it over, by file, sorted by file name.
    claims: HashMap<Key, Vec<(Arc<OsStr>, SourceEvent)>>,
    /// What counted before the changes that have not been taken yet.
    before: BTreeMap<Key, Option<SourceEvent>>,
}

/// An object that another file has already.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Duplicate {
    pub key: Key,
    pub winner: Arc<OsStr>,
    pub loser: Arc<OsStr>,
}

impl Claims {
    /// What `file` says of the object.
    pub(super) fn get(&self, file: &OsStr, key: &Key) -> Option<&SourceEvent> {
        let claims = self.claims.get(key)?;
        claims.iter().find(|(claimant, _)| **claimant == *file).map(|(_, event)| event)
    }

    /// Replaces all that `file` says; `old` are the keys it had, `new` has no key twice. Returns new duplicates.
    pub(super) fn replace(&mut self, file: &Arc<OsStr>, old: &[Key], new: Vec<(Key, SourceEvent)>) -> Vec<Duplicate> {
        let stays: HashSet<&Key> = new.iter().map(|(key, _)| key).collect();
        for key in old.iter().filter(|key| !stays.contains(key)) {
            self.note_before(key);
            if let Some(claims) = self.claims.get_mut(key) {
                claims.retain(|(claimant, _)| claimant != file);
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        let mut duplicates = Vec::new();
        for (key, event) in new {
            self.note_before(&key);
            let claims = self.claims.entry(key.clone()).or_default();
            match claims.binary_search_by(|(claimant, _)| claimant.cmp(file)) {
                Ok(position) => claims[position].1 = event,
                Err(position) => {
                    claims.reserve_exact(1);
                    claims.insert(position, (file.clone(), event));
                    if let [(winner, _), .., (loser, _)] = claims.as_slice() {
                        duplicates.push(Duplicate {
                            key,
                            winner: winner.clone(),
                            loser: if position == 0 { loser.clone() } else { file.clone() },
                        });
                    }
                }
            }
        }
        duplicates
    }

    /// What has changed in effect, deletions first: a new object may need what an old one occupies.
    pub(super) fn take_changes(&mut self) -> Vec<SourceEvent> {
        let mut deleted = Vec::new();
        let mut applied = Vec::new();
        for (key, before) in std::mem::take(&mut self.before) {
            match self.winner(&key) {
                Some(now) if before.as_ref() != Some(now) => applied.push(now.clone()),
                None if before.is_some() => deleted.push(SourceEvent::deleted(key.0, key.1)),
                _ => {}
            }
        }
        deleted.append(&mut applied);
        deleted
    }

    fn winner(&self, key: &Key) -> Option<&SourceEvent> {
        self.claims.get(key)?.first().map(|(_, event)| event)
    }

    fn note_before(&mut self, key: &Key) {
        if !self.before.contains_key(key) {
            self.before.insert(key.clone(), self.winner(key).cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;

    fn file(name: &str) -> Arc<OsStr> {
        OsStr::new(name).into()
    }

    fn node(zone: &str) -> (Key, SourceEvent) {
        let name = ObjectName { namespace: "".into(), name: "n1".into() };
        let node = Node { name: "n1".into(), zone: Some(zone.into()), ..Node::default() };
        ((Kind::Node, name), SourceEvent::NodeApplied(Arc::new(node)))
    }

    #[test]
    fn the_first_file_wins_whoever_comes_first() {
        let mut claims = Claims::default();
        let (key, of_b) = node("b");
        assert_eq!(claims.replace(&file("b"), &[], vec![node("b")]), []);
        assert_eq!(claims.take_changes(), std::slice::from_ref(&of_b));

        let (_, of_a) = node("a");
        let duplicate = |loser: &str| Duplicate { key: key.clone(), winner: file("a"), loser: file(loser) };
        assert_eq!(claims.replace(&file("a"), &[], vec![node("a")]), [duplicate("b")]);
        assert_eq!(claims.take_changes(), [of_a]);
        assert_eq!(claims.replace(&file("c"), &[], vec![node("c")]), [duplicate("c")]);
        assert_eq!(claims.take_changes(), []);

        claims.replace(&file("a"), std::slice::from_ref(&key), vec![]);
        assert_eq!(claims.take_changes(), [of_b]);
    }

    #[test]
    fn an_object_that_moves_to_another_file_is_never_gone() {
        let mut claims = Claims::default();
        let (key, _) = node("a");
        claims.replace(&file("b"), &[], vec![node("a")]);
        claims.take_changes();
        claims.replace(&file("b"), std::slice::from_ref(&key), vec![]);
        claims.replace(&file("a"), &[], vec![node("a")]);
        assert_eq!(claims.take_changes(), []);
        claims.replace(&file("a"), std::slice::from_ref(&key), vec![]);
        assert_eq!(claims.take_changes(), [SourceEvent::NodeDeleted]);
    }
}
