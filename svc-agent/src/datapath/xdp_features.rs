//! What a network driver does for XDP, by generic netlink (family `netdev`, 6.3): so that no frame is sent to an interface
//! that would lose it without a word. Only asks. Neighbour: `xdp` decides by the answer.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

use super::netlink::attribute;

const NETLINK_GENERIC: isize = 16;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 1 << 2;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// Of `struct nlmsghdr`, and of that and `struct genlmsghdr`.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

/// Whether the driver sends frames that come from the XDP program of another interface, for each of these; false where
/// nobody knows.
pub fn sends_frames(interfaces: impl IntoIterator<Item = u32>) -> io::Result<Vec<(u32, bool)>> {
    let socket = Socket::new(NETLINK_GENERIC)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let family = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0")?;
    let family = u16::from_ne_bytes(number(&family, CTRL_ATTR_FAMILY_ID)?);
    let answer = |index: u32| {
        let device = ask(&socket, family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes())?;
        let features = u64::from_ne_bytes(number(&device, NETDEV_A_DEV_XDP_FEATURES)?);
        Ok((index, features & NETDEV_XDP_ACT_NDO_XMIT != 0))
    };
    interfaces.into_iter().map(answer).collect()
}

/// Sends one question with one attribute; returns the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let padded = value.len().next_multiple_of(4);
    let mut message = Vec::with_capacity(HEADERS + 4 + padded);
    message.extend_from_slice(&((HEADERS + 4 + padded) as u32).to_ne_bytes());
    message.extend_from_slice(&family.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one question at a time.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[command, 1, 0, 0]);
    message.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(HEADERS + 4 + padded, 0);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(-error)),
        _ => answer.get(HEADERS..).map(<[u8]>::to_vec).ok_or_else(malformed),
    }
}

fn number<const N: usize>(attributes: &[u8], kind: u16) -> io::Result<[u8; N]> {
    attribute(attributes, kind).and_then(|value| value.try_into().ok()).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel lacks what was asked for")
}
