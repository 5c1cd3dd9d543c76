//! A real small cluster DNS: hickory's server over the Services and EndpointSlices of a manifests directory. Answers A and
//! AAAA below `svc.cluster.local`; everything else is NXDOMAIN, as there is no upstream.

mod records;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use hickory_proto::{
    op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
pub use records::Records;
use tokio::net::{TcpListener, UdpSocket};

use crate::serve::{answer::Seen, report_on_request};

const TTL: u32 = 5;
const TCP_IDLE: Duration = Duration::from_secs(30);
const TCP_BUFFER: usize = 16;

#[derive(Clone, Debug, clap::Args)]
pub struct DnsArgs {
    /// Directory of Service and EndpointSlice manifests
    #[arg(long)]
    pub manifests: PathBuf,
    /// Addresses to listen on
    #[arg(long, required = true)]
    pub address: Vec<IpAddr>,
    #[arg(long, default_value_t = 53)]
    pub port: u16,
}

pub async fn run(args: DnsArgs) -> Result<()> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut server = Server::new(Handler { records: Mutex::new(Records::of(args.manifests)), seen: Arc::clone(&seen) });
    for address in args.address {
        let address = SocketAddr::new(address, args.port);
        let udp = UdpSocket::bind(address).await.with_context(|| format!("cannot bind UDP {address}"))?;
        let tcp = TcpListener::bind(address).await.with_context(|| format!("cannot listen on TCP {address}"))?;
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
    }
    report_on_request(move || seen.lock().unwrap_or_else(PoisonError::into_inner).clone()).await
}

struct Handler {
    records: Mutex<Records>,
    seen: Arc<Mutex<Seen>>,
}

impl Handler {
    fn answer(&self, request: &Request) -> Result<(ResponseCode, Vec<Record>)> {
        let Ok(info) = request.request_info() else { return Ok((ResponseCode::FormErr, Vec::new())) };
        if info.metadata.op_code != OpCode::Query {
            return Ok((ResponseCode::NotImp, Vec::new()));
        }
        let name = Name::from(info.query.name());
        self.note(format!("{} {} {} {name}", info.protocol, info.src, info.query.query_type()));
        let addresses = {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.lookup(&name.to_utf8())?
        };
        let Some(addresses) = addresses else { return Ok((ResponseCode::NXDomain, Vec::new())) };
        let wanted = |address: &IpAddr| match info.query.query_type() {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            other => other == RecordType::ANY,
        };
        let data = addresses.into_iter().filter(wanted).map(|address| match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        });
        Ok((ResponseCode::NoError, data.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect()))
    }

    fn note(&self, line: String) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.requests += 1;
        seen.last.push_back(line);
        if seen.last.len() > 20 {
            seen.last.pop_front();
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let (code, answers) = self.answer(request).unwrap_or_else(|error| {
            eprintln!("{error:#}");
            (ResponseCode::ServFail, Vec::new())
        });
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        // There is nothing to recurse to, but resolvers warn about servers that refuse to.
        metadata.recursion_available = true;
        metadata.response_code = code;
        let response =
            MessageResponseBuilder::from_message_request(request).build(metadata, answers.iter(), [], [], []);
        match to.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                eprintln!("cannot answer {}: {error}", request.src());
                let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}
