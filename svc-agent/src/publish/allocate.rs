//! Who may use which array element: single indexes and contiguous ranges, with a time of rest before reuse, because a
//! program may still be reading what was taken away. Knows nothing of what the elements hold.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// How long an index or range rests before it is used again. A program runs for microseconds; what it has read from
/// the publication word on must stay what it was until it has finished.
pub const GRACE: Duration = Duration::from_secs(1);

/// Which free index is taken first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// Keeps the used part of a map small.
    Lowest,
    /// Never used ones, then the one that rested longest: whatever still refers to an index meets its next user late.
    Oldest,
}

/// Single indexes.
#[derive(Debug)]
pub struct IndexPool {
    capacity: u32,
    reuse: Reuse,
    /// From here on no index was ever used.
    unused_from: u32,
    /// Ordered by age (`Oldest`) or index.
    free: BinaryHeap<Reverse<(u64, u32)>>,
    freed: u64,
    resting: VecDeque<(Instant, u32)>,
}

impl IndexPool {
    pub fn new(capacity: u32, reuse: Reuse) -> Self {
        Self { capacity, reuse, unused_from: 0, free: BinaryHeap::new(), freed: 0, resting: VecDeque::new() }
    }

    /// All indexes below `unused_from` but those `in_use` rest from `now` on.
    pub fn adopt(capacity: u32, reuse: Reuse, unused_from: u32, in_use: impl Fn(u32) -> bool, now: Instant) -> Self {
        let resting = (0..unused_from).filter(|index| !in_use(*index)).map(|index| (now, index)).collect();
        Self { unused_from, resting, ..Self::new(capacity, reuse) }
    }

    pub fn take(&mut self) -> Option<u32> {
        let fresh_first = self.reuse == Reuse::Oldest && self.unused_from < self.capacity;
        if let Some(Reverse((_, index))) = (!fresh_first).then(|| self.free.pop()).flatten() {
            return Some(index);
        }
        (self.unused_from < self.capacity).then(|| {
            self.unused_from += 1;
            self.unused_from - 1
        })
    }

    /// Gives an index back that no reader can know of.
    pub fn put_back(&mut self, index: u32) {
        self.freed += 1;
        let order = if self.reuse == Reuse::Oldest { self.freed } else { 0 };
        self.free.push(Reverse((order, index)));
    }

    /// Gives an index back that readers may still know of.
    pub fn rest(&mut self, index: u32, now: Instant) {
        self.resting.push_back((now, index));
    }

    /// Takes an index out of its rest, for the use it had before; false if it does not rest.
    pub fn wake(&mut self, index: u32) -> bool {
        // Who comes back has mostly left last.
        let position = self.resting.iter().rposition(|(_, resting)| *resting == index);
        position.and_then(|position| self.resting.remove(position)).is_some()
    }

    /// Takes the next index that has rested long enough out of the pool; the caller puts it back.
    pub fn next_rested(&mut self, now: Instant) -> Option<u32> {
        let (since, index) = *self.resting.front()?;
        (now.saturating_duration_since(since) >= GRACE).then(|| {
            self.resting.pop_front();
            index
        })
    }

    pub fn reclaim(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(index) = self.next_rested(now) {
            self.put_back(index);
            any = true;
        }
        any
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.resting.front().map(|(since, _)| *since + GRACE)
    }

    /// Indexes that are neither free nor resting.
    pub fn in_use(&self) -> u32 {
        self.unused_from - self.free.len() as u32 - self.resting.len() as u32
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }
}

/// A contiguous run of elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

impl Range {
    fn end(self) -> u32 {
        self.first + self.count
    }
}

/// Contiguous ranges: the smallest free one that fits, neighbours are joined when they come back.
#[derive(Debug)]
pub struct RangePool {
    capacity: u32,
    by_start: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    resting: VecDeque<(Instant, Range)>,
    free: u32,
    at_rest: u32,
}

impl RangePool {
    pub fn new(capacity: u32) -> Self {
        let mut pool = Self {
            capacity,
            by_start: BTreeMap::new(),
            by_size: BTreeSet::new(),
            resting: VecDeque::new(),
            free: 0,
            at_rest: 0,
        };
        pool.put_back(Range { first: 0, count: capacity });
        pool
    }

    /// `used` is sorted and disjoint. What lies between rests from `now` on, as far as it was ever used.
    pub fn adopt(capacity: u32, unused_from: u32, used: &[Range], now: Instant) -> Self {
        let mut pool = Self::new(0);
        pool.capacity = capacity;
        let mut position = 0;
        for range in used {
            if range.first > position {
                pool.rest(Range { first: position, count: range.first - position }, now);
            }
            position = range.end();
        }
        if unused_from > position {
            pool.rest(Range { first: position, count: unused_from - position }, now);
            position = unused_from;
        }
        pool.put_back(Range { first: position, count: capacity - position });
        pool
    }

