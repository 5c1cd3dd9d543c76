//! Which interfaces carry programs, and which: patterns and the default route against what the kernel reports. Pure.
//! Neighbours: `netlink` fills the [`View`], `attach` acts on the roles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use svc_common::program;

/// Host sides of pod interfaces, by CNI plugin. `lxc*` (Cilium) is left out on purpose: its own programs translate there
/// unless told not to; who runs it with kube-proxy's job switched off adds the pattern.
pub const DEFAULT_POD_INTERFACES: &[&str] = &[
    "veth*", // kindnet and other ptp users, bridge and flannel, kubenet, kube-router, weave (vethwe*)
    "cali*", // Calico, Canal, Terway
    "eni*",  // AWS VPC CNI; the machine's own interfaces are eth* and ens*
    "azv*",  // Azure CNI
    "gke*",  // GKE without Dataplane V2
];

/// Which side of the node an interface is on, and so which programs it carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Pod,
    Uplink,
    /// Brings the replies of endpoints that are the node itself to the node's own clients.
    Loopback,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Pod, Self::Uplink, Self::Loopback];

    /// Replies first: a request is never translated where its reply would not be.
    pub const fn programs(self) -> &'static [(&'static str, Direction)] {
        match self {
            Self::Pod => &[(program::POD_EGRESS, Direction::Egress), (program::POD_INGRESS, Direction::Ingress)],
            Self::Uplink => {
                &[(program::UPLINK_EGRESS, Direction::Egress), (program::UPLINK_INGRESS, Direction::Ingress)]
            }
            Self::Loopback => &[(program::UPLINK_INGRESS, Direction::Ingress)],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Uplink => "uplink",
            Self::Loopback => "loopback",
        })
    }
}

/// An interface name in which `*` stands for any characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("{0:?} is not an interface name or pattern: 1 to 15 characters besides `*`, no blanks or slashes")]
pub struct PatternError(String);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let literal = text.chars().filter(|c| *c != '*').count();
        let odd = text.chars().any(|c| c.is_whitespace() || c == '/');
        if text.is_empty() || literal > 15 || odd {
            Err(PatternError(text.to_owned()))
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Uplinks {
    /// Interfaces a default route of the main table leads to, whichever they are at the time.
    DefaultRoute,
    Named(Vec<Pattern>),
}

/// What the operator asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    pub pods: Vec<Pattern>,
    pub uplinks: Uplinks,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: String,
    /// Packets have an Ethernet header, as the programs expect.
    pub ethernet: bool,
    pub loopback: bool,
    /// One end of a pair (veth) whose other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// Its Ethernet address.
    pub address: Option<[u8; 6]>,
    pub mtu: u32,
    pub xdp: Option<XdpState>,
}

/// An XDP program on an interface, whoever put it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpState {
    pub generic: bool,
    pub program_id: u32,
}

/// A next hop of a default route.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DefaultRoute {
    pub metric: u32,
    pub interface: u32,
    pub source: Option<IpAddr>,
    pub v6: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    pub interface: u32,
    pub address: IpAddr,
}

/// Addresses of this node towards other machines: what a masqueraded client is seen as, if the Node object has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeAddresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// The first of each family.
    pub fn of(addresses: &[IpAddr]) -> Self {
        let mut found = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => found.v4 = found.v4.or(Some(*v4)),
                IpAddr::V6(v6) => found.v6 = found.v6.or(Some(*v6)),
            }
        }
        found
    }
}

/// What the interfaces say about the node's own addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnAddresses {
    /// Towards other machines.
    pub uplink: NodeAddresses,
    /// IPv4 addresses of interfaces by way of which a program can deliver packets to the node.
    deliverable: Vec<(Ipv4Addr, u32)>,
}

impl OwnAddresses {
    /// The interface by way of which packets to this address are delivered to the node.
    pub fn interface_of(&self, address: Ipv4Addr) -> Option<u32> {
        self.deliverable.iter().find(|(own, _)| *own == address).map(|(_, interface)| *interface)
    }
}

/// What the kernel reported so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    pub interfaces: BTreeMap<u32, Interface>,
    default_routes: Vec<DefaultRoute>,
    /// In the kernel's order; of global scope and usable as a source.
    addresses: Vec<InterfaceAddress>,
    /// Interfaces of the default routes; kept while there is no default route at all, as in a moment of
    /// reconfiguration: flows that go on by other routes still need their replies translated.
    uplinks: BTreeSet<u32>,
}

