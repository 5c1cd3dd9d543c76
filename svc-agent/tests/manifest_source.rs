//! The manifest source against directories that change in every way people and tools change them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use svc_agent::index::Index;
use svc_agent::model::ObjectName;
use svc_agent::source::manifests::{self, ManifestsError, Options};
use svc_agent::source::{Kind, SourceEvent, SourceStats};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);

struct Follower {
    index: Index,
    stats: Arc<SourceStats>,
    events: mpsc::Receiver<SourceEvent>,
    task: JoinHandle<Result<(), ManifestsError>>,
    steady: Vec<&'static str>,
}

impl Follower {
    fn start(directory: &Path) -> Self {
        // Nothing may depend on the look every few seconds.
        Self::start_with(Options { look_again: PATIENCE * 10, ..Options::new(directory.to_owned(), "n1") })
    }

    fn start_with(options: Options) -> Self {
        let stats = Arc::new(SourceStats::default());
        let (sender, events) = mpsc::channel(16);
        let task = tokio::spawn(manifests::run(options, stats.clone(), sender));
        Self { index: Index::new("n1"), stats, events, task, steady: Vec::new() }
    }

    /// Service name → cluster IP.
    fn services(&self) -> BTreeMap<String, String> {
        let services = self.index.services();
        services.map(|service| (service.name.name.to_string(), service.cluster_ips[0].to_string())).collect()
    }

    /// Waits until exactly these services, `name=address`, are there.
    async fn expect(&mut self, expected: &[&str]) {
        let pair = |text: &&str| text.split_once('=').map(|(name, ip)| (name.to_owned(), ip.to_owned())).unwrap();
        let expected: BTreeMap<_, _> = expected.iter().map(pair).collect();
        let there = |follower: &Self| follower.index.is_synced() && follower.services() == expected;
        if !self.follow(there).await {
            assert_eq!(self.services(), expected);
            panic!("not synced");
        }
    }

    async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        assert!(self.follow(condition).await, "it did not happen; stats: {:#?}", self.stats);
    }

    async fn follow(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            let Ok(event) = tokio::time::timeout(Duration::from_millis(10), self.events.recv()).await else {
                continue;
            };
            let mut next = Some(event.expect("the source goes on"));
            while let Some(event) = next {
                self.index.apply(event);
                self.check_steady();
                next = self.events.try_recv().ok();
            }
        }
        true
    }

    fn check_steady(&self) {
        for name in &self.steady {
            assert!(self.services().contains_key(*name), "{name} is missing");
        }
    }
}

fn service(name: &str, cluster_ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {cluster_ip}\n  ports: [{{port: 80}}]\n"
    )
}

fn write(directory: &Path, file: &str, content: &str) {
    fs::write(directory.join(file), content).unwrap();
}

/// As editors and tools do it.
fn replace(directory: &Path, file: &str, content: &str) {
    let temporary = directory.join(format!(".{file}.tmp"));
    fs::write(&temporary, content).unwrap();
    fs::rename(temporary, directory.join(file)).unwrap();
}

async fn follow(files: &[(&str, &str)]) -> (TempDir, PathBuf, Follower) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("manifests");
    fs::create_dir(&directory).unwrap();
    files.iter().for_each(|(file, content)| write(&directory, file, content));
    let mut follower = Follower::start(&directory);
    follower.until(|follower| follower.index.is_synced()).await;
    (root, directory, follower)
}

