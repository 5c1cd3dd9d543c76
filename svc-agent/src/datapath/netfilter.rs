//! Which netfilter chains forwarded packets would pass: what `--forwarding=direct` bypasses, said at the start. Reads
//! nf_tables (also iptables-nft) over netlink, and whether legacy iptables is in use. Must not change any of it.

use std::fmt;
use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use super::netlink::attribute;

/// A chain on the FORWARD hook that holds rules or drops what no rule accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardChain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    pub rules: u32,
    pub drops_by_default: bool,
}

impl fmt::Display for ForwardChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {} rules", self.family, self.table, self.chain, self.rules)?;
        if self.drops_by_default { f.write_str(", drops by default") } else { Ok(()) }
    }
}

/// Chains that packets on their way from interface to interface pass on this node.
pub fn forward_chains() -> io::Result<Vec<ForwardChain>> {
    let mut chains = nf_tables_chains()?;
    for (family, path) in [("ip", "/proc/net/ip_tables_names"), ("ip6", "/proc/net/ip6_tables_names")] {
        // The file exists with legacy iptables only, and lists the tables somebody has used.
        let tables = std::fs::read_to_string(path).unwrap_or_default();
        chains.extend(tables.lines().filter(|table| matches!(*table, "filter" | "mangle" | "security")).map(|table| {
            let table = format!("{table} (legacy iptables, rules not counted)");
            ForwardChain { family, table, chain: "FORWARD".to_owned(), rules: 0, drops_by_default: false }
        }));
    }
    Ok(chains)
}

/// `struct nlmsghdr` and `struct nfgenmsg` (linux/netlink.h, linux/netfilter/nfnetlink.h).
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NFNL_SUBSYS_NFTABLES << 8 with NFT_MSG_NEWCHAIN and NFT_MSG_GETCHAIN (linux/netfilter/nf_tables.h).
const NEW_CHAIN: u16 = 10 << 8 | 3;
const GET_CHAIN: u16 = 10 << 8 | 4;
const REQUEST_DUMP: u16 = 0x0301;

fn nf_tables_chains() -> io::Result<Vec<ForwardChain>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER + FAMILY_HEADER);
    request.extend(((HEADER + FAMILY_HEADER) as u32).to_ne_bytes());
    request.extend(GET_CHAIN.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8 + FAMILY_HEADER]);
    socket.send(&request, 0)?;
    let mut chains = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read_messages(&datagram, &mut chains)? {
            return Ok(chains);
        }
    }
}

/// Answers true at the end of the list.
fn read_messages(mut rest: &[u8], chains: &mut Vec<ForwardChain>) -> io::Result<bool> {
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(message) = rest.get(HEADER..length) else { break };
        match u16::from_ne_bytes([t0, t1]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(-code));
            }
            NEW_CHAIN => chains.extend(read_chain(message)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A chain, if it hangs on FORWARD of an IP family and is not idle.
fn read_chain(message: &[u8]) -> Option<ForwardChain> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const USE: u16 = 6;
    const HOOK_NUMBER: u16 = 1;
    const NF_INET_FORWARD: u32 = 2;
    const NF_DROP: u32 = 0;

    let family = match message.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let number = |bytes: Vec<u8>| bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
    let attributes = message.get(FAMILY_HEADER..)?;
    let hook = attribute(attributes, HOOK)?;
    if attribute(&hook, HOOK_NUMBER).and_then(number) != Some(NF_INET_FORWARD) {
        return None;
    }
    let chain = ForwardChain {
        family,
        table: attribute(attributes, TABLE).map(text)?,
        chain: attribute(attributes, NAME).map(text)?,
        rules: attribute(attributes, USE).and_then(number).unwrap_or(0),
        drops_by_default: attribute(attributes, POLICY).and_then(number) == Some(NF_DROP),
    };
    (chain.rules > 0 || chain.drops_by_default).then_some(chain)
}