impl View {
    pub fn set_routes(&mut self, mut routes: Vec<DefaultRoute>, addresses: Vec<InterfaceAddress>) {
        routes.sort();
        if !routes.is_empty() {
            self.uplinks = routes.iter().map(|route| route.interface).collect();
        }
        self.default_routes = routes;
        self.addresses = addresses;
    }

    /// A change of this interface may move the default route or the node's addresses.
    pub fn is_uplink(&self, index: u32) -> bool {
        self.uplinks.contains(&index)
    }

    pub fn is_loopback(&self, index: u32) -> bool {
        self.interfaces.get(&index).is_some_and(|interface| interface.loopback)
    }

    pub fn roles(&self, selection: &Selection) -> BTreeMap<u32, Role> {
        self.interfaces
            .iter()
            .filter_map(|(index, interface)| Some((*index, self.role(selection, *index, interface)?)))
            .collect()
    }

    /// Interfaces that lead straight into a pod.
    pub fn peers(&self, selection: &Selection) -> BTreeSet<u32> {
        let elsewhere = |index: &u32| self.interfaces.get(index).is_some_and(|interface| interface.peer_elsewhere);
        let pods = self.roles(selection).into_iter().filter(|(_, role)| *role == Role::Pod);
        pods.map(|(index, _)| index).filter(elsewhere).collect()
    }

