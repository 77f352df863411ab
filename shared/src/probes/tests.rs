use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::telemetry::metrics;

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_tell_what_is_missing_and_outlive_draining() {
    let lifecycle = Lifecycle::new(Duration::from_mins(1));
    let readiness = Readiness::new();
    let (store, lease) = (readiness.condition("event store"), readiness.condition("lease"));
    let listener = crate::server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, readiness, metrics::handle(), &lifecycle);
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    lifecycle.spawn("worker", async move { Ok(finished.await?) });

    let answer = get(address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: event store, lease\n"),
        "{answer}"
    );
    store.set(true);
    lease.set(true);
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    store.set(false);
    assert!(get(address, "/readyz").await.ends_with("not ready: event store\n"));
    store.set(true);
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/metrics").await.contains("text/plain; version=0.0.4"));

    lifecycle.drain();
    let answer = get(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: draining\n"), "{answer}");
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    finish.send(()).unwrap();
    lifecycle.stopped().await;
    assert!(TcpStream::connect(address).await.is_err());
}
