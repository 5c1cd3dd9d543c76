//! rtnetlink: what interfaces, default routes and addresses there are, and the stream of changes. No decisions.
//! Neighbours: `interfaces` holds the view, `attach` runs the loop, `tc` sends its requests over the same handle; `netfilter` and
//! `xdp_features` speak other families by hand.

use std::io;
use std::net::IpAddr;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};

use super::interfaces::{DefaultRoute, Interface, InterfaceAddress, XdpState};

/// Room for the events of some thousand pods that start at once.
const RECEIVE_BUFFER: usize = 4 << 20;

#[derive(thiserror::Error, Debug)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket: {0}")]
    Open(io::Error),
    #[error("cannot list {what}: {error}")]
    List { what: &'static str, error: rtnetlink::Error },
}

/// A change worth acting on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Interface(u32, Interface),
    Gone(u32),
    /// Default routes may have changed.
    Routes,
    /// Addresses of this interface changed.
    Addresses(u32),
    /// Events were lost: ask for everything again.
    Overrun,
    /// The socket is closed.
    End,
}

/// Opens the connection for requests. It is not the one that receives events: a flood of those must not swallow answers.
pub fn connect() -> Result<Handle, NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check().map_err(NetlinkError::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}

pub struct Changes(UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>);

impl Changes {
    pub fn subscribe() -> Result<Self, NetlinkError> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Link};
        let groups = [Link, Ipv4Route, Ipv6Route, Ipv4Ifaddr, Ipv6Ifaddr];
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Open)?;
        // A small buffer is no reason not to start: an overrun is noticed.
        let _ = connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER as libc::c_int);
        tokio::spawn(connection);
        Ok(Self(messages))
    }

    /// Waits for a change, and takes along those that are there already.
    pub async fn next(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.is_empty() {
            let Some((message, _)) = self.0.next().await else { return vec![Change::End] };
            changes.extend(parse_change(message.payload));
            while let Some(Some((message, _))) = self.0.next().now_or_never() {
                changes.extend(parse_change(message.payload));
            }
        }
        changes
    }
}

fn parse_change(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewAddress, NewLink, NewRoute};
    match payload {
        NetlinkPayload::InnerMessage(NewLink(link)) => {
            parse_link(&link).map(|(index, it)| Change::Interface(index, it))
        }
        // A bridge reports a port that leaves it the same way, with its own family.
        NetlinkPayload::InnerMessage(DelLink(link)) if link.header.interface_family == AddressFamily::Unspec => {
            Some(Change::Gone(link.header.index))
        }
        NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => is_default(&route).then_some(Change::Routes),
        NetlinkPayload::InnerMessage(NewAddress(address) | DelAddress(address)) => {
            Some(Change::Addresses(address.header.index))
        }
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        _ => None,
    }
}

fn parse_link(link: &LinkMessage) -> Option<(u32, Interface)> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let interface = Interface {
        name,
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        peer_elsewhere: has_peer_elsewhere(link),
        address: link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(address) => address.as_slice().try_into().ok(),
            _ => None,
        }),
        mtu: link
            .attributes
            .iter()
            .find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
            .unwrap_or_default(),
        xdp: link.attributes.iter().find_map(|a| if let LinkAttribute::Xdp(xdp) = a { parse_xdp(xdp) } else { None }),
    };
    Some((link.header.index, interface))
}

fn parse_xdp(attributes: &[LinkXdp]) -> Option<XdpState> {
    let generic = attributes.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
    let id = |attribute: &LinkXdp| if let LinkXdp::ProgId(id) = attribute { Some(*id) } else { None };
    attributes.iter().find_map(id).map(|program_id| XdpState { generic, program_id })
}

fn has_peer_elsewhere(link: &LinkMessage) -> bool {
    let veth = LinkInfo::Kind(InfoKind::Veth);
    let is_veth =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&veth));
    let elsewhere = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
    link.attributes.iter().any(is_veth) && link.attributes.iter().any(elsewhere)
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN
}

pub async fn list_interfaces(handle: &Handle) -> Result<Vec<(u32, Interface)>, NetlinkError> {
    handle
        .link()
        .get()
        .execute()
        .try_filter_map(|link| async move { Ok(parse_link(&link)) })
        .try_collect()
        .await
        .map_err(|error| NetlinkError::List { what: "interfaces", error })
}

pub async fn list_default_routes(handle: &Handle) -> Result<Vec<DefaultRoute>, NetlinkError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let mut routes = std::pin::pin!(handle.route().get(request).execute());
        while let Some(route) = routes.try_next().await.map_err(|error| NetlinkError::List { what: "routes", error })? {
            if is_default(&route) {
                found.extend(parse_default_route(&route));
            }
        }
    }
    Ok(found)
}

fn parse_default_route(route: &RouteMessage) -> Vec<DefaultRoute> {
    let (mut metric, mut source, mut interfaces) = (0, None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(IpAddr::V4(*address)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(IpAddr::V6(*address)),
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => interfaces.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    let v6 = route.header.address_family == AddressFamily::Inet6;
    interfaces.into_iter().map(|interface| DefaultRoute { metric, interface, source, v6 }).collect()
}

pub async fn list_addresses(handle: &Handle) -> Result<Vec<InterfaceAddress>, NetlinkError> {
    handle
        .address()
        .get()
        .execute()
        .try_filter_map(|address| async move { Ok(parse_address(&address)) })
        .try_collect()
        .await
        .map_err(|error| NetlinkError::List { what: "addresses", error })
}

fn parse_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Dadfailed;
    if message.header.scope != AddressScope::Universe || message.header.flags.intersects(unusable) {
        return None;
    }
    // On a point-to-point interface `Address` is the other end; `Local` is always ours. IPv6 has only `Address`.
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    Some(InterfaceAddress { interface: message.header.index, address: address? })
}

/// One attribute's value, of those of a message that rtnetlink does not know.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let found = NlasIterator::new(attributes).filter_map(Result::ok).find(|one: &NlaBuffer<&[u8]>| one.kind() == kind);
    found.map(|attribute| attribute.value().to_vec())
}
