//! Why an object, or a part of it, is not used. The labels are metric labels and appear in logs.

use std::fmt;

/// Not ours by Kubernetes' own rules; nothing is wrong with the object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Ignored {
    #[error("the label service.kubernetes.io/service-proxy-name gives it to another proxy")]
    OtherProxy,
    #[error("it has no cluster IP")]
    NoClusterIp,
    #[error("type ExternalName is a matter of DNS")]
    ExternalName,
    #[error("the label service.kubernetes.io/headless says that it belongs to a headless Service")]
    HeadlessSlice,
    #[error("it has no label kubernetes.io/service-name")]
    NoServiceName,
    #[error("addressType FQDN has no addresses")]
    FqdnSlice,
}

impl Ignored {
    pub fn label(self) -> &'static str {
        match self {
            Self::OtherProxy => "other_proxy",
            Self::NoClusterIp => "no_cluster_ip",
            Self::ExternalName => "external_name",
            Self::HeadlessSlice => "headless_slice",
            Self::NoServiceName => "no_service_name",
            Self::FqdnSlice => "fqdn_slice",
        }
    }
}

/// What is wrong with an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RejectReason {
    Name,
    Address,
    AddressType,
    Family,
    Port,
    Protocol,
    DuplicatePort,
    AffinityTimeout,
    /// One of this project's annotations.
    Annotation,
    /// Not of the form its kind has.
    Malformed,
    /// The same object stands in an earlier file or document.
    DuplicateObject,
}

impl RejectReason {
    pub fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Address => "address",
            Self::AddressType => "address_type",
            Self::Family => "family",
            Self::Port => "port",
            Self::Protocol => "protocol",
            Self::DuplicatePort => "duplicate_port",
            Self::AffinityTimeout => "affinity_timeout",
            Self::Annotation => "annotation",
            Self::Malformed => "malformed",
            Self::DuplicateObject => "duplicate_object",
        }
    }
}

/// A fault of an object; `detail` names the value at fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Rejection {
    pub reason: RejectReason,
    pub detail: String,
}

impl Rejection {
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Why an object is not used at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// What we hold of the object must go.
    #[error(transparent)]
    Ignored(#[from] Ignored),
    /// What we hold of the object stays.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}