#[tokio::test]
async fn reads_every_kind_from_the_start() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a-1, labels: {kubernetes.io/service-name: a}}\n\
                 addressType: IPv4\nports: [{name: '', port: 8080}]\nendpoints: [{addresses: [10.0.0.1], nodeName: n1}]\n";
    let nodes = "apiVersion: v1\nkind: List\nitems:\n\
                 - {apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: zone-a}}}\n\
                 - {apiVersion: v1, kind: Node, metadata: {name: n2, labels: {topology.kubernetes.io/zone: zone-b}}}\n";
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"},
                   "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}}"#;
    let both = format!("{}---\n{slice}", service("a", "10.96.0.1"));
    let (_root, _directory, mut follower) =
        follow(&[("a.yaml", &both), ("b.json", json), ("nodes.yml", nodes), ("notes.txt", "nothing: [")]).await;
    follower.expect(&["a=10.96.0.1", "b=10.96.0.2"]).await;
    let name = ObjectName { namespace: "default".into(), name: "a".into() };
    assert_eq!(follower.index.slices(&name).flat_map(|slice| &slice.endpoints).count(), 1);
    assert_eq!(follower.index.node().zone.as_deref(), Some("zone-a"));
    assert_eq!(follower.index.take_changes().services.len(), 2);
}

#[tokio::test]
async fn reads_objects_as_the_conformance_corpus_writes_them() {
    let (_root, _directory, mut follower) = follow(&[("services.yaml", include_str!("data/services.yaml"))]).await;
    follower.expect(&["hz=10.97.59.10", "ds=fd96::97:10", "ext=10.97.60.10"]).await;
    for kind in Kind::ALL {
        assert_eq!(follower.stats.kind(kind).unusable(), BTreeMap::new(), "{kind}");
    }
    let name = ObjectName { namespace: "other".into(), name: "ds".into() };
    let service = follower.index.service(&name).unwrap();
    assert_eq!((service.cluster_ips.len(), service.ports.len(), service.affinity_timeout_seconds), (2, 2, Some(3)));
    let slice = follower.index.slices(&name).next().unwrap();
    assert_eq!(slice.ports.len(), 1, "a port without number gives no endpoints");
    let endpoint = &slice.endpoints[0];
    assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (false, true, true));
}

#[tokio::test]
async fn follows_files_however_they_change() {
    let (_root, directory, mut follower) = follow(&[("steady.yaml", &service("steady", "10.96.0.1"))]).await;
    follower.steady.push("steady");
    write(&directory, "a.yaml", &service("a", "10.96.1.1"));
    follower.expect(&["steady=10.96.0.1", "a=10.96.1.1"]).await;
    write(&directory, "a.yaml", &service("a", "10.96.1.2"));
    follower.expect(&["steady=10.96.0.1", "a=10.96.1.2"]).await;
    replace(&directory, "a.yaml", &service("a", "10.96.1.3"));
    follower.expect(&["steady=10.96.0.1", "a=10.96.1.3"]).await;
    fs::OpenOptions::new()
        .append(true)
        .open(directory.join("a.yaml"))
        .unwrap()
        .write_all(format!("---\n{}", service("b", "10.96.1.4")).as_bytes())
        .unwrap();
    follower.expect(&["steady=10.96.0.1", "a=10.96.1.3", "b=10.96.1.4"]).await;
    fs::rename(directory.join("a.yaml"), directory.join("c.yaml")).unwrap();
    fs::write(directory.join("d.yaml"), service("d", "10.96.1.5")).unwrap();
    follower.expect(&["steady=10.96.0.1", "a=10.96.1.3", "b=10.96.1.4", "d=10.96.1.5"]).await;
    fs::rename(directory.join("c.yaml"), directory.join("c.yaml~")).unwrap();
    follower.expect(&["steady=10.96.0.1", "d=10.96.1.5"]).await;
    fs::remove_file(directory.join("d.yaml")).unwrap();
    follower.expect(&["steady=10.96.0.1"]).await;
    assert_eq!(follower.stats.kind(Kind::Service).lists(), 1);
}

