//! Answers every datagram. A request that begins with seven decimal digits asks for an answer of that many bytes.

use std::sync::Arc;

use tokio::net::UdpSocket;

use super::answer::Host;

/// Digits at the head of a request.
pub(crate) const LENGTH_DIGITS: usize = 7;

pub(super) async fn serve(socket: UdpSocket, host: Arc<Host>) {
    let port = socket.local_addr().map(|address| address.port()).unwrap_or_default();
    let mut buffer = vec![0; 65_536];
    loop {
        // Errors of earlier answers (ICMP) surface here; the socket itself stays good.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let request = &buffer[..length];
        host.note_datagram(client, port, length);
        let answer = host.answer(port, client, request, reply_length(request).unwrap_or(0));
        let _ = socket.send_to(&answer, client).await;
    }
}

fn reply_length(request: &[u8]) -> Option<usize> {
    std::str::from_utf8(request.get(..LENGTH_DIGITS)?).ok()?.parse().ok()
}
