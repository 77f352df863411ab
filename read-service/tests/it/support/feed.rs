//! A feed that replays a script, faults of delivery included.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt as _, stream};
use proto::reason::{Error, Reason};
use proto::v1::order_feed_service_server::{OrderFeedService, OrderFeedServiceServer};
use proto::v1::subscribe_response::Message;
use proto::v1::{
    CaughtUp, EventBatch, GetHeadRequest, GetHeadResponse, ReadStreamRequest, ReadStreamResponse,
    RecordedEvent, ScanRequest, ScanResponse, SubscribeRequest, SubscribeResponse,
};
use read_service::subscription::Feed;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::History;

/// What the feed says.
#[derive(Clone, Debug)]
pub struct Script {
    /// What the store holds.
    pub events: Vec<RecordedEvent>,
    /// Identity of the store.
    pub store_id: String,
    /// Positions that the feed loses.
    pub lost: HashSet<i64>,
    /// How often each event is sent.
    pub times: usize,
    /// Events in a batch.
    pub batch: usize,
    /// Positions of events that the feed cannot read: published without their bodies, refused where the stream is read.
    pub unreadable: HashSet<i64>,
    /// Last position that subscriptions are given, wherever the feed ends.
    pub stops_at: i64,
    /// Nothing is answered.
    pub down: bool,
    /// What the next scan reads instead, once.
    pub misread: Vec<RecordedEvent>,
}

/// A feed on a port of its own.
pub struct ScriptedFeed {
    pub feed: Feed,
    pub url: String,
    script: Arc<watch::Sender<Script>>,
    subscribed: Arc<Mutex<Vec<SubscribeRequest>>>,
    given: Arc<AtomicI64>,
}

impl ScriptedFeed {
    pub async fn start(history: &History) -> Self {
        let script = Script {
            events: history.events.clone(),
            store_id: "store-1".to_owned(),
            lost: HashSet::new(),
            times: 1,
            batch: 3,
            unreadable: HashSet::new(),
            stops_at: i64::MAX,
            down: false,
            misread: Vec::new(),
        };
        let script = Arc::new(watch::Sender::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (subscribed, given) = (Arc::default(), Arc::default());
        let room = Room {
            script: Arc::clone(&script),
            subscribed: Arc::clone(&subscribed),
            given: Arc::clone(&given),
        };
        let service = OrderFeedServiceServer::new(room);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { feed: Feed::new(&url).unwrap(), url, script, subscribed, given }
    }

    /// Changes what the feed says from now on; open subscriptions hear it too.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        self.script.send_modify(change);
    }

    /// Every subscription that was asked for.
    pub fn subscribed(&self) -> Vec<SubscribeRequest> {
        self.subscribed.lock().unwrap().clone()
    }

    /// The furthest position that was given to a subscription.
    pub fn given(&self) -> i64 {
        self.given.load(Ordering::Relaxed)
    }

    /// The store now holds this.
    pub fn publish(&self, history: &History) {
        self.change(|script| script.events.clone_from(&history.events));
    }
}

