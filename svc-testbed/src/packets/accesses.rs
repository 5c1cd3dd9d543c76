//! Counts what a packet costs in accesses to maps: the part of its price that no clock is needed for.

use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Clone, Default)]
pub struct Accesses(RefCell<BTreeMap<&'static str, u32>>);

impl Accesses {
    pub fn note(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }

    /// As in `filter=2 flow=1`; and begins anew.
    pub fn take(&self) -> String {
        let counts = self.0.take();
        let words: Vec<String> = counts.iter().map(|(what, count)| format!("{what}={count}")).collect();
        words.join(" ")
    }
}
