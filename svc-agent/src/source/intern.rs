//! Shares the few strings and hint sets that occur in many objects: namespaces, port names, node and zone names.
//! Must not be used for names that occur once; forgets what nobody else holds, so that churn never grows it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::Hints;

/// Below this size looking for forgotten entries is not worth the time.
const MIN_SWEEP: usize = 1024;

#[derive(Default, Debug)]
pub struct Interner {
    strings: Pool<str>,
    hints: Pool<Hints>,
}

impl Interner {
    pub fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.get(text, |text| Arc::from(text))
    }

    pub fn hints(&mut self, hints: Hints) -> Arc<Hints> {
        self.hints.get(&hints, |hints| Arc::new(hints.clone()))
    }

    /// Number of distinct values held.
    pub fn len(&self) -> usize {
        self.strings.values.len() + self.hints.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), sweep_at: MIN_SWEEP }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn get(&mut self, value: &T, share: impl FnOnce(&T) -> Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(value) {
            return known.clone();
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = MIN_SWEEP.max(self.values.len() * 2);
        }
        let shared = share(value);
        self.values.insert(shared.clone());
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_one_allocation() {
        let mut interner = Interner::default();
        let first = interner.string("zone-a");
        assert!(Arc::ptr_eq(&first, &interner.string("zone-a")));
        let hints = Hints { zones: vec![first], nodes: vec![] };
        let shared = interner.hints(hints.clone());
        assert!(Arc::ptr_eq(&shared, &interner.hints(hints)));
        assert_eq!(interner.len(), 2);
    }

    #[test]
    fn churn_does_not_grow_it() {
        let mut interner = Interner::default();
        let kept = interner.string("kept");
        for number in 0..10 * MIN_SWEEP {
            interner.string(&format!("node-{number}"));
        }
        assert!(interner.len() <= MIN_SWEEP + 1, "{} strings are still held", interner.len());
        assert!(Arc::ptr_eq(&kept, &interner.string("kept")));
    }
}
