//! A way to Elasticsearch on which one chosen request is held, before it arrives or once it is done: whoever sent it stands there.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::world::PATIENCE;

/// The request that shall be held.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How it begins.
    pub begins: String,
    /// What stands somewhere in it.
    pub contains: String,
    /// So many like it pass first.
    pub after: usize,
    /// Elasticsearch has done it; only its answer is held.
    pub done: bool,
}

/// Stands before Elasticsearch.
pub struct Turnstile {
    /// Where clients connect to, as host:port.
    pub address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    wanted: Mutex<Option<Wanted>>,
    held: watch::Sender<bool>,
}

impl Turnstile {
    /// A turnstile before the server at `target`, as host:port; all pass.
    pub async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, state) = (target.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // However the connection ends, both sides see its end.
                    if let Ok(far) = TcpStream::connect(target).await {
                        let _ = forward(near, far, &state).await;
                    }
                });
            }
        });
        Self { address, state }
    }

    /// The next request like this is held.
    pub fn hold(&self, wanted: Wanted) {
        *self.state.wanted.lock().unwrap() = Some(wanted);
    }

    /// Whether it stands there.
    pub fn is_held(&self) -> bool {
        *self.state.held.borrow()
    }

    /// Waits until it stands there.
    pub async fn holds(&self) {
        let mut held = self.state.held.subscribe();
        let holds = timeout(PATIENCE, held.wait_for(|held| *held)).await.map(drop);
        holds.unwrap_or_else(|_| panic!("none came like {:?}", self.state.wanted.lock().unwrap()));
    }

    /// Lets it pass.
    pub fn let_go(&self) {
        self.state.held.send_replace(false);
    }
}

async fn forward(mut near: TcpStream, mut far: TcpStream, state: &State) -> std::io::Result<()> {
    let (mut up, mut down) = (Vec::with_capacity(64 * 1024), vec![0; 64 * 1024]);
    let mut answer: Option<Wanted> = None;
    loop {
        tokio::select! {
            sent = near.read_buf(&mut up) => {
                if sent? == 0 {
                    return Ok(());
                }
                while let Some(length) = length(&up) {
                    let request: Vec<u8> = up.drain(..length).collect();
                    if let Some(wanted) = state.take(&request, false) {
                        state.stand(&mut near, &mut far, wanted).await?;
                    }
                    answer = state.take(&request, true);
                    far.write_all(&request).await?;
                }
            }
            sent = far.read(&mut down) => {
                let sent = sent?;
                if sent == 0 {
                    return Ok(());
                }
                let more = match answer.take() {
                    Some(wanted) => state.stand(&mut near, &mut far, wanted).await?,
                    None => Vec::new(),
                };
                near.write_all(&down[..sent]).await?;
                near.write_all(&more).await?;
            }
        }
    }
}

impl State {
    /// Takes what is wanted, where this is it: it is held once.
    fn take(&self, request: &[u8], done: bool) -> Option<Wanted> {
        let mut wanted = self.wanted.lock().unwrap();
        let next = wanted.as_mut().filter(|wanted| wanted.done == done)?;
        let request = String::from_utf8_lossy(request);
        if !request.starts_with(&next.begins) || !request.contains(&next.contains) {
            return None;
        }
        if next.after > 0 {
            next.after -= 1;
            return None;
        }
        wanted.take()
    }

    /// Stands until it may pass; gives what the server sent meanwhile. Where the server is gone, there is nothing to wait for;
    /// where whoever sent it hangs up, the next like it is held.
    async fn stand(
        &self,
        near: &mut TcpStream,
        far: &mut TcpStream,
        wanted: Wanted,
    ) -> std::io::Result<Vec<u8>> {
        let mut held = self.held.subscribe();
        self.held.send_replace(true);
        let mut more = Vec::new();
        loop {
            let gone = tokio::select! {
                _ = held.wait_for(|held| !*held) => return Ok(more),
                sent = far.read_buf(&mut more) => !matches!(sent, Ok(1..)),
                sent = near.read_u8() => {
                    assert!(sent.is_err(), "whoever waits for an answer sends nothing");
                    *self.wanted.lock().unwrap() = Some(wanted.clone());
                    true
                }
            };
            if gone {
                self.held.send_replace(false);
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

/// Bytes of the first request, once it is whole.
fn length(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let head = bytes.windows(END.len()).position(|window| window == END)? + END.len();
    let text = String::from_utf8_lossy(&bytes[..head]);
    let body = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let whole = head + body.unwrap_or(0);
    (bytes.len() >= whole).then_some(whole)
}
