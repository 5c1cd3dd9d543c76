//! The corpus as read from its folder: scenarios, the outcomes expected of their probes, and the nodes before each scenario.
//! Unknown fields are errors: a probe that is understood by half would be judged wrongly. The format is conformance/README.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Fields of an outcome, as in expected.json.
pub type Fields = Map<String, Value>;

#[derive(Debug)]
pub struct Corpus {
    pub nodes: Vec<Value>,
    pub scenarios: Vec<Scenario>,
    /// Scenarios that cannot be understood, and why
    pub broken: Vec<(String, anyhow::Error)>,
}

#[derive(Debug)]
pub struct Scenario {
    pub name: String,
    pub features: Vec<String>,
    pub steps: Vec<(Step, BTreeMap<String, Expected>)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: String,
    #[serde(rename = "shows")]
    _shows: String,
    features: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub note: String,
    pub dataplane: Option<Program>,
    #[serde(default)]
    pub delete: Vec<Identity>,
    #[serde(default)]
    pub apply: Vec<Value>,
    /// Seconds beyond the time to follow
    #[serde(default)]
    pub wait: f64,
    #[serde(default)]
    pub probes: Vec<Probe>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    Stop,
    Start,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub kind: String,
    /// Not used for Nodes
    #[serde(default = "default_namespace")]
    pub namespace: String,
    pub name: String,
}

