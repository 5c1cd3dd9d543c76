//! Transfers of gigabytes, every byte checked on both sides.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    outcome::Outcome,
    protocol::Bulk,
    report::BulkReport,
    sockets,
    tcp::{Failure, within},
};
use crate::serve::{Direction, TransferHeader, read_pattern, write_pattern};

pub(super) async fn run(bulk: &Bulk) -> BulkReport {
    let start = Instant::now();
    let mut report = BulkReport {
        outcome: Outcome::Ok,
        error: None,
        received: Direction { bytes: 0, intact: false },
        sent_intact: false,
        retransmits: 0,
        elapsed: start.elapsed(),
    };
    let mut stream = None;
    let attempt = async {
        let stream = stream.insert(sockets::tcp(bulk.to, None)?.connect(bulk.to).await?);
        Ok(transfer(stream, bulk).await?)
    };
    match within(bulk.timeout, attempt).await {
        Ok((received, sent_intact)) => (report.received, report.sent_intact) = (received, sent_intact),
        Err(Failure { outcome, text }) => (report.outcome, report.error) = (outcome, Some(text)),
    }
    report.retransmits = stream.as_ref().map(sockets::retransmits).unwrap_or_default();
    report.elapsed = start.elapsed();
    report
}

async fn transfer(stream: &mut TcpStream, bulk: &Bulk) -> std::io::Result<(Direction, bool)> {
    let header = TransferHeader { upload: bulk.upload, download: bulk.download };
    let (mut reader, mut writer) = stream.split();
    writer.write_all(&header.to_bytes()).await?;
    let (received, ()) =
        tokio::try_join!(read_pattern(&mut reader, bulk.download), write_pattern(&mut writer, bulk.upload))?;
    Ok((received, reader.read_u8().await? == 1))
}