#[tokio::test]
async fn many_changes_in_the_tick_of_a_clock_are_all_seen() {
    let (_root, directory, mut follower) = follow(&[]).await;
    for round in 0..40 {
        // Same size, often the same timestamp.
        let address = format!("10.96.1.{}", 100 + round);
        write(&directory, "a.yaml", &service("a", &address));
        follower.expect(&[&format!("a={address}")]).await;
    }
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    let both = format!("{}---\n{}", service("steady", "10.96.0.1"), service("b", "10.96.0.2"));
    let (_root, directory, mut follower) = follow(&[("a.yaml", &both)]).await;
    follower.steady.push("steady");
    for round in 0..10 {
        // Emptied, then written in two pieces, with time for others in between.
        let mut file = fs::File::create(directory.join("a.yaml")).unwrap();
        let address = format!("10.96.1.{round}");
        let content = format!("{}---\n{}", service("b", &address), service("steady", "10.96.0.1"));
        let (first, second) = content.split_at(content.find("---").unwrap());
        file.write_all(first.as_bytes()).unwrap();
        file.flush().unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        file.write_all(second.as_bytes()).unwrap();
        drop(file);
        follower.expect(&["steady=10.96.0.1", &format!("b={address}")]).await;
    }
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_said_before() {
    let (_root, directory, mut follower) =
        follow(&[("a.yaml", &service("a", "10.96.0.1")), ("b.yaml", &service("b", "10.96.0.2")), ("c.yaml", ": [")])
            .await;
    assert_eq!(follower.stats.broken_files(), 1);
    follower.steady.extend(["a", "b"]);
    write(&directory, "a.yaml", "kind: Service\n  oops: [\n");
    write(&directory, "b.yaml", &service("b", "10.96.0.3"));
    follower.expect(&["a=10.96.0.1", "b=10.96.0.3"]).await;
    follower.until(|follower| follower.stats.broken_files() == 2).await;
    write(&directory, "a.yaml", &service("a", "10.96.0.4"));
    fs::remove_file(directory.join("c.yaml")).unwrap();
    follower.expect(&["a=10.96.0.4", "b=10.96.0.3"]).await;
    follower.until(|follower| follower.stats.broken_files() == 0).await;
}

#[tokio::test]
async fn an_object_that_is_wrong_keeps_its_last_good_version() {
    let (_root, directory, mut follower) = follow(&[("a.yaml", &service("a", "10.96.0.1"))]).await;
    follower.steady.push("a");
    let content =
        format!("{}---\n{}---\n{}", service("a", "10.96.0.999"), service("b", "10.96.0.2"), service("c", "oops"));
    write(&directory, "a.yaml", &content);
    follower.expect(&["a=10.96.0.1", "b=10.96.0.2"]).await;
    let malformed =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.7, ports: [{port: http}]}\n";
    write(&directory, "a.yaml", malformed);
    follower.expect(&["a=10.96.0.1"]).await;
    let unusable = follower.stats.kind(Kind::Service).unusable();
    assert_eq!((unusable["address"], unusable["malformed"]), (2, 1));
}

#[tokio::test]
async fn an_object_in_two_files_is_that_of_the_first_file() {
    let (_root, directory, mut follower) = follow(&[("b.yaml", &service("x", "10.96.0.2"))]).await;
    follower.steady.push("x");
    write(&directory, "c.yaml", &format!("{}---\n{}", service("x", "10.96.0.3"), service("c", "10.96.0.4")));
    follower.expect(&["x=10.96.0.2", "c=10.96.0.4"]).await;
    write(&directory, "a.yaml", &service("x", "10.96.0.1"));
    follower.expect(&["x=10.96.0.1", "c=10.96.0.4"]).await;
    assert_eq!(follower.stats.kind(Kind::Service).unusable()["duplicate_object"], 2);
    fs::remove_file(directory.join("a.yaml")).unwrap();
    follower.expect(&["x=10.96.0.2", "c=10.96.0.4"]).await;
    fs::remove_file(directory.join("b.yaml")).unwrap();
    follower.expect(&["x=10.96.0.3", "c=10.96.0.4"]).await;
}

