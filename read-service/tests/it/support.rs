//! What the tests share: a private Elasticsearch, histories of events, a scripted feed, a connection that can be cut.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use proto::v1::recorded_event::Body;
use proto::v1::{
    CustomerRegistered, ItemAdded, Money, OrderCancelled, OrderConfirmed, OrderCreated, OrderSubmitted,
    RecordedEvent, StreamCategory,
};
use read_service::feeds::Feeds;
use read_service::index::Index;
use read_service::lease::{self, RANGES, Times};
use read_service::parking::{self, Lot, Parking, Retried, RetryError};
use read_service::projection::Projection;
use read_service::projector::{Limits, Progress, Projector, Step};
use read_service::subscription::Feed;
use serde_json::Value;
use shared::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;

pub mod feed;
pub mod proxy;

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Elasticsearch and names of one test's own.
pub struct Search {
    pub url: String,
    pub index: Index,
    pub prefix: String,
    raw: Transport,
}

impl Search {
    pub async fn start(name: &str) -> Self {
        Self::at(local::testing::elasticsearch().await.unwrap(), name)
    }

    /// The same on another node.
    pub fn at(url: String, name: &str) -> Self {
        let pool = SingleNodeConnectionPool::new(url.parse().unwrap());
        Self {
            index: Index::new(&url).unwrap(),
            prefix: local::testing::unique_prefix(name),
            raw: TransportBuilder::new(pool).disable_proxy().build().unwrap(),
            url,
        }
    }

    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A request past the service, for looking behind it and for breaking things.
    pub async fn raw(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let body = body.map(|body| body.to_string());
        let sent = self.raw.send(method, path, HeaderMap::new(), None::<&()>, body, Some(DEADLINE)).await;
        sent.unwrap().json().await.unwrap()
    }

    pub fn projector<P: Projection>(&self, feed: &Feed) -> Projector<P> {
        self.projector_with(feed, quick())
    }

    pub fn projector_with<P: Projection>(&self, feed: &Feed, limits: Limits) -> Projector<P> {
        let copy = local::testing::unique_prefix("copy");
        Projector::new(self.index.clone(), feed.clone(), &self.prefix, copy, limits, Clock::system())
    }

    /// Paths of the records of all ranges of slices of the first index of a projection.
    fn ranges<P: Projection>(&self) -> Vec<String> {
        let name = format!("/{}/_doc/range:{}-v1-1", self.name("control"), self.name(P::NAME));
        (0..RANGES).map(|range| format!("{name}:{:04}", lease::slices(range..=range).0)).collect()
    }

    /// The checkpoint of the first index of a projection, as it is stored.
    pub async fn checkpoint<P: Projection>(&self) -> i64 {
        self.least::<P>("position").await
    }

    /// How often each of its ranges was written by its owner, at least.
    pub async fn beats<P: Projection>(&self) -> i64 {
        self.least::<P>("beat").await
    }

    async fn least<P: Projection>(&self, field: &str) -> i64 {
        let mut least = i64::MAX;
        for path in self.ranges::<P>() {
            least = least.min(self.raw(Method::Get, &path, None).await["_source"][field].as_i64().unwrap());
        }
        least
    }

    /// Makes it forget how far the first index of a projection is.
    pub async fn forget_checkpoint<P: Projection>(&self) {
        for path in self.ranges::<P>() {
            self.raw(Method::Delete, &path, None).await;
        }
    }

    /// The parked streams of the first index of a projection, as a copy of the service that knows nothing.
    pub async fn parking<P: Projection>(&self) -> Parking {
        let target = self.name(&format!("{}-v1-1", P::NAME));
        Parking::load::<P>(self.index.clone(), self.name("control"), target, Clock::system()).await.unwrap()
    }

    /// Retries a parked stream of the first index of a projection, as a copy of the service that projects nothing.
    pub async fn retry<P: Projection>(&self, feed: &Feed, key: &str) -> Result<Retried, RetryError> {
        let (index, alias) = (self.index.clone(), self.name(P::NAME));
        let progress = Progress::new(P::NAME, index.clone(), alias, Clock::system());
        let feeds = Feeds::new::<P>(index.clone(), &self.prefix, progress);
        let target = self.name(&format!("{}-v1-1", P::NAME));
        parking::retry::<P>(&Lot { index, feed: feed.clone(), feeds, target }, key).await
    }

    /// The stored document in real time and its version in the index.
    pub async fn document<P: Projection>(&self, key: &str) -> Option<(i64, P::Document)> {
        let found = self.index.get::<P::Document>(&self.name(P::NAME), key).await.unwrap();
        found.map(|found| (found.version, found.source))
    }
}

/// Limits under which a copy that is not driven any more loses its leases soon.
pub fn quick() -> Limits {
    let millis = Duration::from_millis;
    let leases = Times { look: millis(50), renew: millis(100), hold: millis(600), expire: millis(800) };
    Limits { leases, ..Limits::default() }
}

/// Steps until everything up to `position` is applied.
pub async fn drive<P: Projection>(projector: &mut Projector<P>, position: i64) {
    let applied = async {
        while projector.progress().snapshot().applied_position < position {
            projector.step().await.unwrap();
        }
    };
    let reached = tokio::time::timeout(DEADLINE, applied).await;
    reached.unwrap_or_else(|_| panic!("not applied in time: {projector:?}"));
}

/// Steps until a step does this.
pub async fn until<P: Projection>(projector: &mut Projector<P>, wanted: Step) {
    let reached = async { while projector.step().await.unwrap() != wanted {} };
    tokio::time::timeout(DEADLINE, reached).await.unwrap_or_else(|_| panic!("no {wanted:?}: {projector:?}"));
}

/// Events as an event store would hold them.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub events: Vec<RecordedEvent>,
}

