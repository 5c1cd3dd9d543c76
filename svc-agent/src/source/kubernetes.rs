//! Follows Services, EndpointSlices and the own Node of an API server, one watch and one tracing span for each.
//! Every object is reduced to the model at once; nothing of the API's types is kept. An outage changes nothing:
//! the watch goes on trying, and objects are only removed once a complete list, or the watch, said so.
//! Neighbours: [`super::convert`] parses, [`super::manifests`] is the source for clusters without an API server.

mod outage;
mod requests;

use std::fmt::Debug;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tracing::{Instrument, debug, info, info_span, warn};

use super::convert::{Followed, ParseError, parse_object_name};
use super::{Interner, Kind, SourceEvent, SourceStats};
use outage::{Outage, must_list_again};
pub use requests::ApiRequests;

const PAGE_SIZE: u32 = 500;

/// How to follow an API server; the defaults suit production.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the own Node object.
    pub node_name: Arc<str>,
    /// First and longest pause after a failure; it doubles in between.
    pub min_backoff: Duration,
    pub max_backoff: Duration,
    /// A page of a list that takes longer has failed.
    pub list_timeout: Duration,
}

impl Options {
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.into(),
            min_backoff: Duration::from_millis(800),
            max_backoff: Duration::from_secs(30),
            list_timeout: Duration::from_secs(60),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no API server to follow: {0}. Inside a pod give it a service account and set KUBERNETES_SERVICE_HOST and \
         KUBERNETES_SERVICE_PORT to the API server's own address; outside pass --kubeconfig, or --manifests to do without"
    )]
    InCluster(#[source] InClusterError),
    #[error("kubeconfig {path} is unusable: {source}. Check the file, its current-context and its certificates")]
    Kubeconfig {
        path: String,
        #[source]
        source: Box<KubeconfigError>,
    },
    #[error(
        "the API client cannot be set up: {0}. Check certificates and credentials of the kubeconfig or service account"
    )]
    Client(#[source] Box<kube::Error>),
}

/// A client from a kubeconfig, or with `None` from the pod's service account. Contacts nobody yet.
pub async fn connect(kubeconfig: Option<&Path>, requests: &ApiRequests) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        None => kube::Config::incluster().map_err(ConnectError::InCluster)?,
        Some(path) => {
            let unusable =
                |source| ConnectError::Kubeconfig { path: path.display().to_string(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(unusable)?
        }
    };
    // The client's own retries would hide an overloaded server for minutes; ours are counted and logged.
    config.default_retry = false;
    // Longer than a watch may be silent, so that only a request nobody answers runs into it.
    config.read_timeout = Some(Duration::from_secs(300));
    info!(server = %config.cluster_url, "following the API server");
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let client = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
    Ok(client.with_layer(&requests.layer(host)).build())
}

/// Follows the API server until the receiver is gone.
pub async fn run(client: Client, options: Options, stats: Arc<SourceStats>, sender: Sender<SourceEvent>) {
    let services = watcher::Config::default().labels("!service.kubernetes.io/service-proxy-name");
    let slices = watcher::Config::default().labels("!service.kubernetes.io/headless");
    let node = watcher::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let watch = |kind| Watch {
        kind,
        options: options.clone(),
        stats: stats.clone(),
        sender: sender.clone(),
        interner: Interner::default(),
        listed: false,
    };
    tokio::join!(
        follow(watch(Kind::Service), Api::<core::Service>::all(client.clone()), services),
        follow(watch(Kind::EndpointSlice), Api::<discovery::EndpointSlice>::all(client.clone()), slices),
        follow(watch(Kind::Node), Api::<core::Node>::all(client.clone()), node),
    );
}

trait Watched: Followed + Clone + Debug + DeserializeOwned + Send + 'static {}

impl<K: Followed + Clone + Debug + DeserializeOwned + Send + 'static> Watched for K {}

/// The receiver of the events is gone.
struct Closed;

async fn follow<K: Watched>(mut watch: Watch, api: Api<K>, config: watcher::Config) {
    let span = info_span!("watch", resource = watch.kind.resource());
    async {
        let mut outage = Outage::new(watch.kind, watch.options.min_backoff, watch.options.max_backoff);
        let config = config.page_size(PAGE_SIZE);
        // Each round begins with a list; within a round the watcher resumes broken watches by itself.
        while watch.round(&api, config.clone(), &mut outage).await.is_ok() {}
        debug!("nobody listens any more");
    }
    .instrument(span)
    .await;
}

struct Watch {
    kind: Kind,
    options: Options,
    stats: Arc<SourceStats>,
    sender: Sender<SourceEvent>,
    interner: Interner,
    /// A list has been completed.
    listed: bool,
}