#[tokio::test]
async fn a_mounted_config_map_changes_all_at_once() {
    let root = tempfile::tempdir().unwrap();
    let version = |number: u32| {
        let directory = root.path().join(format!("..version-{number}"));
        fs::create_dir(&directory).unwrap();
        write(&directory, "a.yaml", &service("a", &format!("10.96.0.{number}")));
        write(&directory, "b.yaml", &service("b", &format!("10.96.1.{number}")));
        directory
    };
    symlink(version(1), root.path().join("..data")).unwrap();
    symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
    symlink("..data/b.yaml", root.path().join("b.yaml")).unwrap();
    let mut follower = Follower::start(root.path());
    follower.expect(&["a=10.96.0.1", "b=10.96.1.1"]).await;
    follower.steady.extend(["a", "b"]);
    for number in 2..6 {
        symlink(version(number), root.path().join("..data_tmp")).unwrap();
        fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
        fs::remove_dir_all(root.path().join(format!("..version-{}", number - 1))).unwrap();
        follower.expect(&[&format!("a=10.96.0.{number}"), &format!("b=10.96.1.{number}")]).await;
    }
}

#[tokio::test]
async fn a_directory_that_is_missing_says_nothing() {
    let (root, directory, mut follower) = follow(&[("a.yaml", &service("a", "10.96.0.1"))]).await;
    follower.steady.push("a");
    for round in 2..5 {
        fs::remove_dir_all(&directory).unwrap();
        follower.until(|follower| !follower.stats.kind(Kind::Service).connected()).await;
        // Filled before it appears, so that it is never seen empty.
        let new = root.path().join("new");
        fs::create_dir(&new).unwrap();
        write(&new, "a.yaml", &service("a", &format!("10.96.0.{round}")));
        fs::rename(&new, &directory).unwrap();
        follower.expect(&[&format!("a=10.96.0.{round}")]).await;
        // And what is there now is followed.
        write(&directory, "b.yaml", &service("b", "10.96.9.9"));
        follower.expect(&[&format!("a=10.96.0.{round}"), "b=10.96.9.9"]).await;
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_the_directory_may_change() {
    let root = tempfile::tempdir().unwrap();
    for (directory, address) in [("one", "10.96.0.1"), ("two", "10.96.0.2")] {
        fs::create_dir(root.path().join(directory)).unwrap();
        write(&root.path().join(directory), "a.yaml", &service("a", address));
    }
    let link = root.path().join("current");
    symlink("one", &link).unwrap();
    let mut follower = Follower::start(&link);
    follower.expect(&["a=10.96.0.1"]).await;
    follower.steady.push("a");
    symlink("two", root.path().join("next")).unwrap();
    fs::rename(root.path().join("next"), &link).unwrap();
    follower.expect(&["a=10.96.0.2"]).await;
    write(&root.path().join("two"), "a.yaml", &service("a", "10.96.0.3"));
    follower.expect(&["a=10.96.0.3"]).await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_found() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("manifests");
    let mut follower = Follower::start(&directory);
    follower.until(|follower| follower.stats.kind(Kind::Service).errors() > 0).await;
    assert!(!follower.index.is_synced(), "nothing is known, which is not the same as nothing");
    fs::create_dir(&directory).unwrap();
    write(&directory, "a.yaml", &service("a", "10.96.0.1"));
    follower.expect(&["a=10.96.0.1"]).await;
}

#[tokio::test]
async fn files_behind_links_to_elsewhere_are_looked_at_now_and_then() {
    let elsewhere = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    write(elsewhere.path(), "real.yaml", &service("a", "10.96.0.1"));
    symlink(elsewhere.path().join("real.yaml"), root.path().join("a.yaml")).unwrap();
    let look_again = Duration::from_millis(50);
    let mut follower = Follower::start_with(Options { look_again, ..Options::new(root.path().to_owned(), "n1") });
    follower.expect(&["a=10.96.0.1"]).await;
    write(elsewhere.path(), "real.yaml", &service("a", "10.96.0.2"));
    follower.expect(&["a=10.96.0.2"]).await;
}

#[tokio::test]
async fn ends_with_its_receiver() {
    let (_root, _directory, follower) = follow(&[]).await;
    let Follower { events, task, .. } = follower;
    drop(events);
    tokio::time::timeout(PATIENCE, task).await.expect("the source ends").unwrap().unwrap();
}
