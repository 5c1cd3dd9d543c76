//! How the endpoints of a service share its slots: by weights, and for Maglev in the order of a table that moves few
//! clients when endpoints come and go. Pure, and the same on every node: it depends on addresses, ports and weights only.
//! Neighbour: [`crate::publish`] asks for shares with each plan, and for the order when it writes slots.

use std::net::{IpAddr, SocketAddr};

use crate::model::{LoadBalancing, Weight};

/// Sizes of Maglev tables: primes, so that every step through a table visits all of it. They are far apart because
/// another size moves nearly every client: a service that grows crosses few of them.
const TABLE_SIZES: [u32; 4] = [1_021, 4_093, 16_381, 65_521];
/// Slots for each endpoint at least, as long as there is a table that large: shares differ by at most one slot, so by
/// one percent.
const TABLE_SLOTS_EACH: u32 = 100;
/// Weighted lists of random services are not longer than the larger of these; weights are rounded then.
const WEIGHTED_SLOTS: u64 = 4_096;
const WEIGHTED_SLOTS_EACH: u64 = 16;

/// Number of slots of each endpoint, none of them zero.
pub fn slot_counts(load_balancing: LoadBalancing, weights: &[Weight]) -> Vec<u32> {
    match load_balancing {
        LoadBalancing::Random => repeat(weights),
        LoadBalancing::Maglev => divide(weights, table_size(weights.len())),
    }
}

/// Which endpoint each slot leads to, by its position in `endpoints`: addresses with their slot counts.
pub fn slot_order(load_balancing: LoadBalancing, endpoints: &[(SocketAddr, u32)]) -> Vec<u32> {
    let counts = endpoints.iter().map(|(_, count)| *count);
    match load_balancing {
        LoadBalancing::Maglev if counts.clone().any(|count| count > 1) => fill_table(endpoints),
        _ => (0..).zip(counts).flat_map(|(position, count)| std::iter::repeat_n(position, count as usize)).collect(),
    }
}

/// Weights in their lowest terms: as many slots as it takes and no more.
fn repeat(weights: &[Weight]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|weight| u64::from(weight.get())).sum();
    let longest = WEIGHTED_SLOTS.max(weights.len() as u64 * WEIGHTED_SLOTS_EACH);
    let mut counts: Vec<u32> = weights.iter().map(|weight| u32::from(weight.get())).collect();
    reduce(&mut counts);
    if counts.iter().map(|count| u64::from(*count)).sum::<u64>() > longest {
        counts = weights.iter().map(|weight| (u64::from(weight.get()) * longest / sum).max(1) as u32).collect();
        reduce(&mut counts);
    }
    counts
}

fn reduce(counts: &mut [u32]) {
    let divisor = counts.iter().copied().fold(0, greatest_common_divisor).max(1);
    counts.iter_mut().for_each(|count| *count /= divisor);
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn table_size(endpoints: usize) -> u32 {
    let wanted = endpoints as u64 * u64::from(TABLE_SLOTS_EACH);
    match TABLE_SIZES.iter().find(|size| u64::from(**size) >= wanted) {
        // All slots would be alike.
        _ if endpoints <= 1 => endpoints as u32,
        Some(size) => *size,
        None => TABLE_SIZES[TABLE_SIZES.len() - 1].max(endpoints as u32),
    }
}

/// Shares of `slots` by weight, but at least one each; the first ones get what rounding leaves over.
fn divide(weights: &[Weight], slots: u32) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|weight| u64::from(weight.get())).sum();
    let spare = u64::from(slots).saturating_sub(weights.len() as u64);
    let share = |weight: &Weight| 1 + (spare * u64::from(weight.get()) / sum) as u32;
    let mut counts: Vec<u32> = weights.iter().map(share).collect();
    let left_over = slots.saturating_sub(counts.iter().sum());
    counts.iter_mut().take(left_over as usize).for_each(|count| *count += 1);
    counts
}

/// The turns of one endpoint in [`fill_table`].
struct Seeker {
    position: u32,
    hash: u64,
    next: u32,
    step: u32,
    slots: u32,
    taken: u32,
}

/// Maglev hashing (Eisenbud et al., NSDI 2016, §3.4): each endpoint goes through the table in an order of its own, and
/// in turns takes the next slot that is free. An endpoint with more slots has more turns, spread over all rounds.
fn fill_table(endpoints: &[(SocketAddr, u32)]) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let size: u32 = endpoints.iter().map(|(_, count)| count).sum();
    let rounds = endpoints.iter().map(|(_, count)| u64::from(*count)).max().unwrap_or(0);
    let seeker = |(position, &(address, slots)): (u32, &(SocketAddr, u32))| {
        let hash = hash_endpoint(address);
        let (next, step) = (hash as u32 % size, 1 + (hash >> 32) as u32 % (size - 1));
        Seeker { position, hash, next, step, slots, taken: 0 }
    };
    let mut seekers: Vec<Seeker> = (0..).zip(endpoints).map(seeker).collect();
    seekers.sort_by_key(|seeker| (seeker.hash, seeker.position));
    let mut table = vec![FREE; size as usize];
    for round in 1..=rounds {
        for seeker in &mut seekers {
            let due = (u64::from(seeker.slots) * round).div_ceil(rounds) as u32;
            while seeker.taken < due {
                let slot = &mut table[seeker.next as usize];
                if *slot == FREE {
                    *slot = seeker.position;
                    seeker.taken += 1;
                }
                seeker.next = ((u64::from(seeker.next) + u64::from(seeker.step)) % u64::from(size)) as u32;
            }
        }
    }
    table
}

/// FNV-1a over address and port, finished by SplitMix64. Part of what nodes must agree on: never change it.
fn hash_endpoint(endpoint: SocketAddr) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    match endpoint.ip() {
        IpAddr::V4(address) => add(&address.octets()),
        IpAddr::V6(address) => add(&address.octets()),
    }
    add(&endpoint.port().to_be_bytes());
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
