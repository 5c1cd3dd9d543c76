//! Bulk transfers: a header says how many bytes go each way, both directions run at the same time, and each side checks every
//! byte. The server closes with one byte: whether what it received was right.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

const PATTERN_LENGTH: usize = 1_048_573;
const CHUNK: usize = 256 * 1024;

/// What the client announces: bytes in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferHeader {
    pub upload: u64,
    pub download: u64,
}

/// Outcome of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    pub bytes: u64,
    pub intact: bool,
}

impl TransferHeader {
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.upload.to_be_bytes());
        bytes[8..].copy_from_slice(&self.download.to_be_bytes());
        bytes
    }

    async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        Ok(Self { upload: from.read_u64().await?, download: from.read_u64().await? })
    }
}

pub(super) async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.into_split();
            let header = TransferHeader::read(&mut reader).await?;
            let (received, sent) =
                tokio::join!(read_pattern(&mut reader, header.upload), write_pattern(&mut writer, header.download));
            sent?;
            writer.write_u8(u8::from(received?.intact)).await?;
            writer.shutdown().await
        });
    }
}

/// A repeating block whose period is a prime: missing, doubled and moved data all show.
fn pattern() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let bytes = (0..PATTERN_LENGTH + CHUNK).map(|at| {
        if at < PATTERN_LENGTH {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        (state >> 24) as u8
    });
    let mut pattern: Vec<u8> = bytes.collect();
    pattern.copy_within(0..CHUNK, PATTERN_LENGTH);
    pattern
}

pub async fn write_pattern(to: &mut (impl AsyncWrite + Unpin), length: u64) -> io::Result<()> {
    let pattern = pattern();
    let mut done = 0;
    while done < length {
        let at = (done % PATTERN_LENGTH as u64) as usize;
        let chunk = CHUNK.min((length - done).try_into().unwrap_or(CHUNK));
        done += to.write(&pattern[at..at + chunk]).await? as u64;
    }
    to.flush().await
}

pub async fn read_pattern(from: &mut (impl AsyncRead + Unpin), length: u64) -> io::Result<Direction> {
    let pattern = pattern();
    let mut buffer = vec![0; CHUNK];
    let mut received = Direction { bytes: 0, intact: true };
    while received.bytes < length {
        let want = CHUNK.min((length - received.bytes).try_into().unwrap_or(CHUNK));
        let count = from.read(&mut buffer[..want]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = (received.bytes % PATTERN_LENGTH as u64) as usize;
        received.intact &= buffer[..count] == pattern[at..at + count];
        received.bytes += count as u64;
    }
    Ok(received)
}
