//! Where the agent under test finds its objects: a folder of manifests, or an API server inside its node's namespace. The
//! same calls for both; nothing here knows what the objects mean.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::corpus::Identity;
use crate::{
    AgentOptions, Lab, Manifests,
    apiserver::{ApiServer, Resource},
};

/// How the agent learns of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Source {
    Manifests,
    Kubernetes,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Kubernetes => "kubernetes",
        }
    }
}

pub enum Objects {
    Folder(Manifests),
    Server {
        server: ApiServer,
        kubeconfig: std::path::PathBuf,
        /// The server runs on it.
        _runtime: Runtime,
    },
}

impl Objects {
    /// An empty source for the agent on `node`.
    pub fn start(lab: &Lab, node: &str, source: Source) -> Result<Self> {
        match source {
            Source::Manifests => Ok(Self::Folder(Manifests::in_directory(lab.state_dir().join("manifests"))?)),
            Source::Kubernetes => {
                let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                let listener = lab.machine(node)?.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
                let listener = listener.context("cannot listen for the API server's clients")?;
                listener.set_nonblocking(true)?;
                let server = {
                    let _runtime = runtime.enter();
                    ApiServer::on(tokio::net::TcpListener::from_std(listener)?)?
                };
                let kubeconfig = lab.state_dir().join("kubeconfig");
                std::fs::write(&kubeconfig, server.kubeconfig()).context("cannot write the kubeconfig")?;
                Ok(Self::Server { server, kubeconfig, _runtime: runtime })
            }
        }
    }

    /// How to start an agent that follows these objects.
    pub fn agent_options(&self) -> Result<AgentOptions> {
        match self {
            Self::Folder(manifests) => AgentOptions::new(manifests.directory()),
            Self::Server { kubeconfig, .. } => AgentOptions::with_kubeconfig(kubeconfig),
        }
    }

    /// Creates or replaces an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        match self {
            Self::Folder(manifests) => manifests.apply(object),
            Self::Server { server, .. } => {
                server.apply(object.clone());
                Ok(())
            }
        }
    }

    pub fn delete(&self, object: &Identity) -> Result<()> {
        match self {
            Self::Folder(manifests) => manifests.delete(&object.kind, &object.namespace, &object.name),
            Self::Server { server, .. } => {
                if let Some(resource) = Resource::of_kind(&object.kind) {
                    server.delete(resource, &object.namespace, &object.name);
                }
                Ok(())
            }
        }
    }
}