struct Room {
    script: Arc<watch::Sender<Script>>,
    subscribed: Arc<Mutex<Vec<SubscribeRequest>>>,
    given: Arc<AtomicI64>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Room {
    fn script(&self) -> Result<Script, Status> {
        let script = self.script.borrow().clone();
        if script.down {
            return Err(Error::new(Reason::EventStoreDown, "down").into());
        }
        Ok(script)
    }
}

fn head(script: &Script) -> i64 {
    script.events.last().map_or(0, |event| event.position)
}

/// The event as subscriptions and scans give it.
fn published(script: &Script, event: RecordedEvent) -> RecordedEvent {
    let body = event.body.filter(|_| !script.unreadable.contains(&event.position));
    RecordedEvent { body, ..event }
}

/// The next message after a position; `None` where there is nothing to say.
fn next(script: &Script, request: &SubscribeRequest, after: i64) -> Option<(i64, Message)> {
    let head = head(script);
    let through = head.min(script.stops_at).min(after + i64::try_from(script.batch).unwrap());
    let slices = request.slices.as_ref().map_or(0..=i32::MAX, |slices| slices.first..=slices.last);
    let wanted = |event: &&RecordedEvent| {
        let matches = request.categories.is_empty() || request.categories.contains(&event.category);
        let slice = || i32::from(proto::slice::of(event.category(), &event.stream_key));
        matches && !script.lost.contains(&event.position) && slices.contains(&slice())
    };
    let place = |position| script.events.partition_point(|event| event.position <= position);
    let events = script.events[place(after)..place(through)].iter().filter(wanted);
    let events = events.flat_map(|event| vec![published(script, event.clone()); script.times]).collect();
    let batch = EventBatch { events, through_position: through, head_position: head };
    (through > after).then_some((through, Message::Batch(batch)))
}

#[tonic::async_trait]
impl OrderFeedService for Room {
    type SubscribeStream = Answers<SubscribeResponse>;
    type ScanStream = Answers<ScanResponse>;
    type ReadStreamStream = Answers<ReadStreamResponse>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        self.subscribed.lock().unwrap().push(request.clone());
        let script = self.script()?;
        if !request.store_id.is_empty() && request.store_id != script.store_id {
            return Err(Error::new(Reason::StoreChanged, "another store").into());
        }
        if request.after_position > head(&script) {
            return Err(Error::new(Reason::PositionAhead, "beyond the head").into());
        }
        let start = (request.after_position, false, self.script.subscribe(), request);
        let messages = stream::unfold(start, |(after, told, mut script, request)| async move {
            loop {
                let said = {
                    let now = script.borrow_and_update();
                    if now.down {
                        return None;
                    }
                    next(&now, &request, after)
                };
                if let Some((through, message)) = said {
                    return Some((message, (through, false, script, request)));
                }
                if !told {
                    let caught_up = Message::CaughtUp(CaughtUp { position: after });
                    return Some((caught_up, (after, true, script, request)));
                }
                script.changed().await.ok()?;
            }
        });
        let given = Arc::clone(&self.given);
        let answers = messages.map(move |message| {
            if let Message::Batch(batch) = &message {
                given.fetch_max(batch.through_position, Ordering::Relaxed);
            }
            Ok(SubscribeResponse { message: Some(message) })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let ScanRequest { categories, cursor, .. } = request.into_inner();
        let mut script = self.script()?;
        if !script.misread.is_empty() {
            script.events = std::mem::take(&mut script.misread);
            self.script.send_modify(|script| script.misread.clear());
        }
        let resume_position = head(&self.script()?);
        let mut streams: BTreeMap<String, Vec<RecordedEvent>> = BTreeMap::new();
        for event in script.events.iter().filter(|event| categories.contains(&event.category)) {
            let event = RecordedEvent { position: 0, ..published(&script, event.clone()) };
            streams.entry(event.stream_key.clone()).or_default().push(event);
        }
        let estimated_streams = i64::try_from(streams.len()).unwrap();
        let first = ScanResponse { estimated_streams, ..Default::default() };
        let rest = streams.into_iter().filter(move |(key, _)| *key > cursor);
        let messages = rest.map(|(cursor, events)| ScanResponse { events, cursor, ..Default::default() });
        let last = ScanResponse { resume_position: Some(resume_position), ..Default::default() };
        let answers = std::iter::once(first).chain(messages).chain(std::iter::once(last)).map(Ok);
        Ok(Response::new(stream::iter(answers.collect::<Vec<_>>()).boxed()))
    }

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let ReadStreamRequest { category, stream_key, from_version, to_version } = request.into_inner();
        let wanted = |event: &RecordedEvent| {
            let of_stream = event.category == category && event.stream_key == stream_key;
            of_stream && event.version >= from_version && (to_version == 0 || event.version <= to_version)
        };
        let Script { events, unreadable, .. } = self.script()?;
        let events: Vec<_> = events.into_iter().filter(wanted).collect();
        if let Some(event) = events.iter().find(|event| unreadable.contains(&event.position)) {
            let text = format!("event {} cannot be read: its bytes are damaged", event.version);
            return Err(Error::new(Reason::EventUnreadable, text).with("version", event.version).into());
        }
        let answer = stream::iter([Ok(ReadStreamResponse { events })]);
        Ok(Response::new(answer.boxed()))
    }

    async fn get_head(&self, _: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let script = self.script()?;
        let answer =
            GetHeadResponse { head_position: head(&script), store_id: script.store_id, ..Default::default() };
        Ok(Response::new(answer))
    }
}
