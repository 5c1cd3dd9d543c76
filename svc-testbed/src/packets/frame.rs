//! Descriptions of Ethernet frames, as a case writes them, and their bytes. Headers and checksums come from
//! etherparse, so that they share no code with the datapath. Neighbours: [`super::packet`] carries the bytes.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader, checksum,
};

use super::case::CHOSEN;
use super::packet::{MemoryPacket, Offload};

pub type Mac = [u8; 6];
pub const POD_MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];
pub const NODE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x0b];
pub const ETHERNET_LEN: usize = 14;

/// `address:port` of a case; a bare address has port 0.
/// `CHOSEN` as a port is [`super::case::CHOSEN`].
pub fn at(text: &str) -> SocketAddr {
    let text = &text.replace("CHOSEN", &CHOSEN.to_string());
    match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(both), _) => both,
        (_, Ok(address)) => SocketAddr::new(address, 0),
        _ => panic!("case: '{text}' is neither an address nor address:port"),
    }
}

/// Who computes transport checksums of a frame that enters a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    /// The packet holds them (CHECKSUM_NONE, as from a wire).
    Complete,
    /// The packet holds the pseudo-header's sum, hardware does the rest (CHECKSUM_PARTIAL, as from a local socket).
    Offloaded,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp {
        header: Box<TcpHeader>,
    },
    Udp {
        checksum: bool,
    },
    /// Header and data as they are; `number` is the IP protocol.
    Raw {
        number: u8,
    },
}

/// Where a frame lies in its fragmented datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// In units of eight bytes.
    pub offset: u16,
    pub more: bool,
    pub id: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub source_mac: Mac,
    pub destination_mac: Mac,
    pub vlan: Option<u16>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification.
    pub id: u16,
    pub dont_fragment: bool,
    /// IPv6.
    pub flow_label: u32,
    /// IPv4, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: protocol number and body after the first two bytes (6 + 8n bytes).
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub fragment: Option<Fragment>,
    pub transport: Transport,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet, as Ethernet padding.
    pub trailer: Vec<u8>,
    pub gso: bool,
}

pub fn tcp(source: &str, destination: &str) -> Frame {
    let (source, destination) = (at(source), at(destination));
    let header = TcpHeader::new(source.port(), destination.port(), 0, 64_000);
    Frame::new(source, destination, Transport::Tcp { header: Box::new(header) })
}

pub fn udp(source: &str, destination: &str) -> Frame {
    let mut frame = Frame::new(at(source), at(destination), Transport::Udp { checksum: true });
    frame.payload = b"datagram".to_vec();
    frame
}

/// Any other protocol between two addresses; `payload` starts with its header.
pub fn raw(number: u8, source: &str, destination: &str, payload: &[u8]) -> Frame {
    let mut frame = Frame::new(at(source), at(destination), Transport::Raw { number });
    frame.payload = payload.to_vec();
    frame
}

