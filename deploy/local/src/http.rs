//! One GET or PUT to a server on this machine: enough to ask probes and Elasticsearch's health, and to change its settings.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);

/// Status and body of the answer to `GET path`, within five seconds.
///
/// # Errors
/// Where the server does not answer, or not in HTTP.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    within_limit(address, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

/// Status and body of the answer to `PUT path` with this JSON, within five seconds.
///
/// # Errors
/// As [`get`].
pub async fn put(address: SocketAddr, path: &str, json: &str) -> anyhow::Result<(u16, String)> {
    let length = json.len();
    let head = format!(
        "PUT {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}"
    );
    within_limit(address, format!("{head}\r\n\r\n{json}")).await
}

async fn within_limit(address: SocketAddr, request: String) -> anyhow::Result<(u16, String)> {
    timeout(LIMIT, exchange(address, &request)).await.with_context(|| format!("{address} does not answer"))?
}

// HTTP 1.0: the answer comes in one piece and the connection ends with it.
async fn exchange(address: SocketAddr, request: &str) -> anyhow::Result<(u16, String)> {
    let mut stream =
        TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.write_all(request.as_bytes()).await.with_context(|| format!("cannot write to {address}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.with_context(|| format!("cannot read from {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("{address} does not speak HTTP"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("{address} does not speak HTTP"))?, body.to_owned()))
}
