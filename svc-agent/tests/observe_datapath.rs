//! The real programs, run by the kernel on made-up packets: what they leave in the maps is listed, and what they
//! announce is heard. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use observe_support::kernel::BpfRoot;
use svc_agent::cli::monitor::{MonitorFormat, Printer};
use svc_agent::datapath::events::EventListener;
use svc_agent::datapath::maps::{Access, KernelMaps};
use svc_agent::datapath::{Capacities, PinDir, Variant, load};
use svc_agent::model::{IpFamily, LoadBalancing, ObjectName, Transport, Weight};
use svc_agent::observe::PinnedMaps;
use svc_agent::observe::drops::drop_rows;
use svc_agent::observe::events::EventFilter;
use svc_agent::observe::flows::flow_rows;
use svc_agent::observe::label::Filter;
use svc_agent::observe::services::service_rows;
use svc_agent::plan::{Decision, PlannedBackend, ServiceId, ServicePlan};
use svc_agent::publish::Publisher;
use svc_common::program;

const WEB: &str = "10.96.1.1:80";
const EMPTY: &str = "10.96.1.2:80";
const BACKEND: &str = "10.244.1.9:8080";
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// The object's own defaults.
const VARIANT: Variant = Variant {
    trace: false,
    coarse_clock: true,
    tick_shift: 8,
    set_retval: true,
    ipv6_csum_flag: true,
    forward_direct: false,
    host_netns_cookie: 0,
    express: false,
};

struct Datapath {
    root: BpfRoot,
    ebpf: Ebpf,
}

impl Datapath {
    fn load() -> Self {
        let root = BpfRoot::mount();
        let pins = PinDir::new(root.path());
        pins.create().unwrap();
        let (ebpf, _) = load(Some(&pins), &VARIANT, Capacities::default()).unwrap();
        let datapath = Self { root, ebpf };
        datapath.publish();
        datapath
    }

    fn publish(&self) {
        let maps = KernelMaps::open_pinned(&self.root.maps(), Access::ReadWrite).unwrap();
        let mut publisher = Publisher::new(maps);
        let backend = PlannedBackend { address: BACKEND.parse().unwrap(), local: true, weight: Weight::default() };
        for (name, frontend, decision) in
            [("web", WEB, Decision::Forward(vec![backend])), ("empty", EMPTY, Decision::Reject)]
        {
            let service = ObjectName { namespace: Arc::from("default"), name: Arc::from(name) };
            let plan = ServicePlan {
                id: ServiceId {
                    service: service.clone(),
                    port_name: Arc::from("http"),
                    transport: Transport::Tcp,
                    family: IpFamily::V4,
                },
                frontend: frontend.parse().unwrap(),
                decision,
                draining: Vec::new(),
                affinity_timeout_seconds: None,
                load_balancing: LoadBalancing::Random,
                reset_when_gone: false,
            };
            publisher.publish_service(Instant::now(), &service, &[plan]).unwrap();
        }
    }

    fn run(&self, program: &str, packet: &[u8]) {
        let classifier: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let mut changed = vec![0; 256];
        let options = TestRunOptions { data_in: Some(packet), data_out: Some(&mut changed), ..Default::default() };
        classifier.test_run(options).unwrap();
    }
}

/// Ethernet, IPv4, TCP without data. Nobody here looks at the checksums.
fn tcp(source: &str, destination: &str, flags: u8) -> Vec<u8> {
    let [source, destination] = [source, destination].map(|text| match text.parse().unwrap() {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("IPv4 only"),
    });
    let mut packet = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00];
    packet.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}

#[test]
fn a_connection_is_one_flow_from_its_first_packet_on() {
    let datapath = Datapath::load();
    let maps = PinnedMaps::open(datapath.root.path()).unwrap();
    let all = Filter::default();
    datapath.run(program::POD_INGRESS, &tcp("10.244.1.5:40000", WEB, SYN));
    let flows = flow_rows(&maps, &all).unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");
    let flow = &flows[0];
    assert_eq!(flow.label.service, "default/web:http");
    assert_eq!(flow.client.to_string(), "10.244.1.5:40000");
    assert_eq!(flow.frontend.to_string(), WEB);
    assert_eq!(flow.backend.to_string(), BACKEND);
    assert_eq!((flow.state, flow.directions, flow.backend_lives), ("new", "both", true));

    datapath.run(program::POD_EGRESS, &tcp(BACKEND, "10.244.1.5:40000", SYN_ACK));
    assert_eq!(flow_rows(&maps, &all).unwrap()[0].state, "established");

    let services = service_rows(&maps, &all).unwrap();
    let web = services.iter().find(|row| row.frontend.to_string() == WEB).unwrap();
    assert_eq!((web.connections_tc, web.packets_to_backend, web.packets_to_client), (1, 1, 1));
    assert_eq!((web.bytes_to_backend, web.verdict, web.backends), (40, "forward", 1));
}

#[tokio::test]
async fn events_come_only_while_somebody_listens_and_say_what_happened() {
    let datapath = Datapath::load();
    let maps = PinnedMaps::open(datapath.root.path()).unwrap();
    let mut listener = EventListener::open(&datapath.root.maps()).unwrap();
    datapath.run(program::POD_INGRESS, &tcp("10.244.1.5:40000", WEB, SYN));
    listener.renew().unwrap();
    let before = SystemTime::now();
    datapath.run(program::POD_INGRESS, &tcp("10.244.1.5:40001", WEB, SYN));
    datapath.run(program::POD_INGRESS, &tcp("10.244.1.5:40002", EMPTY, SYN));
    datapath.run(program::POD_INGRESS, &tcp("10.244.1.5:40003", "10.96.1.1:81", SYN));

    let mut events = Vec::new();
    while events.len() < 3 {
        let read = tokio::time::timeout(Duration::from_secs(30), listener.read(&mut events)).await;
        assert!(read.is_ok(), "an event is missing after {events:?}");
    }
    let mut out = Vec::new();
    Printer::new(&maps, EventFilter::default(), MonitorFormat::Json, &mut out).print(&events).unwrap();
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fields = |line: &serde_json::Value| {
        ["client", "service", "frontend", "backend", "path", "outcome", "reason"]
            .map(|field| line[field].as_str().unwrap_or("-").to_owned())
    };
    let seen: Vec<_> = lines.iter().map(fields).collect();
    assert_eq!(
        seen,
        [
            ["10.244.1.5:40001", "default/web:http", WEB, BACKEND, "tc", "translated", "-"],
            ["10.244.1.5:40002", "default/empty:http", EMPTY, "-", "tc", "refused", "no_endpoint"],
            ["10.244.1.5:40003", "-", "10.96.1.1:81", "-", "tc", "refused", "no_such_port"],
        ]
    );
    let time: jiff::Timestamp = lines[0]["time"].as_str().unwrap().parse().unwrap();
    let distance = time.duration_since(jiff::Timestamp::try_from(before).unwrap());
    assert!(distance.as_secs().abs() < 3600, "{time} is not the time of the test");

    let drops = drop_rows(&maps).unwrap();
    let counted: Vec<_> = drops.iter().filter(|row| row.count > 0).map(|row| (row.reason, row.count)).collect();
    assert_eq!(counted, [("no_endpoint", 1), ("no_such_port", 1)]);
    let services = service_rows(&maps, &Filter::default()).unwrap();
    assert_eq!(services.iter().find(|row| row.frontend.to_string() == EMPTY).unwrap().rejected, 1);
}