impl Watch {
    /// Returns `Ok` when only a new list can restore what may have been missed.
    async fn round<K: Watched>(
        &mut self,
        api: &Api<K>,
        config: watcher::Config,
        outage: &mut Outage,
    ) -> Result<(), Closed> {
        let mut events = pin!(watcher(api.clone(), config));
        let mut listing = true;
        loop {
            // The server may accept the connection and never answer; a watch may be silent for long.
            let patience = if listing { self.options.list_timeout } else { Duration::MAX };
            let event = tokio::select! {
                event = tokio::time::timeout(patience, events.next()) => event,
                () = self.sender.closed() => return Err(Closed),
            };
            let Ok(event) = event else {
                self.count_failure();
                let pause = outage.note_timeout(patience);
                return self.pause(pause).await;
            };
            match event {
                Some(Ok(event)) => {
                    match &event {
                        watcher::Event::Init => listing = true,
                        watcher::Event::InitDone => listing = false,
                        _ => {}
                    }
                    if !matches!(event, watcher::Event::Init) {
                        self.stats.kind(self.kind).set_connected(true);
                        outage.note_contact();
                    }
                    self.forward(event).await?;
                }
                Some(Err(error)) => {
                    self.count_failure();
                    let pause = outage.note_error(&error);
                    if self.kind == Kind::Node && outage.is_forbidden() {
                        self.do_without_node().await?;
                    }
                    self.pause(pause).await?;
                    if must_list_again(&error) {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }

    async fn forward<K: Watched>(&mut self, event: watcher::Event<K>) -> Result<(), Closed> {
        match event {
            watcher::Event::Init => self.send(SourceEvent::ListStarted(self.kind)).await,
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let event = self.parse(&object);
                self.send_some(event).await
            }
            watcher::Event::Delete(object) => {
                self.stats.kind(self.kind).count_deleted();
                let event = self.deletion(&object);
                self.send_some(event).await
            }
            watcher::Event::InitDone => {
                self.stats.kind(self.kind).count_list();
                if !std::mem::replace(&mut self.listed, true) {
                    info!("listed completely");
                } else {
                    debug!("listed again");
                }
                self.send(SourceEvent::ListCompleted(self.kind)).await
            }
        }
    }

    fn parse<K: Watched>(&mut self, object: &K) -> Option<SourceEvent> {
        let stats = self.stats.clone();
        let stats = stats.kind(self.kind);
        match object.parse(&mut self.interner) {
            Ok(parsed) => {
                stats.count_applied();
                for rejection in parsed.rejected {
                    stats.count_unusable(rejection.reason.label());
                    warn!(
                        object = %display_name(object), reason = rejection.reason.label(), problem = %rejection,
                        "part of the object is left out: correct it where it comes from"
                    );
                }
                Some(parsed.object)
            }
            Err(ParseError::Ignored(ignored)) => {
                stats.count_unusable(ignored.label());
                debug!(object = %display_name(object), reason = %ignored, "not ours");
                self.deletion(object)
            }
            Err(ParseError::Rejected(rejection)) => {
                stats.count_unusable(rejection.reason.label());
                warn!(
                    object = %display_name(object), reason = rejection.reason.label(), problem = %rejection,
                    "the object cannot be used, its last good version stays in force: correct it where it comes from"
                );
                let name = parse_object_name(&mut self.interner, object.meta()).ok()?;
                Some(SourceEvent::Kept(self.kind, name))
            }
        }
    }

    fn deletion<K: Watched>(&mut self, object: &K) -> Option<SourceEvent> {
        let name = parse_object_name(&mut self.interner, object.meta()).ok()?;
        Some(SourceEvent::deleted(self.kind, name))
    }

    /// Services work without the Node, except for topology hints: a missing permission must not keep them from working.
    async fn do_without_node(&mut self) -> Result<(), Closed> {
        if std::mem::replace(&mut self.listed, true) {
            return Ok(());
        }
        warn!("going on without the own Node: topology hints have no effect until it can be read");
        self.send(SourceEvent::ListCompleted(Kind::Node)).await
    }

    fn count_failure(&self) {
        self.stats.kind(self.kind).set_connected(false);
        self.stats.kind(self.kind).count_error();
    }

    async fn send(&self, event: SourceEvent) -> Result<(), Closed> {
        self.sender.send(event).await.map_err(|_| Closed)
    }

    async fn send_some(&self, event: Option<SourceEvent>) -> Result<(), Closed> {
        match event {
            Some(event) => self.send(event).await,
            None => Ok(()),
        }
    }

    async fn pause(&self, pause: Duration) -> Result<(), Closed> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.sender.closed() => Err(Closed),
        }
    }
}

fn display_name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or("?");
    match &metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
