//! `svc-agent run`: puts the parts together, in the order that keeps a running datapath working, and ends them.
//! The loop itself is `owner`'s.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use svc_common::ABI_VERSION;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use super::args::{LogFormat, RunArgs, RunConfig, SourceChoice};
use super::owner::Owner;
use crate::datapath::maps::{Access, KernelMaps};
use crate::datapath::{ClusterRanges, HOOKS, Loaded, SocketLb};
use crate::index::Index;
use crate::observe::{PinnedMaps, Settings, Shared, SourceState, serve};
use crate::publish::{ConfigField, Publisher};
use crate::source::{ApiRequests, SourceEvent, SourceStats, kubernetes, manifests};
use crate::sweep::Sweeper;

/// Events in flight between source and owner.
const QUEUE: usize = 1024;
/// One for the owner, one for interfaces, source and servers: a long publication must not hold up a new pod.
const WORKERS: usize = 2;

pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = args.resolve()?;
    log_to_stderr(config.log_format);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run_agent(config))
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

async fn run_agent(config: RunConfig) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        outcome = work(config) => outcome,
        _ = terminate.recv() => stopped("SIGTERM"),
        _ = interrupt.recv() => stopped("SIGINT"),
    }
}

fn stopped(signal: &str) -> anyhow::Result<()> {
    tracing::info!(signal, "stopping; the datapath goes on");
    Ok(())
}

/// Returns only when something has failed for good.
async fn work(config: RunConfig) -> anyhow::Result<()> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_name,
        source = ?config.source,
        socket_lb = ?config.datapath.socket_lb,
        forwarding = ?config.datapath.forwarding,
        xdp = ?config.datapath.xdp,
        cluster_ranges = ?config.datapath.cluster_ranges,
        load_balancing = ?config.load_balancing,
        "starting"
    );
    // Sets nothing in motion yet, but finds what is wrong with it before the datapath is touched.
    let source_stats = Arc::new(SourceStats::default());
    let (sender, events) = mpsc::channel(QUEUE);
    let requests = ApiRequests::default();
    let source = prepare_source(&config, &requests, Arc::clone(&source_stats), sender).await?;

    // Lists arrive while the verifier works.
    let source = tokio::spawn(source);
    let hooks = if config.datapath.socket_lb == SocketLb::Off { 0 } else { HOOKS.len() };
    let bpf_root = config.datapath.bpf_root.clone();
    let follow_pod_cidrs = config.datapath.cluster_ranges.is_none();
    let loaded = Loaded::load(config.datapath)?;
    let cluster_ranges = follow_pod_cidrs.then(|| ClusterRanges::open(loaded.pins())).transpose()?;
    let pinned = loaded.pins().maps();
    let maps = KernelMaps::open_pinned(&pinned, Access::ReadWrite)?;
    let (mut publisher, adopted) = Publisher::adopt(maps, Instant::now()).context("cannot read the maps")?;
    tracing::info!(?adopted, "maps opened");
    publisher.write_config(ConfigField::AbiVersion(ABI_VERSION))?;
    let (follower, _lock) = loaded.attach(|bits| publisher.write_config(ConfigField::Features(bits))).await?;

    let shared = Shared::new(Settings { service_metrics: config.service_metrics, ..Settings::default() });
    shared.attach_maps(Box::new(PinnedMaps::open(&bpf_root)?));
    if matches!(config.source, SourceChoice::Kubernetes(_)) {
        shared.attach_requests(requests);
    }
    shared.attach_source(move || SourceState::all(&source_stats));
    tokio::spawn(Arc::clone(&shared).watch_fill());
    let sweeper = Sweeper::open(&pinned, config.timeouts)?;
    sweeper.start(Arc::clone(&shared)).context("cannot start the thread that removes what ended")?;
    tokio::spawn(serve(Arc::clone(&shared), config.metrics_address, config.healthz_address));

    let owner = Owner {
        index: Index::new(&config.node_name).with_load_balancing(config.load_balancing),
        publisher,
        shared,
        events,
        own_addresses: follower.addresses(),
        interfaces: follower.counts(),
        hooks,
        ready: false,
        written: None,
        cluster_ranges,
        pod_cidrs: None,
        untranslatable: BTreeSet::new(),
    };
    let follower = tokio::spawn(follower.run());
    let owner = tokio::spawn(owner.run());
    tokio::select! {
        ended = follower => ended?.context("interfaces are no longer followed")?,
        ended = owner => ended?,
    }
    // The owner ends when the source has, which knows why.
    source.await??;
    Err(anyhow!("the source ended"))
}

type Source = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

async fn prepare_source(
    config: &RunConfig,
    requests: &ApiRequests,
    stats: Arc<SourceStats>,
    sender: mpsc::Sender<SourceEvent>,
) -> anyhow::Result<Source> {
    match &config.source {
        SourceChoice::Kubernetes(kubeconfig) => {
            let client = kubernetes::connect(kubeconfig.as_deref(), requests).await?;
            let options = kubernetes::Options::new(&config.node_name);
            Ok(Box::pin(async move {
                kubernetes::run(client, options, stats, sender).await;
                Ok(())
            }))
        }
        SourceChoice::Manifests(directory) => {
            let options = manifests::Options::new(directory.clone(), &config.node_name);
            Ok(Box::pin(async move { Ok(manifests::run(options, stats, sender).await?) }))
        }
    }
}