    pub fn take(&mut self, count: u32) -> Option<Range> {
        let (size, first) = *self.by_size.range((count, 0)..).next()?;
        self.remove_free(Range { first, count: size });
        self.put_back(Range { first: first + count, count: size - count });
        Some(Range { first, count })
    }

    /// Gives a range back that no reader can know of.
    pub fn put_back(&mut self, range: Range) {
        let mut joined = range;
        if range.count == 0 {
            return;
        }
        if let Some((&first, &count)) = self.by_start.range(..range.first).next_back()
            && first + count == range.first
        {
            self.remove_free(Range { first, count });
            joined = Range { first, count: count + joined.count };
        }
        if let Some(&count) = self.by_start.get(&range.end()) {
            self.remove_free(Range { first: range.end(), count });
            joined.count += count;
        }
        self.by_start.insert(joined.first, joined.count);
        self.by_size.insert((joined.count, joined.first));
        self.free += joined.count;
    }

    /// Gives a range back that readers may still know of.
    pub fn rest(&mut self, range: Range, now: Instant) {
        if range.count > 0 {
            self.at_rest += range.count;
            self.resting.push_back((now, range));
        }
    }

    pub fn reclaim(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((since, range)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= GRACE
        {
            self.resting.pop_front();
            self.at_rest -= range.count;
            self.put_back(range);
            any = true;
        }
        any
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.resting.front().map(|(since, _)| *since + GRACE)
    }

    pub fn in_use(&self) -> u32 {
        self.capacity - self.free - self.at_rest
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn remove_free(&mut self, range: Range) {
        self.by_start.remove(&range.first);
        self.by_size.remove(&(range.count, range.first));
        self.free -= range.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_rests_before_it_is_used_again() {
        let start = Instant::now();
        let mut pool = IndexPool::new(2, Reuse::Lowest);
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(0), Some(1), None));
        pool.rest(0, start);
        assert!(!pool.reclaim(start + GRACE - Duration::from_millis(1)));
        assert_eq!(pool.take(), None);
        assert!(pool.reclaim(start + GRACE));
        assert_eq!(pool.take(), Some(0));
        assert_eq!(pool.in_use(), 2);
    }

    #[test]
    fn the_oldest_index_comes_last_and_lowest_comes_first() {
        let mut oldest = IndexPool::new(3, Reuse::Oldest);
        let mut lowest = IndexPool::new(3, Reuse::Lowest);
        for pool in [&mut oldest, &mut lowest] {
            assert_eq!((pool.take(), pool.take()), (Some(0), Some(1)));
            pool.put_back(1);
            pool.put_back(0);
        }
        assert_eq!((oldest.take(), oldest.take(), oldest.take()), (Some(2), Some(1), Some(0)));
        assert_eq!((lowest.take(), lowest.take(), lowest.take()), (Some(0), Some(1), Some(2)));
    }

    #[test]
    fn adoption_leaves_used_ranges_alone_and_rests_the_holes() {
        let now = Instant::now();
        let used = [Range { first: 2, count: 3 }, Range { first: 8, count: 1 }];
        let mut pool = RangePool::adopt(20, 12, &used, now);
        assert_eq!(pool.in_use(), 4);
        assert_eq!(pool.take(2), Some(Range { first: 12, count: 2 }));
        assert!(pool.reclaim(now + GRACE));
        assert_eq!(pool.take(2), Some(Range { first: 0, count: 2 }));
        assert_eq!(pool.take(3), Some(Range { first: 5, count: 3 }));
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_join_again(steps in prop::collection::vec((any::<bool>(), 1u32..40), 1..200)) {
            let mut pool = RangePool::new(500);
            let mut taken: Vec<Range> = Vec::new();
            for (take, number) in steps {
                if take {
                    let free_before = 500 - pool.in_use();
                    match pool.take(number) {
                        Some(range) => {
                            prop_assert_eq!(range.count, number);
                            prop_assert!(range.end() <= 500);
                            let overlaps = |other: &Range| other.first < range.end() && range.first < other.end();
                            prop_assert!(!taken.iter().any(overlaps));
                            taken.push(range);
                        }
                        None => prop_assert!(free_before < number || !taken.is_empty()),
                    }
                } else if !taken.is_empty() {
                    let range = taken.swap_remove(number as usize % taken.len());
                    pool.put_back(range);
                }
                prop_assert_eq!(pool.in_use(), taken.iter().map(|range| range.count).sum::<u32>());
            }
            for range in taken.drain(..) {
                pool.put_back(range);
            }
            prop_assert_eq!(pool.take(500), Some(Range { first: 0, count: 500 }));
        }
    }
}
