//! What is said about a handful of samples: median, extremes, percentiles, ratios of the same round. Pure.

use serde::{Deserialize, Serialize};

/// What a few rounds of one measurement say together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self { median: middle(&sorted)?, min: *sorted.first()?, max: *sorted.last()? })
    }
}

pub fn median(samples: &[f64]) -> Option<f64> {
    middle(&sorted(samples))
}

/// The value below which `share` of the samples lie (nearest rank).
pub fn percentile(samples: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Each sample as a multiple of the baseline's sample of the same round; rounds that miss either are left out.
pub fn paired_ratios(samples: &[Option<f64>], baseline: &[Option<f64>]) -> Vec<f64> {
    let pairs = samples.iter().zip(baseline);
    pairs.filter_map(|(sample, base)| Some((*sample)? / (*base).filter(|base| *base > 0.0)?)).collect()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[half - 1] + upper) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_odd_and_even_numbers() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(median(&[f64::NAN, 5.0]), Some(5.0));
    }

    #[test]
    fn percentile_is_a_sample() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), Some(50.0));
        assert_eq!(percentile(&samples, 0.99), Some(99.0));
        assert_eq!(percentile(&samples, 1.0), Some(100.0));
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn ratios_pair_rounds() {
        let samples = [Some(2.0), None, Some(9.0), Some(4.0)];
        let baseline = [Some(1.0), Some(1.0), None, Some(8.0)];
        assert_eq!(paired_ratios(&samples, &baseline), [2.0, 0.5]);
        assert_eq!(paired_ratios(&[Some(1.0)], &[Some(0.0)]), [0.0; 0]);
    }
}
