//! The lines of `svc-agent monitor`, and the listener on a ring buffer that a program fills. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use jiff::tz::TimeZone;
use observe_support::kernel::{BpfRoot, Emitter};
use observe_support::{DNS, NGINX, cluster, name, v4};
use svc_agent::cli::monitor::{MonitorArgs, MonitorFormat, Printer, watch};
use svc_agent::datapath::events::{EventListener, ListenError};
use svc_agent::observe::PinnedMaps;
use svc_agent::observe::events::{EventFilter, EventLine};
use svc_agent::observe::label::{Filter, ServiceLabel};
use svc_agent::observe::pinned::monotonic_seconds;
use svc_common::{DropReason, Event, Family, Port, Protocol, event_kind, event_path};

/// 2026-01-02T03:04:05Z
const BOOT: Duration = Duration::from_secs(1_767_323_045);

fn translated() -> Event {
    Event {
        time: 1_500_000_000,
        client: v4([10, 244, 3, 50]).into(),
        frontend: v4([10, 110, 110, 219]).into(),
        backend: v4([10, 244, 3, 47]).into(),
        client_port: Port::from_host(41_000),
        frontend_port: Port::from_host(80),
        backend_port: Port::from_host(8080),
        protocol: Protocol::TCP,
        family: Family::V4,
        service: NGINX,
        kind: event_kind::TRANSLATED,
        path: event_path::TC,
        ..Default::default()
    }
}

fn refused() -> Event {
    Event {
        kind: event_kind::REFUSED,
        reason: DropReason::NoEndpoint as u8,
        backend: Default::default(),
        backend_port: Port::default(),
        path: event_path::SOCKET,
        client: Default::default(),
        client_port: Port::default(),
        process: 4711,
        command: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        ..translated()
    }
}

fn line(event: &Event) -> EventLine {
    let label = ServiceLabel::new(event.service, Some(&name("default/nginx-service")));
    EventLine::new(event, Some(label), SystemTime::UNIX_EPOCH + BOOT)
}

#[test]
fn lines_for_people() {
    assert_eq!(
        line(&translated()).text(&TimeZone::UTC).to_string(),
        "03:04:06.500 TCP  10.244.3.50:41000     default/nginx-service  10.110.110.219:80 → 10.244.3.47:8080  tc"
    );
    assert_eq!(
        line(&refused()).text(&TimeZone::UTC).to_string(),
        "03:04:06.500 TCP  curl[4711]            default/nginx-service  10.110.110.219:80 → refused: no_endpoint  socket"
    );
    let stranger = Event { kind: event_kind::DROPPED, reason: 250, service: u32::MAX, ..translated() };
    let stranger = EventLine::new(&stranger, None, SystemTime::UNIX_EPOCH + BOOT);
    assert_eq!(
        stranger.text(&TimeZone::UTC).to_string(),
        "03:04:06.500 TCP  10.244.3.50:41000     -  10.110.110.219:80 → dropped: unknown  tc"
    );
}

#[test]
fn lines_for_programs() {
    assert_eq!(
        serde_json::to_value(line(&refused())).unwrap(),
        serde_json::json!({
            "time": "2026-01-02T03:04:06.5Z",
            "service": "default/nginx-service",
            "namespace": "default",
            "name": "nginx-service",
            "port_name": "",
            "protocol": "TCP",
            "client": null,
            "process": 4711,
            "command": "curl",
            "frontend": "10.110.110.219:80",
            "backend": null,
            "path": "socket",
            "outcome": "refused",
            "reason": "no_endpoint",
        })
    );
    let value = serde_json::to_value(line(&translated())).unwrap();
    assert_eq!(value["client"], "10.244.3.50:41000");
    assert_eq!(value["backend"], "10.244.3.47:8080");
    assert_eq!(value["reason"], serde_json::Value::Null);
    assert_eq!(value["process"], serde_json::Value::Null);
}

fn printed(events: &[Event], filter: EventFilter) -> Vec<serde_json::Value> {
    let reader = cluster(10_000);
    let mut out = Vec::new();
    Printer::new(&reader, filter, MonitorFormat::Json, &mut out).print(events).unwrap();
    String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn filters_choose_events() {
    let query = Event { service: DNS, client: v4([10, 244, 9, 9]).into(), ..translated() };
    let stranger = Event { service: u32::MAX, kind: event_kind::DROPPED, ..translated() };
    let events = [translated(), query, refused(), stranger];
    assert_eq!(printed(&events, EventFilter::default()).len(), 4);

    let rows = Filter { service: Some("kube-system/kube-dns:dns".parse().unwrap()), ..Default::default() };
    let lines = printed(&events, EventFilter { rows, drops_only: false });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["service"], "kube-system/kube-dns:dns");

    let rows = Filter { client: Some("10.244.9.0/24".parse().unwrap()), ..Default::default() };
    assert_eq!(printed(&events, EventFilter { rows, drops_only: false }).len(), 1);

    let outcomes =
        |lines: Vec<serde_json::Value>| lines.into_iter().map(|line| line["outcome"].clone()).collect::<Vec<_>>();
    let drops = EventFilter { drops_only: true, ..Default::default() };
    assert_eq!(outcomes(printed(&events, drops)), ["refused", "dropped"]);
}

