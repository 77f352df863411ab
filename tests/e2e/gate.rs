//! A way to a server that fails as networks, proxies and overloaded servers do.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It arrives.
    Open,
    /// Nothing arrives, nobody is told.
    Frozen,
    /// Connections are closed, as by a server that is gone.
    Gone,
    /// Answers take this long.
    Slow(Duration),
    /// Every request is answered with this status, by HTTP.
    Answers(u16),
    /// Answers are cut off in their middle.
    Cut,
}

/// Stands before a server.
pub struct Gate {
    /// Where clients connect to, as host:port.
    pub address: String,
    way: Arc<watch::Sender<Way>>,
}

impl Gate {
    /// A gate before the server at `target`, as host:port; open.
    pub async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let set = Arc::clone(&way);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, way) = (target.clone(), set.subscribe());
                tokio::spawn(async move {
                    // However the connection ends, both sides see its end.
                    if let Ok(far) = TcpStream::connect(target).await {
                        let _ = forward(near, far, way).await;
                    }
                });
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn forward(
    mut near: TcpStream,
    mut far: TcpStream,
    mut way: watch::Receiver<Way>,
) -> std::io::Result<()> {
    let mut gone = way.clone();
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            () = until_gone(&mut gone) => return Ok(()),
            sent = near.read(&mut up) => {
                let sent = sent?;
                let now = passable(&mut way).await;
                if sent == 0 || now == Way::Gone {
                    return Ok(());
                }
                if let Way::Answers(status) = now {
                    let head = format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
                    near.write_all(head.as_bytes()).await?;
                    return near.shutdown().await;
                }
                far.write_all(&up[..sent]).await?;
            }
            sent = far.read(&mut down) => {
                let sent = sent?;
                match passable(&mut way).await {
                    Way::Slow(pause) => tokio::time::sleep(pause).await,
                    Way::Cut => return near.write_all(&down[..sent / 2]).await,
                    _ => {}
                }
                if sent == 0 {
                    return Ok(());
                }
                near.write_all(&down[..sent]).await?;
            }
        }
    }
}

/// The way, once it is not frozen.
async fn passable(way: &mut watch::Receiver<Way>) -> Way {
    way.wait_for(|way| *way != Way::Frozen).await.map_or(Way::Gone, |way| *way)
}

async fn until_gone(way: &mut watch::Receiver<Way>) {
    // A gate that is no more leads nowhere either.
    drop(way.wait_for(|way| *way == Way::Gone).await);
}
