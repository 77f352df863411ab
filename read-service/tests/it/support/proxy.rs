//! A proxy before Elasticsearch that answers bulks of documents in its place, or spoils the way there and back, as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What becomes of one bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The whole request is answered with this status.
    Status(u16),
    /// Every second document, from the first on, is refused with this status and type; the others pass.
    EverySecond(u16, &'static str),
    /// The connection ends before the request has arrived.
    CutRequest,
    /// It passes; half of the answer arrives, then the connection ends.
    CutAnswer,
    /// It passes; the answer waits until the proxy is told to let go.
    Stall,
}

/// A bulk that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Ids of its documents.
    pub ids: Vec<String>,
    /// Bytes of its body.
    pub bytes: usize,
    /// What became of it; `None` where it passed.
    pub fault: Option<Fault>,
}

/// A proxy on a port of its own. Everything but bulks into `index` passes.
#[derive(Clone)]
pub struct Proxy {
    pub url: String,
    state: Arc<State>,
}

struct State {
    target: String,
    path: String,
    faults: Mutex<VecDeque<Fault>>,
    limit: Mutex<usize>,
    seen: Mutex<Vec<Seen>>,
    go_on: Notify,
}

impl Proxy {
    pub async fn before(url: &str, index: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url_of_proxy = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            target: url.trim_start_matches("http://").to_owned(),
            path: format!(" /{index}/_bulk"),
            faults: Mutex::default(),
            limit: Mutex::new(usize::MAX),
            seen: Mutex::default(),
            go_on: Notify::new(),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // Whoever hangs up ends it.
                tokio::spawn(async move { serve(near, &state).await.ok() });
            }
        });
        Self { url: url_of_proxy, state }
    }

    /// The next bulks meet these, one each.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().unwrap().extend(faults);
    }

    /// Faults that no bulk has met yet.
    pub fn left(&self) -> usize {
        self.state.faults.lock().unwrap().len()
    }

    /// Bodies larger than this are refused from now on.
    pub fn limit(&self, bytes: usize) {
        *self.state.limit.lock().unwrap() = bytes;
    }

    /// Answers that wait may go.
    pub fn go_on(&self) {
        self.state.go_on.notify_waiters();
    }

    /// What arrived since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }

    /// What arrived and was not asked for yet.
    pub fn peek(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

async fn serve(near: TcpStream, state: &State) -> std::io::Result<()> {
    let mut near = BufReader::new(near);
    let mut far = BufReader::new(TcpStream::connect(&state.target).await?);
    loop {
        let (head, body) = message(&mut near).await?;
        let fault =
            head.lines().next().is_some_and(|line| line.contains(&state.path)).then(|| state.fault(&body));
        match fault.flatten() {
            None => {
                let answer = forward(&mut far, &head, &body).await?;
                near.write_all(&answer).await?;
            }
            Some(Fault::Status(status)) => near.write_all(&response(status, "")).await?,
            Some(Fault::EverySecond(status, kind)) => {
                let lines: Vec<_> = body.split_inclusive(|byte| *byte == b'\n').collect();
                let pass: Vec<_> =
                    lines.chunks(2).skip(1).step_by(2).flatten().copied().flatten().copied().collect();
                let mut passed = VecDeque::new();
                if !pass.is_empty() {
                    let answer = forward(&mut far, &with_length(&head, pass.len()), &pass).await?;
                    // It may come as a chunk, which stands between other lines.
                    let text = String::from_utf8(answer).unwrap();
                    let (_, json) = text.split_once("\r\n\r\n").unwrap();
                    let json = &json[json.find('{').unwrap()..=json.rfind('}').unwrap()];
                    let answer: Value = serde_json::from_str(json).unwrap();
                    passed.extend(answer["items"].as_array().unwrap().clone());
                }
                let items: Vec<_> = (0..lines.len() / 2)
                    .map(|item| {
                        if item % 2 == 0 {
                            json!({ "index": { "status": status, "error": { "type": kind } } })
                        } else {
                            passed.pop_front().unwrap()
                        }
                    })
                    .collect();
                near.write_all(&response(200, &json!({ "items": items }).to_string())).await?;
            }
            Some(Fault::CutRequest) => return Ok(()),
            Some(Fault::CutAnswer) => {
                let answer = forward(&mut far, &head, &body).await?;
                near.write_all(&answer[..answer.len() / 2]).await?;
                return near.flush().await;
            }
            Some(Fault::Stall) => {
                let answer = forward(&mut far, &head, &body).await?;
                state.go_on.notified().await;
                near.write_all(&answer).await?;
            }
        }
        near.flush().await?;
    }
}

impl State {
    fn fault(&self, body: &[u8]) -> Option<Fault> {
        let fault = if body.len() > *self.limit.lock().unwrap() {
            Some(Fault::Status(413))
        } else {
            self.faults.lock().unwrap().pop_front()
        };
        let actions = body.split(|byte| *byte == b'\n').step_by(2).filter(|line| !line.is_empty());
        let id = |line| {
            serde_json::from_slice::<Value>(line).unwrap()["index"]["_id"].as_str().unwrap().to_owned()
        };
        let ids = actions.map(id).collect();
        self.seen.lock().unwrap().push(Seen { ids, bytes: body.len(), fault });
        fault
    }
}

/// The head of a request or an answer, with the empty line.
async fn head_of(from: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A request or an answer: its head and its body.
async fn message(from: &mut BufReader<TcpStream>) -> std::io::Result<(String, Vec<u8>)> {
    let head = head_of(from).await?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).await?;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        // As it came: whoever gets it reads chunks too.
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(from.read_u8().await?);
        }
    }
    Ok((head, body))
}

async fn forward(far: &mut BufReader<TcpStream>, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    far.write_all(head.as_bytes()).await?;
    far.write_all(body).await?;
    far.flush().await?;
    let (answer, body) = if head.starts_with("HEAD ") {
        head_of(far).await.map(|head| (head, Vec::new()))
    } else {
        message(far).await
    }?;
    Ok([answer.into_bytes(), body].concat())
}

/// The head of a request with another length, whose answer is to come as it is.
fn with_length(head: &str, length: usize) -> String {
    let plain = |line: &&str| !line.to_ascii_lowercase().starts_with("accept-encoding:");
    let lines = head.lines().filter(plain).map(|line| match line.split_once(':') {
        Some((name, _)) if name.eq_ignore_ascii_case("content-length") => format!("{name}: {length}\r\n"),
        _ => format!("{line}\r\n"),
    });
    lines.collect()
}

fn response(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body.as_bytes()].concat()
}