impl History {
    /// Gives an id to each event that has none.
    pub fn identified(mut self) -> Self {
        for event in self.events.iter_mut().filter(|event| event.event_id.is_empty()) {
            event.event_id = uuid::Uuid::now_v7().to_string();
        }
        self
    }

    /// Adds the next event of a stream.
    pub fn add(&mut self, category: StreamCategory, key: &str, body: Option<Body>) -> &mut Self {
        let of_stream = |event: &&RecordedEvent| event.category() == category && event.stream_key == key;
        let version = i64::try_from(self.events.iter().filter(of_stream).count()).unwrap() + 1;
        self.push(category, key, version, body);
        self
    }

    /// Adds the event of a stream with this version.
    pub fn push(&mut self, category: StreamCategory, key: &str, version: i64, body: Option<Body>) {
        let position = self.head() + 1;
        self.events.push(RecordedEvent {
            position,
            category: category.into(),
            stream_key: key.to_owned(),
            version,
            recorded_time: Some(proto::time::from_nanos(1_700_000_000_000_000_000 + position * 1_000_000)),
            body,
            ..RecordedEvent::default()
        });
    }

    pub fn order(&mut self, key: &str, body: Body) -> &mut Self {
        self.add(StreamCategory::Order, key, Some(body))
    }

    /// An event of a type that this release does not know.
    pub fn unknown(&mut self, key: &str) -> &mut Self {
        self.add(StreamCategory::Order, key, None)
    }

    pub fn customer(&mut self, key: &str, name: &str) -> &mut Self {
        let body = CustomerRegistered { customer_id: key.to_owned(), name: name.to_owned() };
        self.add(StreamCategory::Customer, key, Some(Body::CustomerRegistered(body)))
    }

    pub fn head(&self) -> i64 {
        i64::try_from(self.events.len()).unwrap()
    }

    /// The events of one stream.
    pub fn stream<'a>(
        &'a self,
        category: StreamCategory,
        key: &'a str,
    ) -> impl Iterator<Item = &'a RecordedEvent> {
        self.events.iter().filter(move |event| event.category() == category && event.stream_key == key)
    }

    /// What the document of a stream must be.
    pub fn folded<P: Projection>(&self, key: &str) -> P::Document {
        read_service::projection::fold::<P>(self.stream(P::CATEGORY, key)).unwrap().unwrap()
    }
}

pub fn created(key: &str, reference: &str) -> Body {
    Body::OrderCreated(OrderCreated {
        order_id: key.to_owned(),
        customer_id: "17850".to_owned(),
        customer_name: "José Müller".to_owned(),
        currency_code: "GBP".to_owned(),
        reference: reference.to_owned(),
        delivery_country: "United Kingdom".to_owned(),
        placed_time: Some(proto::time::from_nanos(1_322_727_960_123_456_789)),
    })
}

pub fn added(line: i32, quantity: i32, unit_price: i64) -> Body {
    Body::ItemAdded(ItemAdded {
        line,
        product_id: "85123A".to_owned(),
        product_name: "WHITE HANGING HEART".to_owned(),
        quantity,
        unit_price: Some(Money { currency_code: "GBP".to_owned(), minor_units: unit_price }),
        subtotal: Some(Money {
            currency_code: "GBP".to_owned(),
            minor_units: i64::from(quantity) * unit_price,
        }),
    })
}

pub fn submitted(total: i64) -> Body {
    let total = Some(Money { currency_code: "GBP".to_owned(), minor_units: total });
    Body::OrderSubmitted(OrderSubmitted { total })
}

pub fn confirmed() -> Body {
    Body::OrderConfirmed(OrderConfirmed {})
}

pub fn cancelled() -> Body {
    Body::OrderCancelled(OrderCancelled { reason: "lost".to_owned() })
}

/// A connection to a server that can be cut and restored.
pub struct Cable {
    pub url: String,
    whole: Arc<watch::Sender<bool>>,
}

impl Cable {
    pub async fn to(url: &str) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let whole = Arc::new(watch::Sender::new(true));
        let state = Arc::clone(&whole);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (target, mut state) = (target.clone(), state.subscribe());
                tokio::spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { url, whole }
    }

    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn restore(&self) {
        self.whole.send_replace(true);
    }
}

/// A connection to Elasticsearch that counts the requests whose line begins with a text.
pub struct Meter {
    pub url: String,
    counted: Arc<AtomicUsize>,
}

impl Meter {
    pub async fn before(url: &str, line: String) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let counted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&counted);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(counting(near.0, far.1, line.clone(), Arc::clone(&count)));
                tokio::spawn(async move {
                    let (mut from, mut to) = (far.0, near.1);
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Self { url, counted }
    }

    pub fn count(&self) -> usize {
        self.counted.load(Ordering::SeqCst)
    }
}

async fn counting(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: String,
    counted: Arc<AtomicUsize>,
) {
    let line = line.as_bytes();
    let mut seen = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        // The end of what came before may be the beginning of the text.
        seen.extend_from_slice(&buffer[..size]);
        let found = seen.windows(line.len()).filter(|window| *window == line).count();
        counted.fetch_add(found, Ordering::SeqCst);
        seen.drain(..seen.len().saturating_sub(line.len() - 1));
        if to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
}

/// `read-service serve` as a process of its own, over this Elasticsearch and this feed; silent, and killed when dropped.
pub fn serve(search: &Search, feed: &feed::ScriptedFeed) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_read-service"));
    command
        .arg("serve")
        .env("METRICS_LISTEN", "127.0.0.1:0")
        .arg(format!("--elasticsearch-url={}", search.url))
        .arg(format!("--feed-url={}", feed.url))
        .arg(format!("--index-prefix={}", search.prefix))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}
