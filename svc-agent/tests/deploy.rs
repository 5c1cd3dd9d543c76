//! The files in deploy/ are objects the Kubernetes API knows, field by field, and ask for no more privilege than named.
//! Rendering them with kubectl and helm is the business of `cargo xtask lint`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use svc_agent::cli::args::RunArgs;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// YAML files below the base and the overlays.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![deploy().join("base"), deploy().join("overlays")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every field of the file survives a round trip through the typed object: none is misspelt or misplaced.
fn assert_known<T: DeserializeOwned + Serialize>(path: &Path, written: &Value) {
    let typed = serde_json::to_value(read::<T>(path)).unwrap();
    assert_contains(&typed, written, &path.display().to_string());
}

fn assert_contains(typed: &Value, written: &Value, place: &str) {
    match (typed, written) {
        (Value::Object(typed), Value::Object(written)) => {
            for (key, value) in written {
                let place = format!("{place}: {key}");
                let counterpart = typed.get(key).unwrap_or_else(|| panic!("{place} is no field of this object"));
                assert_contains(counterpart, value, &place);
            }
        }
        (Value::Array(typed), Value::Array(written)) => {
            assert_eq!(typed.len(), written.len(), "{place}");
            for (index, (typed, written)) in typed.iter().zip(written).enumerate() {
                assert_contains(typed, written, &format!("{place}[{index}]"));
            }
        }
        _ => assert_eq!(typed, written, "{place}"),
    }
}

#[test]
fn every_object_has_known_fields_only() {
    let mut objects = 0;
    for path in files() {
        let written: Value = read(&path);
        match written.get("kind").and_then(Value::as_str) {
            Some("DaemonSet") => assert_known::<DaemonSet>(&path, &written),
            Some("ConfigMap") => assert_known::<ConfigMap>(&path, &written),
            Some("ServiceAccount") => assert_known::<ServiceAccount>(&path, &written),
            Some("ClusterRole") => assert_known::<ClusterRole>(&path, &written),
            Some("ClusterRoleBinding") => assert_known::<ClusterRoleBinding>(&path, &written),
            Some("Kustomization") => continue,
            None if path.ends_with("config.yaml") => continue,
            kind => panic!("{}: no test knows kind {kind:?}", path.display()),
        }
        objects += 1;
    }
    assert!(objects >= 6, "only {objects} objects found");
}

#[test]
fn containers_are_not_privileged_and_name_each_capability() {
    for path in [deploy().join("base/daemonset.yaml"), deploy().join("overlays/cleanup/daemonset.yaml")] {
        let pod = read::<DaemonSet>(&path).spec.unwrap().template.spec.unwrap();
        for container in pod.containers.into_iter().chain(pod.init_containers.unwrap_or_default()) {
            let context = container.security_context.unwrap();
            assert_ne!(context.privileged, Some(true), "{}", container.name);
            assert_eq!(context.allow_privilege_escalation, Some(false), "{}", container.name);
            assert_eq!(context.read_only_root_filesystem, Some(true), "{}", container.name);
            let capabilities = context.capabilities.unwrap();
            assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]), "{}", container.name);
            for added in capabilities.add.unwrap_or_default() {
                assert!(["BPF", "NET_ADMIN", "PERFMON"].contains(&added.as_str()), "{}: {added}", container.name);
            }
        }
    }
}

#[test]
fn probes_ask_the_port_that_the_configuration_opens() {
    let base = deploy().join("base");
    let overlay = deploy().join("overlays/beside-kube-proxy");
    for (config, daemon_set) in [
        (base.join("config.yaml"), base.join("daemonset.yaml")),
        (overlay.join("config.yaml"), overlay.join("probes.yaml")),
    ] {
        let config: Value = read(&config);
        let port = config["healthz-bind-address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        let spec = serde_json::to_value(read::<DaemonSet>(&daemon_set)).unwrap();
        let container = &spec["spec"]["template"]["spec"]["containers"][0];
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"].to_string(), port, "{}: {probe}", daemon_set.display());
        }
    }
}

#[test]
fn the_agent_understands_its_configuration_files() {
    for path in [deploy().join("base/config.yaml"), deploy().join("overlays/beside-kube-proxy/config.yaml")] {
        let args = RunArgs { config: Some(path.clone()), node_name: Some("n1".to_owned()), ..RunArgs::default() };
        let config = args.resolve().unwrap_or_else(|error| panic!("{error}"));
        assert!(config.metrics_address.unwrap().ip().is_loopback(), "{}", path.display());
        assert!(config.healthz_address.unwrap().ip().is_unspecified(), "{}", path.display());
    }
}
