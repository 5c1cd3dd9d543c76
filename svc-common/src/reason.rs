//! Why a packet or connection was not forwarded: counter index, metric label, test assertion and docs table in one.

/// Declares the reasons once; index, label and explanation come from the same line.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $index:literal, $label:literal;)+) => {
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum DropReason { $($(#[doc = $doc])+ $name = $index),+ }

        impl DropReason {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// As in metrics, `svc-agent get drops` and `monitor`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// One sentence for an operator.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

drop_reasons! {
    /// Refused: the service has no endpoint.
    NoEndpoint = 0, "no_endpoint";
    /// Dropped: the service has endpoints, but the Local policy allows none of them on this node.
    NoLocalEndpoint = 1, "no_local_endpoint";
    /// Refused: the address belongs to a service that has no such port.
    NoSuchPort = 2, "no_such_port";
    /// Dropped: all source ports tried for this client and backend are taken by other connections.
    SourcePortsExhausted = 3, "source_ports_exhausted";
    /// Dropped: the flow table took no new entry.
    FlowTableFull = 4, "flow_table_full";
    /// Dropped: the chosen slot or backend changed while it was read, several times in a row.
    BackendChanged = 5, "backend_changed";
    /// Dropped: the packet to a service address is shorter than its own headers claim.
    Malformed = 6, "malformed";
    /// Dropped: the kernel refused to rewrite the packet.
    RewriteFailed = 7, "rewrite_failed";
    /// Dropped: a fragment of a datagram to a service whose first fragment was not seen.
    FragmentUnknown = 8, "fragment_unknown";
    /// Dropped: the node has no address of this family to stand for the client.
    NoNodeAddress = 9, "no_node_address";
    /// Dropped: the node's own connection was given an endpoint that its routing table knows no way to.
    NoRoute = 10, "no_route";
    /// Refused: the service's target port differs from its own, and SCTP ports cannot be translated.
    SctpPort = 11, "sctp_port";
    /// Reset: the endpoint of an established connection is gone, and the service asks for a reset then.
    EndpointGone = 12, "endpoint_gone";
}

impl DropReason {
    pub const COUNT: u32 = Self::ALL.len() as u32;

    pub const fn from_index(index: u8) -> Option<Self> {
        if (index as usize) < Self::ALL.len() { Some(Self::ALL[index as usize]) } else { None }
    }
}
