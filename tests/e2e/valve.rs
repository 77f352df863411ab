//! A connection that can be frozen: what is sent stays on the way until it thaws. Nothing is cut, nobody is told.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Stands before a server.
pub struct Valve {
    /// Where clients connect to, as host:port.
    pub address: String,
    open: Arc<watch::Sender<bool>>,
}

impl Valve {
    /// A valve before the server at `target`, as host:port; open.
    pub async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(watch::Sender::new(true));
        let valve = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(forward(near.0, far.1, valve.subscribe()));
                tokio::spawn(forward(far.0, near.1, valve.subscribe()));
            }
        });
        Self { address, open }
    }

    pub fn freeze(&self) {
        self.open.send_replace(false);
    }

    pub fn thaw(&self) {
        self.open.send_replace(true);
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
}
