//! What `svc-agent get` prints, byte by byte, and what it says when there is nothing to read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use clap::Parser;
use observe_support::kernel::BpfRoot;
use observe_support::{MemoryReader, cluster};
use svc_agent::cli::get::{GetArgs, show};
use svc_agent::observe::PinnedMaps;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    get: GetArgs,
}

fn get(reader: &MemoryReader, arguments: &str) -> String {
    let words = std::iter::once("get").chain(arguments.split_whitespace());
    let command = Command::try_parse_from(words).unwrap();
    let mut out = Vec::new();
    show(reader, &command.get, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(reader: &MemoryReader, arguments: &str) -> serde_json::Value {
    serde_json::from_str(&get(reader, &format!("{arguments} -o json"))).unwrap()
}

#[test]
fn services_for_people() {
    assert_eq!(
        get(&cluster(10_000), "services"),
        "\
SERVICE                        PROTOCOL   FRONTEND            VERDICT   BACKENDS   CONN-TC   CONN-SOCKET   PACKETS   BYTES   REJECTED
#11                            TCP        [fd00::51]:443      forward   1          0         0             0         0       0
default/nginx-service          TCP        10.110.110.219:80   forward   3          12        30            190       1.4Mi   0
default/nginx-service          TCP        [fd00::50]:80       reject    0          0         0             0         0       4
kube-system/kube-dns:dns       UDP        10.96.0.10:53       forward   1          0         0             0         0       0
kube-system/node-local:https   TCP        10.96.0.99:8443     drop      0          0         0             0         0       0
"
    );
}

#[test]
fn services_for_programs() {
    let services = json(&cluster(10_000), "services --service kube-system/kube-dns");
    assert_eq!(
        services,
        serde_json::json!([{
            "service": "kube-system/kube-dns:dns",
            "namespace": "kube-system",
            "name": "kube-dns",
            "port_name": "dns",
            "protocol": "UDP",
            "frontend": "10.96.0.10:53",
            "verdict": "forward",
            "backends": 1,
            "connections_tc": 0,
            "connections_socket": 0,
            "packets_to_backend": 0,
            "bytes_to_backend": 0,
            "packets_to_client": 0,
            "bytes_to_client": 0,
            "rejected": 0,
            "load_balancing": "random",
            "affinity_timeout_seconds": 10_800,
            "index": 7,
        }])
    );
}

#[test]
fn backends_for_people() {
    assert_eq!(
        get(&cluster(10_000), "backends"),
        "\
SERVICE                    PROTOCOL   BACKEND           LOCAL   STATE      SLOTS
#11                        TCP        [fd00::61]:8443   no      active     1
default/nginx-service      TCP        10.244.3.46:80    no      active     1
default/nginx-service      TCP        10.244.3.47:80    yes     active     1
default/nginx-service      TCP        10.244.3.48:80    no      active     1
default/nginx-service      TCP        10.244.3.49:80    no      draining   0
kube-system/kube-dns:dns   UDP        10.244.0.2:5353   no      active     2
"
    );
}

#[test]
fn backends_for_programs() {
    let backends = json(&cluster(10_000), "backends -n kube-system");
    assert_eq!(
        backends,
        serde_json::json!([{
            "service": "kube-system/kube-dns:dns",
            "namespace": "kube-system",
            "name": "kube-dns",
            "port_name": "dns",
            "protocol": "UDP",
            "backend": "10.244.0.2:5353",
            "local": false,
            "state": "active",
            "slots": 2,
            "index": 20,
            "generation": 1,
        }])
    );
}

#[test]
fn flows_are_one_line_for_each_connection() {
    assert_eq!(
        get(&cluster(10_000), "flows -o wide"),
        "\
SERVICE                    PROTOCOL   CLIENT              FRONTEND            BACKEND           STATE         IDLE    BACKEND-LIVES   DIRECTIONS
#11                        TCP        [fd00::70]:50001    [fd00::51]:443      [fd00::61]:8443   closed        1h6m    yes             to_client
default/nginx-service      TCP        10.244.3.9:50000    10.110.110.219:80   10.244.3.46:80    closing       3m20s   no              both
default/nginx-service      TCP        10.244.3.50:41000   10.110.110.219:80   10.244.3.47:80    established   2s      yes             both
kube-system/kube-dns:dns   UDP        10.244.3.50:40001   10.96.0.10:53       10.244.0.2:5353   new           0s      yes             to_backend
"
    );
}

#[test]
fn flows_for_programs() {
    let flows = json(&cluster(10_000), "flows --client 10.244.3.50 --service default/nginx-service");
    assert_eq!(
        flows,
        serde_json::json!([{
            "service": "default/nginx-service",
            "namespace": "default",
            "name": "nginx-service",
            "port_name": "",
            "protocol": "TCP",
            "client": "10.244.3.50:41000",
            "frontend": "10.110.110.219:80",
            "backend": "10.244.3.47:80",
            "state": "established",
            "idle_seconds": 2,
            "backend_lives": true,
            "directions": "both",
        }])
    );
}

#[test]
fn flow_filters_select_by_network_and_count() {
    let reader = cluster(10_000);
    let clients = |arguments: &str| -> Vec<String> {
        let flows = json(&reader, arguments);
        flows.as_array().unwrap().iter().map(|flow| flow["client"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(clients("flows --client 10.244.3.0/27"), ["10.244.3.9:50000"]);
    assert_eq!(clients("flows --client fd00::/64"), ["[fd00::70]:50001"]);
    assert_eq!(clients("flows --client 10.244.3.50"), ["10.244.3.50:41000", "10.244.3.50:40001"]);
    assert_eq!(clients("flows --limit 1"), ["[fd00::70]:50001"]);
    assert!(clients("flows --service default/other").is_empty());
    assert!(clients("flows --service default/nginx-service:http").is_empty());
}

#[test]
fn a_flow_of_a_time_before_the_clock_was_read_is_not_negative() {
    let mut reader = cluster(10_000);
    reader.now = 9_999;
    assert_eq!(json(&reader, "flows --service kube-system/kube-dns")[0]["idle_seconds"], 0);
}

#[test]
fn drops_name_every_reason() {
    let reader = cluster(10_000);
    let drops = json(&reader, "drops");
    assert_eq!(drops.as_array().unwrap().len(), svc_common::DropReason::ALL.len());
    assert_eq!(
        drops[0],
        serde_json::json!({
            "reason": "no_endpoint",
            "count": 4,
            "explanation": "Refused: the service has no endpoint.",
        })
    );
    let table = get(&reader, "drops");
    assert!(table.starts_with(
        "\
REASON                   COUNT   EXPLANATION
no_endpoint              4       Refused: the service has no endpoint.
"
    ));
}

#[test]
fn empty_lists_are_empty_for_programs_and_silent_for_people() {
    let reader = MemoryReader::default();
    assert_eq!(get(&reader, "services -o json"), "[]\n");
    assert_eq!(get(&reader, "services"), "");
}

#[test]
fn selectors_that_name_no_service_are_refused() {
    for arguments in ["services --service nginx", "services --service /x", "flows --client ten"] {
        let words = std::iter::once("get").chain(arguments.split_whitespace());
        assert!(Command::try_parse_from(words).is_err(), "{arguments}");
    }
}

fn refusal(root: &std::path::Path) -> String {
    PinnedMaps::open(root).err().expect("there are no maps").to_string()
}

#[test]
fn missing_maps_are_explained() {
    let plain = tempfile::tempdir().unwrap();
    assert!(refusal(plain.path()).contains("is not on a BPF file system"), "{}", refusal(plain.path()));

    let root = BpfRoot::mount();
    assert!(refusal(root.path()).contains("no agent ran with this bpf root"), "{}", refusal(root.path()));

    let current = BpfRoot::with_maps(&cluster(10_000));
    let version = current.maps().parent().unwrap().to_path_buf();
    std::fs::create_dir_all(current.path().join("svc-agent/v4000000/maps")).unwrap();
    for pin in std::fs::read_dir(current.maps()).unwrap() {
        let pin = pin.unwrap();
        std::fs::rename(pin.path(), current.path().join("svc-agent/v4000000/maps").join(pin.file_name())).unwrap();
    }
    assert!(version.join("maps").exists());
    assert!(refusal(current.path()).contains("have version 4000000"), "{}", refusal(current.path()));
}
