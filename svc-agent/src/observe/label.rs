//! How services, addresses and protocols are written for people and programs, and how lists are filtered by them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use svc_common::{AddrV4, AddrV6, Family, Port, Protocol, ServiceName};

use super::reader::{MapReader, ReadError};

/// A service as its name in SERVICE_NAMES says. JSON: `service` ("namespace/name:port"), `namespace`, `name`,
/// `port_name`; the last three are null when the entry has no name any more and `service` is "#<index>".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct ServiceLabel {
    pub service: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub port_name: Option<String>,
}

impl ServiceLabel {
    pub fn new(index: u32, name: Option<&ServiceName>) -> Self {
        let text = name.map(|name| text_of(&name.bytes));
        let Some(service) = text.filter(|text| !text.is_empty()) else {
            return Self { service: format!("#{index}"), namespace: None, name: None, port_name: None };
        };
        let (object, port) = service.split_once(':').unwrap_or((&service, ""));
        let (namespace, name) = object.split_once('/').unwrap_or(("", object));
        let [namespace, name, port_name] = [namespace, name, port].map(|part| Some(part.to_owned()));
        Self { service, namespace, name, port_name }
    }
}

impl fmt::Display for ServiceLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.service)
    }
}

/// Text that a map holds NUL padded.
pub fn text_of(padded: &[u8]) -> String {
    let text = padded.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Labels by service index, each read once.
pub struct Labels<'a> {
    reader: &'a dyn MapReader,
    known: HashMap<u32, ServiceLabel>,
}

impl<'a> Labels<'a> {
    pub fn new(reader: &'a dyn MapReader) -> Self {
        Self { reader, known: HashMap::new() }
    }

    pub fn get(&mut self, index: u32) -> Result<&ServiceLabel, ReadError> {
        match self.known.entry(index) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let name = self.reader.service_name(index)?;
                Ok(entry.insert(ServiceLabel::new(index, name.as_ref())))
            }
        }
    }
}

/// `namespace/name`, or `namespace/name:port` for one port of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSelector {
    namespace: String,
    name: String,
    port_name: Option<String>,
}

#[derive(thiserror::Error, Debug, PartialEq, Eq)]
#[error("expected NAMESPACE/NAME or NAMESPACE/NAME:PORT")]
pub struct SelectorError;

impl FromStr for ServiceSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (namespace, rest) = text.split_once('/').ok_or(SelectorError)?;
        let (name, port_name) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (rest, None),
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(SelectorError);
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port_name })
    }
}

/// Which rows or events to show. An empty filter shows all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    pub service: Option<ServiceSelector>,
    pub namespace: Option<String>,
    pub client: Option<IpNet>,
}

impl Filter {
    pub fn wants_service(&self, label: &ServiceLabel) -> bool {
        let by_name = self.service.as_ref().is_none_or(|selector| {
            label.namespace.as_ref() == Some(&selector.namespace)
                && label.name.as_ref() == Some(&selector.name)
                && (selector.port_name.is_none() || label.port_name == selector.port_name)
        });
        by_name && self.namespace.as_ref().is_none_or(|namespace| label.namespace.as_ref() == Some(namespace))
    }

    pub fn wants_client(&self, client: IpAddr) -> bool {
        self.client.is_none_or(|network| network.contains(&client))
    }
}

/// Reads "10.244.1.5" as well as "10.244.1.0/24".
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "expected an IP address or network, such as 10.244.1.5 or fd00::/64".to_owned())
}

/// Addresses of either family as they stand in map keys and values.
pub trait ToIp: Copy {
    fn to_ip(self) -> IpAddr;
}

impl ToIp for AddrV4 {
    fn to_ip(self) -> IpAddr {
        Ipv4Addr::from(self.octets()).into()
    }
}

impl ToIp for AddrV6 {
    fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.octets()).into()
    }
}

/// Address in a place for either family; see [`AddrV6`].
pub fn ip_of(family: Family, address: AddrV6) -> IpAddr {
    match family {
        Family::V4 => AddrV4(address.0[0]).to_ip(),
        _ => address.to_ip(),
    }
}

pub fn socket_address(address: IpAddr, port: Port) -> SocketAddr {
    SocketAddr::new(address, port.to_host())
}

/// "TCP", "UDP", "SCTP" as in a Service, else the number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolLabel(pub Protocol);

impl fmt::Display for ProtocolLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Protocol::TCP => f.pad("TCP"),
            Protocol::UDP => f.pad("UDP"),
            Protocol::SCTP => f.pad("SCTP"),
            Protocol(number) => f.pad(&number.to_string()),
        }
    }
}

impl Serialize for ProtocolLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
