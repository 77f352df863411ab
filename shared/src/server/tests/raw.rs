//! A client without timers of its own: shows what the server itself says about a deadline.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use tokio::net::TcpStream;

use super::*;

/// What came back.
pub struct Answer {
    /// Messages before the end.
    pub messages: usize,
    /// The end, from the head or the trailers.
    pub status: Status,
}

/// Calls `path` with `text` and `grpc-timeout`.
pub async fn call(address: SocketAddr, path: &str, text: &str, grpc_timeout: &str) -> Answer {
    timeout(SOON, answer(address, path, text, grpc_timeout)).await.unwrap()
}

async fn answer(address: SocketAddr, path: &str, text: &str, grpc_timeout: &str) -> Answer {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", grpc_timeout)
        .body(())
        .unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(message(text), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        length += data.len();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    connection.abort();
    Answer { messages: length / message(text).len(), status: status(&head.headers, &trailers) }
}

/// A message as it stands in a body: not compressed, its length, then field 1 of a `StringValue`.
fn message(text: &str) -> Bytes {
    let value = text.to_owned().encode_to_vec();
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(value.len()).unwrap());
    bytes.put_slice(&value);
    bytes.freeze()
}

fn status(head: &HeaderMap, trailers: &HeaderMap) -> Status {
    Status::from_header_map(trailers).or_else(|| Status::from_header_map(head)).unwrap()
}
