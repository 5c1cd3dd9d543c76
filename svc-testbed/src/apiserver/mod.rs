//! A small Kubernetes API server in the own process: lists in pages, watches with bookmarks, selectors, history
//! that expires, and faults on demand. It keeps what it is given as it is: no defaulting, no validation.
//! Neighbours: `faults` says how it misbehaves, `http` speaks to clients.

mod faults;
mod http;
mod selector;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use faults::{Fault, Verb};
use selector::Selector;

/// A resource as it stands in request paths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resource {
    Services,
    EndpointSlices,
    Nodes,
}

impl Resource {
    fn from_path(path: &str) -> Option<Self> {
        match path {
            "/api/v1/services" => Some(Self::Services),
            "/apis/discovery.k8s.io/v1/endpointslices" => Some(Self::EndpointSlices),
            "/api/v1/nodes" => Some(Self::Nodes),
            _ => None,
        }
    }

    /// `None`: not served here.
    pub fn of_kind(kind: &str) -> Option<Self> {
        match kind {
            "Service" => Some(Self::Services),
            "EndpointSlice" => Some(Self::EndpointSlices),
            "Node" => Some(Self::Nodes),
            _ => None,
        }
    }

    fn type_of_list(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("v1", "ServiceList"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSliceList"),
            Self::Nodes => ("v1", "NodeList"),
        }
    }
}

/// Namespace (empty for Nodes) and name.
type Name = (String, String);

/// One change in the history of a resource.
#[derive(Clone)]
struct Change {
    version: u64,
    /// `None`: was created.
    before: Option<Arc<Value>>,
    /// `None`: was deleted.
    after: Option<Arc<Value>>,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<Name, Arc<Value>>,
    history: VecDeque<Change>,
    /// Watches from before this version get 410.
    expired: u64,
    /// Open watches that have not seen this version have missed a change for good.
    forgotten: u64,
    bookmark: u64,
}

#[derive(Default)]
struct State {
    version: u64,
    stores: BTreeMap<Resource, Store>,
    faults: Vec<(Resource, Verb, Fault, usize)>,
    gone_as_status: bool,
    requests: Vec<Request>,
    /// Lists in progress see the objects of the moment they began, by continue token.
    snapshots: BTreeMap<String, Vec<Arc<Value>>>,
}

/// A request the server has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    pub resource: Resource,
    pub verb: Verb,
    pub query: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Signal {
    version: u64,
    /// Watches of an older epoch close.
    epoch: u64,
}

struct Shared {
    state: Mutex<State>,
    signal: watch::Sender<Signal>,
    bookmark_every: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// For tests of a client: on a free port of the loopback interface, with bookmarks all the time.
    pub async fn start() -> io::Result<Self> {
        Self::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?, Duration::from_millis(20))
    }

    /// Serves what connects to the listener, which may belong to another network namespace. Needs a running runtime.
    pub fn on(listener: TcpListener) -> io::Result<Self> {
        Self::serve(listener, Duration::from_secs(60))
    }

    fn serve(listener: TcpListener, bookmark_every: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { version: 100, ..State::default() }),
            signal: watch::Sender::new(Signal { version: 100, epoch: 0 }),
            bookmark_every,
        });
        let address = listener.local_addr()?;
        let task = Some(tokio::spawn(http::serve(listener, shared.clone())));
        Ok(Self { address, shared, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn kubeconfig(&self) -> String {
        let url = self.url();
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// Connections are refused, and the present ones cut, until [`Self::come_back`].
    pub async fn go_away(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // An error says that it has been aborted.
            let _ = task.await;
        }
        self.close_watches();
    }

    pub async fn come_back(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.task = Some(tokio::spawn(http::serve(listener, self.shared.clone())));
        Ok(())
    }

    /// Creates or replaces an object. One of a kind that is not served here is nobody's business.
    pub fn apply(&self, object: Value) {
        if let Some(resource) = object["kind"].as_str().and_then(Resource::of_kind) {
            self.change(resource, name_of(&object), Some(object));
        }
    }

    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) {
        self.change(resource, (namespace.to_owned(), name.to_owned()), None);
    }

    /// Every object of a resource that a client with the selector may see.
    pub fn objects(&self, resource: Resource, label_selector: &str, field_selector: &str) -> Vec<Value> {
        let selector = Selector::parse(label_selector, field_selector);
        let state = self.shared.state();
        let objects = state.stores.get(&resource).into_iter().flat_map(|store| store.objects.values());
        objects.filter(|object| selector.matches(object)).map(|object| (**object).clone()).collect()
    }

    /// The next `times` requests of this kind go wrong.
    pub fn fail(&self, resource: Resource, verb: Verb, fault: Fault, times: usize) {
        self.shared.state().faults.push((resource, verb, fault, times));
    }

    /// All faults are over.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
    }

    /// Ends every open watch without a word.
    pub fn close_watches(&self) {
        self.shared.signal.send_modify(|signal| signal.epoch += 1);
    }

    /// Forgets the history: watches from any earlier version than the present one get 410, continue tokens expire.
    pub fn forget_history(&self) {
        self.forget(0);
    }

    /// The same, and no client knows a version that is still good: bookmarks do not help.
    pub fn expire(&self) {
        self.forget(1);
    }

    fn forget(&self, ahead: u64) {
        let mut state = self.shared.state();
        state.version += ahead;
        let version = state.version;
        state.snapshots.clear();
        for store in state.stores.values_mut() {
            store.forgotten = store.history.back().map_or(store.forgotten, |change| change.version);
            store.history.clear();
            store.expired = version;
        }
    }

    /// Watches from an expired version get HTTP 410 instead of an event that says so.
    pub fn say_gone_with_status(&self) {
        self.shared.state().gone_as_status = true;
    }

    /// Whether a bookmark has told watches of this resource all that has happened on the server.
    pub fn bookmark_is_current(&self, resource: Resource) -> bool {
        let state = self.shared.state();
        state.stores.get(&resource).is_some_and(|store| store.bookmark == state.version)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    pub fn count(&self, resource: Resource, verb: Verb) -> usize {
        self.requests().iter().filter(|request| request.resource == resource && request.verb == verb).count()
    }

    fn change(&self, resource: Resource, name: Name, object: Option<Value>) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let store = state.stores.entry(resource).or_default();
        let stamp = |mut object: Value| {
            object["metadata"]["resourceVersion"] = version.to_string().into();
            Arc::new(object)
        };
        let after = object.map(stamp);
        let before = match &after {
            Some(after) => store.objects.insert(name, after.clone()),
            None => store.objects.remove(&name),
        };
        store.history.push_back(Change { version, before, after });
        drop(state);
        self.shared.signal.send_modify(|signal| signal.version = version);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn name_of(object: &Value) -> Name {
    let field = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    (field("namespace"), field("name"))
}