impl Identity {
    pub fn of(object: &Value) -> Self {
        let field = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
        Self {
            kind: field("/kind"),
            namespace: namespace.unwrap_or_else(default_namespace),
            name: field("/metadata/name"),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub id: String,
    pub from: String,
    pub proto: Proto,
    pub to: IpAddr,
    #[serde(default)]
    pub port: u16,
    #[serde(default = "one")]
    pub count: u32,
    pub hold: Option<String>,
    #[serde(rename = "use")]
    pub held: Option<String>,
    pub among: Option<Vec<String>>,
    pub same_as: Option<String>,
    #[serde(default)]
    pub level: Level,
    #[serde(default)]
    pub any_failure: bool,
    #[serde(default)]
    pub opts: Opts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Must,
    May,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Opts {
    pub timeout: Option<f64>,
    pub sticky: bool,
    pub even: bool,
    pub serial: bool,
    pub interval: Option<f64>,
    pub source_port: Option<u16>,
    pub body: Option<usize>,
    pub payload: Option<usize>,
    pub reply: Option<usize>,
    pub packets: Option<u32>,
    pub burst: Option<u32>,
    pub unconnected: bool,
    pub df: bool,
    pub pmtu: bool,
    pub hold_failed: bool,
    pub http: Option<String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedFile {
    scenario: String,
    #[serde(rename = "recorded_from")]
    _recorded_from: String,
    steps: Vec<BTreeMap<String, Expected>>,
}

/// One outcome, or one for each mode of the reference where these differ: any of them is right.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Fields")]
pub struct Expected {
    pub variants: Vec<Fields>,
}

impl From<Fields> for Expected {
    fn from(mut fields: Fields) -> Self {
        let variants = match fields.remove("variants") {
            Some(Value::Object(modes)) => modes
                .into_iter()
                .filter_map(|(_, outcome)| match outcome {
                    Value::Object(fields) => Some(fields),
                    _ => None,
                })
                .collect(),
            _ => vec![fields],
        };
        Self { variants }
    }
}

impl Corpus {
    /// Reads the folder. With `only`, the scenarios of these names.
    pub fn read(folder: &Path, only: &[String]) -> Result<Self> {
        let nodes: Vec<Value> = serde_saphyr::from_multiple(&read(&folder.join("nodes.yaml"))?)
            .with_context(|| format!("cannot read nodes.yaml in {}", folder.display()))?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.join("scenario.yaml").is_file() {
                names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        if let Some(unknown) = only.iter().find(|name| !names.contains(*name)) {
            bail!("there is no scenario {unknown} in {}", folder.display());
        }
        names.retain(|name| only.is_empty() || only.contains(name));
        let mut corpus = Self { nodes, scenarios: Vec::new(), broken: Vec::new() };
        for name in names {
            match Scenario::read(&folder.join(&name)) {
                Ok(scenario) => corpus.scenarios.push(scenario),
                Err(error) => corpus.broken.push((name, error)),
            }
        }
        Ok(corpus)
    }
}

impl Scenario {
    fn read(folder: &Path) -> Result<Self> {
        let file: ScenarioFile = parse(&read(&folder.join("scenario.yaml"))?).context("cannot read scenario.yaml")?;
        let expected: ExpectedFile =
            serde_json::from_str(&read(&folder.join("expected.json"))?).context("cannot read expected.json")?;
        ensure!(file.name == expected.scenario, "expected.json is about {}", expected.scenario);
        ensure!(file.steps.len() == expected.steps.len(), "expected.json has another number of steps");
        for (step, outcomes) in file.steps.iter().zip(&expected.steps) {
            let ids: BTreeSet<&String> = step.probes.iter().map(|probe| &probe.id).collect();
            ensure!(ids.len() == step.probes.len(), "two probes of step '{}' have one id", step.note);
            if let Some(id) = outcomes.keys().find(|id| !ids.contains(id)) {
                bail!("expected.json knows a probe {id} that step '{}' does not have", step.note);
            }
        }
        Ok(Self {
            name: file.name,
            features: file.features,
            steps: file.steps.into_iter().zip(expected.steps).collect(),
        })
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    Ok(serde_saphyr::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifests;

    #[test]
    fn the_whole_corpus_is_understood() {
        let corpus = Corpus::read(Path::new(super::super::DEFAULT_FOLDER), &[]).unwrap();
        assert!(corpus.broken.is_empty(), "{:?}", corpus.broken);
        let probes = || corpus.scenarios.iter().flat_map(|scenario| &scenario.steps).flat_map(|(step, _)| &step.probes);
        assert_eq!((corpus.nodes.len(), corpus.scenarios.len(), probes().count()), (2, 60, 661));
        assert!(probes().any(|probe| probe.opts.interval == Some(3.6) && probe.opts.sticky && !probe.opts.serial));
        assert!(probes().any(|probe| probe.held.is_some() && probe.opts.packets == Some(2)));
        let outcomes = corpus.scenarios.iter().flat_map(|scenario| &scenario.steps).flat_map(|(_, outcomes)| outcomes);
        for (id, expected) in outcomes {
            assert!(expected.variants.iter().all(|fields| fields.contains_key("result")), "{id}: {expected:?}");
        }
    }

    #[test]
    fn a_scenario_that_is_not_understood_does_not_hide_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let folder = |name: &str| directory.path().join(name);
        fs::copy(Path::new(super::super::DEFAULT_FOLDER).join("nodes.yaml"), folder("nodes.yaml")).unwrap();
        for (name, extra) in [("good", ""), ("strange", ", surprise: 1")] {
            fs::create_dir(folder(name)).unwrap();
            let probe = format!("{{id: p, from: n1p1, proto: tcp, to: 10.96.0.9, port: 80{extra}}}");
            let scenario = format!("name: {name}\nshows: x\nfeatures: []\nsteps: [{{note: y, probes: [{probe}]}}]\n");
            fs::write(folder(name).join("scenario.yaml"), scenario).unwrap();
            let expected = serde_json::json!({"scenario": name, "recorded_from": "x", "steps": [{}]});
            fs::write(folder(name).join("expected.json"), expected.to_string()).unwrap();
        }
        let corpus = Corpus::read(directory.path(), &[]).unwrap();
        assert_eq!(corpus.scenarios.iter().map(|scenario| scenario.name.as_str()).collect::<Vec<_>>(), ["good"]);
        let [(name, error)] = corpus.broken.as_slice() else { panic!("{:?}", corpus.broken) };
        assert!(name == "strange" && format!("{error:#}").contains("surprise"), "{error:#}");
    }

    #[test]
    fn objects_reach_the_agent_as_they_stand_in_the_corpus() {
        let corpus = Corpus::read(Path::new(super::super::DEFAULT_FOLDER), &[]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let manifests = Manifests::in_directory(directory.path()).unwrap();
        let applied = corpus.scenarios.iter().flat_map(|scenario| &scenario.steps).flat_map(|(step, _)| &step.apply);
        for object in corpus.nodes.iter().chain(applied) {
            manifests.apply(object).unwrap();
            let written = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
            let back: Value = parse(&read(&written).unwrap()).unwrap();
            assert_eq!(&back, object);
            fs::remove_file(written).unwrap();
        }
    }
}