/// ICMP or ICMPv6 with a correct checksum; `rest` is the header's second word.
pub fn icmp(source: &str, destination: &str, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Frame {
    let (from, to) = (at(source).ip(), at(destination).ip());
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&rest);
    message.extend_from_slice(data);
    let sum = match (from, to) {
        (IpAddr::V4(_), _) => checksum::Sum16BitWords::new(),
        _ => pseudo_header(from, to, IpNumber::IPV6_ICMP.0, message.len()),
    };
    let sum = sum.add_slice(&message).ones_complement().to_be();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let number = if from.is_ipv4() { IpNumber::ICMP.0 } else { IpNumber::IPV6_ICMP.0 };
    raw(number, source, destination, &message)
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> checksum::Sum16BitWords {
    let mut sum = checksum::Sum16BitWords::new();
    for address in [from, to] {
        sum = match address {
            IpAddr::V4(v4) => sum.add_4bytes(v4.octets()),
            IpAddr::V6(v6) => sum.add_16bytes(v6.octets()),
        };
    }
    let length = u32::try_from(length).expect("a frame's length fits into 32 bits");
    sum.add_4bytes(length.to_be_bytes()).add_2bytes([0, protocol])
}

impl Frame {
    fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "case: {source} and {destination} are of two families");
        Self {
            source_mac: POD_MAC,
            destination_mac: NODE_MAC,
            vlan: None,
            source,
            destination,
            ttl: 64,
            id: 0x1234,
            dont_fragment: true,
            flow_label: 0x12345,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            transport,
            payload: Vec::new(),
            trailer: Vec::new(),
            gso: false,
        }
    }

    fn tcp_header(mut self, change: impl FnOnce(&mut TcpHeader)) -> Self {
        match &mut self.transport {
            Transport::Tcp { header } => change(header),
            other => panic!("case: TCP flags on {other:?}"),
        }
        self
    }

    pub fn syn(self, sequence: u32) -> Self {
        self.tcp_header(|tcp| {
            tcp.syn = true;
            tcp.sequence_number = sequence;
        })
    }

    pub fn ack(self, sequence: u32, acknowledged: u32) -> Self {
        self.tcp_header(|tcp| {
            tcp.ack = true;
            tcp.sequence_number = sequence;
            tcp.acknowledgment_number = acknowledged;
        })
    }

    pub fn syn_ack(self, sequence: u32, acknowledged: u32) -> Self {
        self.syn(sequence).ack(sequence, acknowledged)
    }

    pub fn fin(self, sequence: u32, acknowledged: u32) -> Self {
        self.ack(sequence, acknowledged).tcp_header(|tcp| tcp.fin = true)
    }

    pub fn rst(self, sequence: u32) -> Self {
        self.tcp_header(|tcp| {
            tcp.rst = true;
            tcp.sequence_number = sequence;
        })
    }

    pub fn window(self, size: u16) -> Self {
        self.tcp_header(|tcp| tcp.window_size = size)
    }

    pub fn tcp_options(self, options: &[u8]) -> Self {
        self.tcp_header(|tcp| tcp.set_options_raw(options).expect("case: TCP options"))
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// UDP over IPv4 without a checksum.
    pub fn without_checksum(mut self) -> Self {
        self.transport = Transport::Udp { checksum: false };
        self
    }

    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    pub fn fragment(mut self, id: u32, offset: u16, more: bool) -> Self {
        self.fragment = Some(Fragment { offset, more, id });
        self.dont_fragment = false;
        self
    }

    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub fn trailer(mut self, bytes: &[u8]) -> Self {
        self.trailer = bytes.to_vec();
        self
    }

    /// An aggregate that is cut into segments later (generic segmentation offload).
    pub fn gso(mut self) -> Self {
        self.gso = true;
        self
    }

    /// The same frame from another sender.
    pub fn from(mut self, source: &str) -> Self {
        self.source = at(source);
        self
    }

    /// The same frame to another receiver.
    pub fn to(mut self, destination: &str) -> Self {
        self.destination = at(destination);
        self
    }

    /// The same frame with exchanged MAC addresses.
    pub fn turned(mut self) -> Self {
        std::mem::swap(&mut self.source_mac, &mut self.destination_mac);
        self
    }

    /// Replaces a placeholder port (see [`super::case::CHOSEN`]).
    pub fn with_port(mut self, placeholder: u16, port: u16) -> Self {
        for end in [&mut self.source, &mut self.destination] {
            if end.port() == placeholder {
                end.set_port(port);
            }
        }
        self
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => IpNumber::TCP.0,
            Transport::Udp { .. } => IpNumber::UDP.0,
            Transport::Raw { number } => number,
        }
    }

    /// Whether hardware would compute a checksum of such a frame.
    pub fn can_offload(&self) -> bool {
        self.vlan.is_none()
            && self.fragment.is_none()
            && matches!(self.transport, Transport::Tcp { .. } | Transport::Udp { checksum: true })
    }

    fn segment(&self, checksums: Checksums) -> Vec<u8> {
        let (from, to) = (self.source.ip(), self.destination.ip());
        let (mut bytes, field) = match &self.transport {
            Transport::Raw { .. } => return self.payload.clone(),
            Transport::Tcp { header } => {
                let mut header = header.clone();
                header.source_port = self.source.port();
                header.destination_port = self.destination.port();
                (header.to_bytes().to_vec(), 16)
            }
            Transport::Udp { .. } => {
                let header = UdpHeader {
                    source_port: self.source.port(),
                    destination_port: self.destination.port(),
                    length: u16::try_from(UdpHeader::LEN + self.payload.len()).expect("case: datagram too long"),
                    checksum: 0,
                };
                (header.to_bytes().to_vec(), 6)
            }
        };
        bytes.extend_from_slice(&self.payload);
        let sum = pseudo_header(from, to, self.protocol(), bytes.len());
        let value = match (&self.transport, checksums) {
            (Transport::Udp { checksum: false }, _) => 0,
            (_, Checksums::Offloaded) => !sum.ones_complement(),
            (Transport::Udp { .. }, Checksums::Complete) => sum.add_slice(&bytes).to_ones_complement_with_no_zero(),
            (_, Checksums::Complete) => sum.add_slice(&bytes).ones_complement(),
        };
        bytes[field..field + 2].copy_from_slice(&value.to_ne_bytes());
        bytes
    }

    /// Network header of a payload, and the offset of the transport header in it.
    fn network_header(&self, payload: usize) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let options = Ipv4Options::try_from(self.options.as_slice()).expect("case: IPv4 options");
                let mut header = Ipv4Header {
                    total_len: u16::try_from(Ipv4Header::MIN_LEN + options.len() + payload).expect("case: length"),
                    identification: self.fragment.map_or(self.id, |fragment| fragment.id as u16),
                    dont_fragment: self.dont_fragment,
                    more_fragments: self.fragment.is_some_and(|fragment| fragment.more),
                    fragment_offset: IpFragOffset::try_new(self.fragment.map_or(0, |fragment| fragment.offset))
                        .expect("case: fragment offset"),
                    time_to_live: self.ttl,
                    protocol: IpNumber(self.protocol()),
                    source: source.octets(),
                    destination: destination.octets(),
                    options,
                    ..Ipv4Header::default()
                };
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut chain: Vec<(u8, Vec<u8>)> = self.extensions.clone();
                if let Some(fragment) = self.fragment {
                    let place = fragment.offset << 3 | u16::from(fragment.more);
                    let mut body = place.to_be_bytes().to_vec();
                    body.extend_from_slice(&fragment.id.to_be_bytes());
                    chain.push((IpNumber::IPV6_FRAGMENTATION_HEADER.0, body));
                }
                let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([self.protocol()]).collect();
                let mut extensions = Vec::new();
                for ((number, body), next) in chain.iter().zip(&numbers[1..]) {
                    // The fragment header has a reserved byte where others have their length.
                    let fragment = *number == IpNumber::IPV6_FRAGMENTATION_HEADER.0;
                    let units = if fragment { 0 } else { u8::try_from(body.len() / 8).expect("case: extension") };
                    extensions.extend_from_slice(&[*next, units]);
                    extensions.extend_from_slice(body);
                }
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label).expect("20 bits"),
                    payload_length: u16::try_from(extensions.len() + payload).expect("case: length"),
                    next_header: IpNumber(numbers[0]),
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                let mut bytes = header.to_bytes().to_vec();
                bytes.extend_from_slice(&extensions);
                bytes
            }
            (source, destination) => panic!("case: {source} and {destination} are of two families"),
        }
    }

    pub fn bytes(&self, checksums: Checksums) -> Vec<u8> {
        let segment = self.segment(checksums);
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        if let Some(id) = self.vlan {
            bytes.extend_from_slice(&0x8100_u16.to_be_bytes());
            bytes.extend_from_slice(&id.to_be_bytes());
        }
        let ether_type: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        bytes.extend_from_slice(&ether_type.to_be_bytes());
        bytes.extend_from_slice(&self.network_header(segment.len()));
        bytes.extend_from_slice(&segment);
        bytes.extend_from_slice(&self.trailer);
        bytes
    }

    /// Bytes of the IP packet alone, as an ICMP error quotes it.
    pub fn ip_bytes(&self, checksums: Checksums) -> Vec<u8> {
        let checksums = if self.can_offload() { checksums } else { Checksums::Complete };
        self.bytes(checksums)[ETHERNET_LEN..].to_vec()
    }

    pub fn packet(&self, checksums: Checksums) -> MemoryPacket {
        let bytes = self.bytes(checksums);
        let offload = match checksums {
            Checksums::Offloaded if self.can_offload() => {
                let start = ETHERNET_LEN + self.network_header(0).len();
                let field = if matches!(self.transport, Transport::Tcp { .. }) { 16 } else { 6 };
                Offload::Partial { start, field }
            }
            _ => return MemoryPacket::new(self.bytes(Checksums::Complete), Offload::Complete, self.gso),
        };
        MemoryPacket::new(bytes, offload, self.gso)
    }
}
