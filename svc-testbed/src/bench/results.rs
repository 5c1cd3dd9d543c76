//! What measurements leave behind: series of samples with enough words around them to be printed, plotted and compared.
//! Plain data. Neighbours: every measurement adds series, `report` renders them.

use serde::{Deserialize, Serialize};

use super::{machine::Machine, statistics::Summary};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    /// The command line's options, as one would type them.
    pub options: String,
    /// Seconds since 1970.
    pub began: u64,
    pub seconds: f64,
    pub sections: Vec<Section>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    /// As in the filter on the command line.
    pub name: String,
    pub title: String,
    /// How it was measured, and what to keep in mind.
    pub notes: Vec<String>,
    pub series: Vec<Series>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

/// Samples of one quantity of one subject, one for each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Where and at what size: series of one group and metric are comparable.
    pub group: String,
    /// What was measured: a path, a program's case, a number of services.
    pub subject: String,
    pub metric: String,
    pub unit: String,
    pub better: Better,
    /// Position on a numeric axis, where the subjects are sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    pub samples: Vec<f64>,
    /// Samples as multiples of the direct path's sample of the same round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ratios: Vec<f64>,
    /// What the project asks of the ratio's median or, without ratios, of the samples' median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bar: Option<f64>,
}

impl Section {
    pub fn new(name: &str, title: &str) -> Self {
        Self { name: name.to_owned(), title: title.to_owned(), notes: Vec::new(), series: Vec::new() }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Groups with their metrics, in the order they first appear.
    pub fn groups(&self) -> Vec<(&str, &str)> {
        let mut groups: Vec<(&str, &str)> = Vec::new();
        for series in &self.series {
            let group = (series.group.as_str(), series.metric.as_str());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    pub fn of<'a>(&'a self, group: &'a str, metric: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.group == group && series.metric == metric)
    }
}

impl Series {
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.samples)
    }

    pub fn ratio(&self) -> Option<Summary> {
        Summary::of(&self.ratios)
    }

    /// Whether the bar is met; `None` where there is none, or nothing to compare with it.
    pub fn meets_bar(&self) -> Option<bool> {
        let bar = self.bar?;
        let value = self.ratio().or(self.summary())?.median;
        Some(match self.better {
            Better::Higher => value >= bar,
            Better::Lower => value <= bar,
        })
    }
}
