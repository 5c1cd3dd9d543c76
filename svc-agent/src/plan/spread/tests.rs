use super::*;
use proptest::prelude::*;

fn weights(weights: &[u16]) -> Vec<Weight> {
    weights.iter().map(|weight| Weight::new(*weight).unwrap()).collect()
}

fn address(number: u32) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 8080)
}

/// The addresses in the slots of a service with these endpoints.
fn table(numbers: &[u32], each: &[Weight]) -> Vec<SocketAddr> {
    let counts = slot_counts(LoadBalancing::Maglev, each);
    let endpoints: Vec<_> = numbers.iter().map(|number| address(*number)).zip(counts).collect();
    slot_order(LoadBalancing::Maglev, &endpoints).iter().map(|position| endpoints[*position as usize].0).collect()
}

fn equal(numbers: &[u32]) -> Vec<SocketAddr> {
    table(numbers, &vec![Weight::default(); numbers.len()])
}

/// Slots that lead elsewhere although both tables have the endpoint they led to, and those that had to change.
fn moved(before: &[SocketAddr], after: &[SocketAddr]) -> (usize, usize) {
    assert_eq!(before.len(), after.len());
    let changed = || before.iter().zip(after).filter(|(before, after)| before != after);
    let forced = changed().filter(|(gone, new)| !after.contains(gone) || !before.contains(new)).count();
    (changed().count() - forced, forced)
}

#[test]
fn equal_endpoints_get_one_slot_each() {
    assert_eq!(slot_counts(LoadBalancing::Random, &weights(&[1, 1, 1])), [1, 1, 1]);
    assert_eq!(slot_counts(LoadBalancing::Random, &weights(&[7, 7])), [1, 1]);
    assert!(slot_counts(LoadBalancing::Random, &[]).is_empty());
    let endpoints = [(address(1), 1), (address(2), 1)];
    assert_eq!(slot_order(LoadBalancing::Random, &endpoints), [0, 1]);
}

#[test]
fn weights_repeat_slots_in_lowest_terms() {
    assert_eq!(slot_counts(LoadBalancing::Random, &weights(&[30, 10, 20])), [3, 1, 2]);
    assert_eq!(slot_order(LoadBalancing::Random, &[(address(1), 2), (address(2), 1)]), [0, 0, 1]);
}

#[test]
fn weighted_lists_have_a_bound_and_leave_nobody_out() {
    let mut uneven = vec![Weight::new(1000).unwrap(); 100];
    uneven.extend(weights(&[1, 999]));
    let counts = slot_counts(LoadBalancing::Random, &uneven);
    assert!(counts.iter().sum::<u32>() <= 4_096 + 102, "{}", counts.iter().sum::<u32>());
    assert_eq!((counts[100], counts[0], counts[101]), (1, 40, 40));
}

#[test]
fn tables_are_prime_and_grow_with_the_service() {
    let size = |endpoints| table_size(endpoints);
    assert_eq!([0, 1, 2, 3, 10, 11, 40, 163, 655].map(size), [0, 1, 1021, 1021, 1021, 4093, 4093, 16_381, 65_521]);
    assert_eq!((size(5_000), size(100_000)), (65_521, 100_000));
    for size in TABLE_SIZES {
        assert!((2..size).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0), "{size}");
    }
}

#[test]
fn a_table_depends_on_nothing_but_its_endpoints() {
    let forward = equal(&[1, 2, 3, 4, 5]);
    let mut endpoints: Vec<_> = [5, 3, 1, 4, 2].map(address).into();
    let counts: Vec<u32> =
        endpoints.iter().map(|address| forward.iter().filter(|other| *other == address).count() as u32).collect();
    let shuffled: Vec<_> = endpoints.iter().copied().zip(counts).collect();
    let order = slot_order(LoadBalancing::Maglev, &shuffled);
    let shuffled: Vec<_> = order.iter().map(|position| shuffled[*position as usize].0).collect();
    assert_eq!(forward, shuffled);
    // The same on all machines and in all versions: nodes must agree.
    endpoints.sort();
    let digits: Vec<_> = forward[..16].iter().map(|address| endpoints.binary_search(address).unwrap() + 1).collect();
    assert_eq!(digits, [4, 5, 4, 1, 3, 2, 3, 1, 3, 5, 3, 2, 3, 1, 3, 1]);
}

/// Nearly only the clients of the endpoint that goes move, or as many as the new one must get.
#[test]
fn few_clients_move_when_an_endpoint_comes_or_goes() {
    for count in [3, 5, 10, 39, 150] {
        let all: Vec<u32> = (1..=count).collect();
        let size = table_size(all.len());
        let before = equal(&all);
        for gone in [0, all.len() / 2, all.len() - 1] {
            let mut rest = all.clone();
            rest.remove(gone);
            if table_size(rest.len()) != size {
                continue;
            }
            for (from, to) in [(&before, &equal(&rest)), (&equal(&rest), &before)] {
                let (needlessly, forced) = moved(from, to);
                println!("{count} {gone}: {forced} of {size} forced, {needlessly} more");
                assert!(forced as u32 <= size / count + 1, "{count} endpoints: {forced} slots");
                assert!((needlessly as f64) < 0.05 * f64::from(size), "{count} endpoints: {needlessly} of {size}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn shares_follow_weights(each in prop::collection::vec(1u16..=20, 2..60)) {
        let each = weights(&each);
        let counts = slot_counts(LoadBalancing::Maglev, &each);
        let size: u32 = counts.iter().sum();
        prop_assert_eq!(size, table_size(each.len()));
        let sum: f64 = each.iter().map(|weight| f64::from(weight.get())).sum();
        for (weight, count) in each.iter().zip(&counts) {
            let share = f64::from(size) * f64::from(weight.get()) / sum;
            // One slot for rounding, and what it costs that nobody goes without.
            prop_assert!((f64::from(*count) - share).abs() <= 2.0 + 0.01 * share, "{} {}", count, share);
        }
        let numbers: Vec<u32> = (0..each.len() as u32).collect();
        let table = table(&numbers, &each);
        for (number, count) in numbers.iter().zip(&counts) {
            prop_assert_eq!(table.iter().filter(|slot| **slot == address(*number)).count() as u32, *count);
        }
    }

    #[test]
    fn equal_endpoints_differ_by_one_slot(count in 2usize..700) {
        let counts = slot_counts(LoadBalancing::Maglev, &vec![Weight::default(); count]);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(most - least <= 1 && f64::from(most - least) <= 0.011 * f64::from(*least));
    }
}