    /// An uplink stays one even if its name looks like a pod's (a node inside a container has a veth as its uplink).
    fn role(&self, selection: &Selection, index: u32, interface: &Interface) -> Option<Role> {
        if interface.loopback {
            return Some(Role::Loopback);
        }
        if !interface.ethernet {
            return None;
        }
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&interface.name));
        let uplink = match &selection.uplinks {
            Uplinks::DefaultRoute => self.uplinks.contains(&index),
            Uplinks::Named(patterns) => named(patterns),
        };
        if uplink {
            Some(Role::Uplink)
        } else if named(&selection.pods) {
            Some(Role::Pod)
        } else {
            None
        }
    }

    /// Packets are delivered by way of loopback itself, or of an uplink, whose program leads them there.
    pub fn own_addresses(&self, selection: &Selection) -> OwnAddresses {
        let roles = self.roles(selection);
        let leads_here = |index| self.is_loopback(index) || roles.get(&index) == Some(&Role::Uplink);
        let deliverable = self.addresses.iter().filter_map(|own| match own.address {
            IpAddr::V4(address) if leads_here(own.interface) => Some((address, own.interface)),
            _ => None,
        });
        let deliverable = deliverable.collect();
        OwnAddresses { uplink: self.node_addresses(selection), deliverable }
    }

    /// The source of the best default route, else the first address of its interface, else one of any uplink.
    fn node_addresses(&self, selection: &Selection) -> NodeAddresses {
        let uplinks = self.roles(selection).into_iter().filter(|(_, role)| *role == Role::Uplink);
        let candidates: Vec<(u32, Option<IpAddr>)> = self
            .default_routes
            .iter()
            .map(|route| (route.interface, route.source))
            .chain(uplinks.map(|(index, _)| (index, None)))
            .collect();
        let addresses: Vec<IpAddr> = candidates
            .into_iter()
            .flat_map(|(interface, source)| {
                let own = self.addresses.iter().filter(move |known| known.interface == interface);
                source.into_iter().chain(own.map(|known| known.address))
            })
            .collect();
        NodeAddresses::of(&addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            ethernet: true,
            loopback: false,
            peer_elsewhere: false,
            address: None,
            mtu: 1500,
            xdp: None,
        }
    }

    fn route(interface: u32, metric: u32, source: Option<&str>) -> DefaultRoute {
        DefaultRoute { metric, interface, source: source.map(|s| s.parse().unwrap()), v6: false }
    }

    fn address(interface: u32, address: &str) -> InterfaceAddress {
        InterfaceAddress { interface, address: address.parse().unwrap() }
    }

    fn view() -> View {
        let names = ["lo", "eth0", "veth1a2b", "cali123", "docker0", "wg0"];
        let mut view = View::default();
        for (index, name) in (1..).zip(names) {
            view.interfaces.insert(index, interface(name));
        }
        view.interfaces.get_mut(&1).unwrap().loopback = true;
        view.interfaces.get_mut(&6).unwrap().ethernet = false;
        view
    }

    fn default_selection() -> Selection {
        Selection { pods: patterns(DEFAULT_POD_INTERFACES), uplinks: Uplinks::DefaultRoute }
    }

    #[test]
    fn patterns_match_like_a_shell() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Pattern>().unwrap().matches(name);
        for (pattern, name) in [
            ("veth*", "veth"),
            ("veth*", "veth12"),
            ("eth0", "eth0"),
            ("*", "x"),
            ("a*b*c", "axxbyyc"),
            ("*_h", "pod_h"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("veth*", "eth0"), ("eth0", "eth01"), ("a*b*c", "acb"), ("ab*ba", "aba"), ("*_h", "pod_c")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        for bad in ["", "a b", "a/b", "a-name-too-long-x"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_follow_names_and_the_default_route() {
        let mut view = view();
        view.set_routes(vec![route(2, 100, None)], vec![]);
        let roles = view.roles(&default_selection());
        let expected = [(1, Role::Loopback), (2, Role::Uplink), (3, Role::Pod), (4, Role::Pod)];
        assert_eq!(roles, BTreeMap::from(expected));
    }

    #[test]
    fn loopback_has_its_own_role_and_tunnels_without_ethernet_none() {
        let mut view = view();
        view.set_routes(vec![route(6, 0, None)], vec![]);
        let all = Selection { pods: patterns(&["*"]), uplinks: Uplinks::Named(patterns(&["wg0", "lo"])) };
        let roles = view.roles(&all);
        assert_eq!(roles.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(roles[&1], Role::Loopback);
    }

    #[test]
    fn a_default_route_over_a_veth_makes_it_an_uplink() {
        let mut view = view();
        view.set_routes(vec![route(3, 0, None)], vec![]);
        assert_eq!(view.roles(&default_selection())[&3], Role::Uplink);
    }

    #[test]
    fn uplinks_stay_while_there_is_no_default_route_and_move_with_the_next() {
        let mut view = view();
        view.set_routes(vec![route(2, 0, None)], vec![]);
        view.set_routes(vec![], vec![]);
        assert_eq!(view.roles(&default_selection())[&2], Role::Uplink);
        view.set_routes(vec![route(5, 0, None)], vec![]);
        let roles = view.roles(&default_selection());
        assert_eq!((roles.get(&2), roles.get(&5)), (None, Some(&Role::Uplink)));
    }

    #[test]
    fn the_node_address_is_that_of_the_best_default_route() {
        let mut view = view();
        let addresses = || vec![address(5, "172.17.0.1"), address(2, "192.0.2.7"), address(2, "2001:db8::7")];
        view.set_routes(vec![route(5, 200, None), route(2, 100, None)], addresses());
        let found = view.node_addresses(&default_selection());
        assert_eq!(found.v4, Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(found.v6, Some("2001:db8::7".parse().unwrap()));
        view.set_routes(vec![route(2, 100, Some("192.0.2.9"))], addresses());
        assert_eq!(view.node_addresses(&default_selection()).v4, Some(Ipv4Addr::new(192, 0, 2, 9)));
    }

    #[test]
    fn packets_are_delivered_by_way_of_uplinks_and_loopback() {
        let mut view = view();
        let addresses = ["192.0.2.7", "2001:db8::7"].map(|text| address(2, text)).into_iter();
        let others = [address(1, "203.0.113.1"), address(5, "172.17.0.1")];
        view.set_routes(vec![route(2, 100, None)], addresses.chain(others).collect());
        let own = view.own_addresses(&default_selection());
        let by_way_of = |text: &str| own.interface_of(text.parse().unwrap());
        assert_eq!((by_way_of("192.0.2.7"), by_way_of("203.0.113.1")), (Some(2), Some(1)));
        assert_eq!((by_way_of("172.17.0.1"), by_way_of("192.0.2.8")), (None, None), "no program of ours is there");
    }

    #[test]
    fn without_a_default_route_a_named_uplink_lends_its_address() {
        let mut view = view();
        view.set_routes(vec![], vec![address(2, "192.0.2.7")]);
        let selection = Selection { pods: vec![], uplinks: Uplinks::Named(patterns(&["eth*"])) };
        assert_eq!(view.node_addresses(&selection).v4, Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(view.node_addresses(&selection).v6, None);
    }
}
