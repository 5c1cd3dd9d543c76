//! `nslookup` for machines that have none: the same question, the same shape of output, over UDP or TCP, with the search list of
//! resolv.conf.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub struct LookupArgs {
    pub name: String,
    /// Ask over TCP
    #[arg(long)]
    pub tcp: bool,
}

struct Resolver {
    server: SocketAddr,
    search: Vec<String>,
    dots: usize,
    tcp: bool,
}

pub fn run(args: &LookupArgs) -> Result<()> {
    let resolver = Resolver::read(args.tcp)?;
    let mut output = format!("Server:\t\t{}\nAddress:\t{}#53\n\n", resolver.server.ip(), resolver.server.ip());
    for name in resolver.candidates(&args.name) {
        let mut addresses = Vec::new();
        let mut exists = false;
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = resolver.ask(&name, kind)?;
            exists |= answer.metadata.response_code == ResponseCode::NoError;
            addresses.extend(answer.answers.iter().filter_map(|record| match record.data {
                RData::A(address) => Some(IpAddr::from(address.0)),
                RData::AAAA(address) => Some(IpAddr::from(address.0)),
                _ => None,
            }));
        }
        for address in &addresses {
            let _ = writeln!(output, "Name:\t{name}\nAddress: {address}");
        }
        if exists {
            println!("{output}");
            return Ok(());
        }
    }
    print!("{output}");
    println!("** server can't find {}: NXDOMAIN\n", args.name);
    bail!("no such name: {}", args.name)
}

impl Resolver {
    fn read(tcp: bool) -> Result<Self> {
        let text = fs::read_to_string("/etc/resolv.conf").context("cannot read /etc/resolv.conf")?;
        let words = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let server: IpAddr =
            words("nameserver").first().and_then(|word| word.parse().ok()).context("resolv.conf names no server")?;
        let dots = words("options").iter().find_map(|word| word.strip_prefix("ndots:")?.parse().ok()).unwrap_or(1);
        Ok(Self { server: SocketAddr::new(server, 53), search: words("search"), dots, tcp })
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let dots = name.matches('.').count();
        if dots >= self.dots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain([name.to_owned()]).collect()
        }
    }

    fn ask(&self, name: &str, kind: RecordType) -> Result<Message> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_utf8(format!("{name}."))?, kind));
        question.metadata.recursion_desired = true;
        let bytes = question.to_vec()?;
        let answer = if self.tcp { self.over_tcp(&bytes) } else { self.over_udp(&bytes) };
        let answer = answer.with_context(|| format!("no answer from {}", self.server))?;
        Ok(Message::from_vec(&answer)?)
    }

    fn over_udp(&self, question: &[u8]) -> Result<Vec<u8>> {
        let any = if self.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(self.server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(question)?;
        let mut buffer = vec![0; 4096];
        let length = socket.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    fn over_tcp(&self, question: &[u8]) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut framed = u16::try_from(question.len())?.to_be_bytes().to_vec();
        framed.extend(question);
        stream.write_all(&framed)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}