async fn read_some(listener: &mut EventListener) -> Vec<Event> {
    let mut events = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), listener.read(&mut events)).await.expect("no event arrived").unwrap();
    events
}

#[tokio::test]
async fn a_listener_arms_reads_in_order_and_disarms() {
    let root = BpfRoot::with_maps(&cluster(10_000));
    let emitter = Emitter::load(&root);
    // Left by somebody who listened before.
    assert!(emitter.emit(&refused()));
    let mut listener = EventListener::open(&root.maps()).unwrap();
    assert_eq!(root.config().events_until, 0);
    listener.renew().unwrap();
    assert!(root.config().events_until > monotonic_seconds());

    let events: Vec<Event> = (1..=3).map(|time| Event { time, ..translated() }).collect();
    events.iter().for_each(|event| assert!(emitter.emit(event)));
    assert_eq!(read_some(&mut listener).await, events);
    assert!(!listener.fell_behind());

    drop(listener);
    assert_eq!(root.config().events_until, 0);
}

#[tokio::test]
async fn one_listener_at_a_time() {
    let root = BpfRoot::with_maps(&cluster(10_000));
    let first = EventListener::open(&root.maps()).unwrap();
    let second = EventListener::open(&root.maps());
    assert!(matches!(second.err().unwrap(), ListenError::Busy { .. }));
    drop(first);
    EventListener::open(&root.maps()).unwrap();
}

#[tokio::test]
async fn an_overrun_is_noticed() {
    let root = BpfRoot::with_maps(&cluster(10_000));
    let emitter = Emitter::load(&root);
    let mut listener = EventListener::open(&root.maps()).unwrap();
    let mut written = 0;
    while emitter.emit(&translated()) {
        written += 1;
    }
    let (mut read, mut behind) = (0, false);
    while read < written {
        read += read_some(&mut listener).await.len();
        behind |= listener.fell_behind();
    }
    assert_eq!(read, written);
    assert!(behind);
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Hands each line over as it is written.
struct Lines(tokio::sync::mpsc::UnboundedSender<String>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines().try_for_each(|line| self.0.send(line.to_owned())).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_command_announces_prints_and_leaves_nothing_on() {
    let root = BpfRoot::with_maps(&cluster(10_000));
    let emitter = Emitter::load(&root);
    let arguments = ["monitor", "--bpf-root", root.path().to_str().unwrap(), "--drops"];
    let args = Command::try_parse_from(arguments).unwrap().monitor;
    let (lines_in, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let (notices_in, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopped = stop.clone();
    let notice = move |text: std::fmt::Arguments<'_>| notices_in.send(text.to_string()).unwrap();
    let command = watch(args.clone(), Lines(lines_in), notice, async move { stopped.notified().await });

    let check = async {
        assert!(notices.recv().await.unwrap().starts_with("listening"));
        assert!(root.config().events_until > 0);
        let second = watch(args, std::io::sink(), |_| {}, std::future::pending()).await;
        assert!(second.unwrap_err().to_string().contains("another monitor listens"));
        assert!(emitter.emit(&translated()));
        assert!(emitter.emit(&refused()));
        assert!(lines.recv().await.unwrap().ends_with("10.110.110.219:80 → refused: no_endpoint  socket"));
        stop.notify_one();
    };
    let (ended, ()) = tokio::join!(command, check);
    ended.unwrap();
    assert_eq!(root.config().events_until, 0);
}

#[tokio::test]
async fn a_closed_pipe_ends_the_command() {
    let root = BpfRoot::with_maps(&cluster(10_000));
    let emitter = Emitter::load(&root);
    let args = Command::try_parse_from(["monitor", "--bpf-root", root.path().to_str().unwrap()]).unwrap().monitor;
    let (lines_in, lines) = tokio::sync::mpsc::unbounded_channel();
    drop(lines);
    let emit = |_: std::fmt::Arguments<'_>| assert!(emitter.emit(&translated()));
    let ended = watch(args, Lines(lines_in), emit, std::future::pending());
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it goes on").unwrap();
}

#[tokio::test]
async fn names_are_those_of_the_moment() {
    let root = BpfRoot::with_maps(&cluster(10_000));
    let maps = PinnedMaps::open(root.path()).unwrap();
    let mut out = Vec::new();
    let mut printer = Printer::new(&maps, EventFilter::default(), MonitorFormat::Json, &mut out);
    printer.print(&[translated()]).unwrap();
    root.rename(NGINX, &name("default/successor:web"));
    printer.print(&[translated()]).unwrap();
    drop(printer);
    let names: Vec<String> = String::from_utf8(out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["service"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["default/nginx-service", "default/successor:web"]);
}
