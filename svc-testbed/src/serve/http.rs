//! HTTP/1.1 with keep-alive. `GET /?reply=N` is answered with N bytes; a host with a page answers `GET /` with that page.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::answer::Host;

pub(super) async fn serve(listener: TcpListener, host: Arc<Host>) {
    let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    loop {
        // An accept that fails has lost that one connection; the listener itself stays good.
        let Ok((stream, client)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        host.note_connection();
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, port, client, Arc::clone(&host)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    port: u16,
    client: SocketAddr,
    host: Arc<Host>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().map(str::to_owned);
    let page = if query.is_none() && request.uri().path() == "/" { host.welcome.clone() } else { None };
    let mut response = Response::new(Full::default());
    let Ok(body) = request.into_body().collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let body = body.to_bytes();
    host.note_request(client, port, body.len());
    let content = match page {
        Some(page) => format!("{page}\n").into_bytes(),
        None => host.answer(port, client, &body, query.as_deref().and_then(reply_length).unwrap_or(0)),
    };
    *response.body_mut() = Full::new(Bytes::from(content));
    Ok(response)
}

fn reply_length(query: &str) -> Option<usize> {
    query.split('&').find_map(|pair| pair.strip_prefix("reply=")).and_then(|length| length.parse().ok())
}
