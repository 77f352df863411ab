//! The task that follows orders for everyone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use proto::v1::{RecordedEvent, StreamCategory};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::followed::{Followed, Reading, read};
use super::recent::{Recent, Shown};
use super::tail::{Tail, Told};
use super::{Sources, WatchError};
use crate::projection::{Customers, OrderDocument, Orders, Projection};
use crate::subscription::FeedError;

/// How often orders that nobody follows any more are dropped, and what could not be read is read again.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Documents that are read at once.
const READS: usize = 16;

/// A caller who wants to follow an order.
#[derive(Debug)]
pub struct Join {
    pub order_id: String,
    pub reply: oneshot::Sender<Result<watch::Receiver<Recent>, WatchError>>,
}

/// Everything that is followed.
pub struct Room {
    sources: Sources,
    /// Bytes of orders that may be followed.
    limit: usize,
    orders: HashMap<String, Order>,
    customers: HashMap<String, Customer>,
    /// Bytes of the orders.
    bytes: usize,
    tail: Tail,
    reads: FuturesUnordered<BoxFuture<'static, Done>>,
    turns: Arc<Semaphore>,
}

struct Order {
    followed: Followed<Orders>,
    recent: watch::Sender<Recent>,
}

struct Customer {
    followed: Followed<Customers>,
    /// It was asked for once: the orders need not wait for it.
    asked: bool,
}

enum Done {
    Order(Box<Reading<Orders>>),
    Customer(Box<Reading<Customers>>),
}

impl Room {
    pub fn new(sources: Sources, limit: usize) -> Self {
        Self {
            limit,
            orders: HashMap::new(),
            customers: HashMap::new(),
            bytes: 0,
            tail: Tail::new(sources.feed.clone(), sources.orders.clone()),
            reads: FuturesUnordered::new(),
            turns: Arc::new(Semaphore::new(READS)),
            sources,
        }
    }

    /// Follows until nobody can ask any more. Reads nothing while nobody follows anything.
    pub async fn run(mut self, mut joins: mpsc::Receiver<Join>) {
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.orders.is_empty() {
                self = Self::new(self.sources, self.limit);
                self.record();
                match joins.recv().await {
                    Some(join) => self.join(join),
                    None => return,
                }
            }
            tokio::select! {
                join = joins.recv() => match join {
                    Some(join) => self.join(join),
                    None => return,
                },
                Some(done) = self.reads.next() => self.read(done),
                told = self.tail.next() => self.told(told),
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn join(&mut self, join: Join) {
        if let Some(order) = self.orders.get(&join.order_id) {
            drop(join.reply.send(Ok(order.recent.subscribe())));
            return;
        }
        if self.bytes >= self.limit {
            self.sweep();
        }
        if self.bytes >= self.limit {
            drop(join.reply.send(Err(WatchError::Full)));
            return;
        }
        let (recent, state) = watch::channel(Recent::default());
        let order = Order { followed: Followed::new(), recent };
        self.orders.insert(join.order_id.clone(), order);
        drop(join.reply.send(Ok(state)));
        if self.tail.tells() || self.tail.is_interrupted() {
            self.read_order(&join.order_id);
        }
    }

    fn told(&mut self, told: Result<Told, FeedError>) {
        match told {
            Ok(Told::Opened) => {
                // What was read before may lack what happened before the tail begins.
                self.orders.values_mut().for_each(|order| order.followed.doubt());
                self.customers.values_mut().for_each(|customer| customer.followed.doubt());
                self.read_all_due();
            }
            Ok(Told::Events(events)) => events.iter().for_each(|event| self.hear(event)),
            Ok(Told::Nothing) => {}
            // Who waits for the tail gets what the index has.
            Ok(Told::Interrupted(_)) => self.read_all_new(),
            Err(error) => {
                tracing::error!(%error, "watched orders do not go on");
                for (_, order) in self.orders.drain() {
                    order.recent.send_modify(|recent| recent.end(WatchError::Feed(error.clone())));
                }
            }
        }
    }

    fn hear(&mut self, event: &RecordedEvent) {
        let key = event.stream_key.as_str();
        match event.category() {
            StreamCategory::Order => {
                let Some(order) = self.orders.get_mut(key) else { return };
                match order.followed.hear(event) {
                    Ok(true) => self.show(key),
                    Ok(false) => self.read_order(key),
                    Err(error) => self.end(key, error),
                }
            }
            StreamCategory::Customer => {
                let Some(customer) = self.customers.get_mut(key) else { return };
                // A customer that cannot be read keeps the name that is known; no order depends on it.
                let _ = customer.followed.hear(event);
                self.read_customer(key);
            }
            StreamCategory::Product | StreamCategory::Unspecified => {}
        }
    }

    /// What was read is there.
    fn read(&mut self, done: Done) {
        match done {
            Done::Order(reading) => {
                let key = reading.key.clone();
                let Some(order) = self.orders.get_mut(&key) else { return };
                let mut versions = Vec::new();
                let taken = order.followed.take(*reading, |order| versions.push(order.clone()));
                let Some(document) = order.followed.document() else {
                    return self.end(&key, taken.err().unwrap_or(WatchError::NotFound));
                };
                let customer_id = document.customer_id.clone();
                if let Some(Customer { asked: true, .. }) = self.customers.get(&customer_id) {
                    // Who begins to follow is shown the newest.
                    let first = if order.recent.borrow().is_empty() { versions.len().max(1) - 1 } else { 0 };
                    for version in versions.split_off(first) {
                        self.show_version(&key, version);
                    }
                } else {
                    let new = || Customer { followed: Followed::new(), asked: false };
                    self.customers.entry(customer_id.clone()).or_insert_with(new);
                    self.read_customer(&customer_id);
                }
                match taken {
                    Ok(true) => self.read_order(&key),
                    Ok(false) => {}
                    Err(error) => self.end(&key, error),
                }
            }
            Done::Customer(reading) => {
                let key = reading.key.clone();
                let Some(customer) = self.customers.get_mut(&key) else { return };
                let again = customer.followed.take(*reading, |_| ()).unwrap_or(false);
                if !std::mem::replace(&mut customer.asked, true) {
                    let of_customer = |order: &Order| {
                        order.followed.document().is_some_and(|order| order.customer_id == key)
                    };
                    let waiting = self.orders.iter().filter(|(_, order)| of_customer(order));
                    for order_id in waiting.map(|(order_id, _)| order_id.clone()).collect::<Vec<_>>() {
                        self.show(&order_id);
                    }
                }
                if again {
                    self.read_customer(&key);
                }
            }
        }
    }

    /// Shows an order as it stands now.
    fn show(&mut self, order_id: &str) {
        let order = self.orders.get(order_id).and_then(|order| order.followed.document());
        if let Some(order) = order.cloned() {
            self.show_version(order_id, order);
        }
    }

    fn show_version(&mut self, order_id: &str, version: OrderDocument) {
        let Some(Customer { followed, asked: true }) = self.customers.get(&version.customer_id) else {
            return;
        };
        let customer_name = followed.document().map(|customer| customer.name.clone());
        let Some(order) = self.orders.get(order_id) else { return };
        let others = self.bytes - order.recent.borrow().bytes();
        if others + Recent::weight(&version) > self.limit {
            return self.end(order_id, WatchError::Full);
        }
        order.recent.send_modify(|recent| {
            recent.push(Shown { order: version, customer_name });
            if others + recent.bytes() > self.limit {
                recent.keep_newest();
            }
        });
        self.bytes = others + order.recent.borrow().bytes();
    }

    fn end(&mut self, order_id: &str, error: WatchError) {
        if let Some(order) = self.orders.remove(order_id) {
            self.bytes -= order.recent.borrow().bytes();
            order.recent.send_modify(|recent| recent.end(error));
        }
    }

    /// Drops what nobody follows and reads what is due.
    fn sweep(&mut self) {
        self.orders.retain(|_, order| !order.recent.is_closed());
        self.bytes = self.orders.values().map(|order| order.recent.borrow().bytes()).sum();
        let documents = self.orders.values().filter_map(|order| order.followed.document());
        let known: HashSet<_> = documents.map(|order| order.customer_id.as_str()).collect();
        self.customers.retain(|customer_id, _| known.contains(customer_id.as_str()));
        self.record();
        if self.tail.tells() {
            self.read_all_due();
        }
    }

    fn read_all_new(&mut self) {
        let new = self.orders.iter().filter(|(_, order)| order.followed.document().is_none());
        for order_id in new.map(|(order_id, _)| order_id.clone()).collect::<Vec<_>>() {
            self.read_order(&order_id);
        }
    }

    fn read_all_due(&mut self) {
        for order_id in self.orders.keys().cloned().collect::<Vec<_>>() {
            self.read_order(&order_id);
        }
        for customer_id in self.customers.keys().cloned().collect::<Vec<_>>() {
            self.read_customer(&customer_id);
        }
    }

    /// Begins to read an order, where that is due.
    fn read_order(&mut self, order_id: &str) {
        if let Some(version) = self.orders.get_mut(order_id).and_then(|order| order.followed.begin_reading())
        {
            let alias = self.sources.aliases.orders.clone();
            self.begin_read(alias, order_id, version, Done::Order);
        }
    }

    /// Begins to read a customer, where that is due.
    fn read_customer(&mut self, customer_id: &str) {
        let customer = self.customers.get_mut(customer_id);
        if let Some(version) = customer.and_then(|customer| customer.followed.begin_reading()) {
            let alias = self.sources.aliases.customers.clone();
            self.begin_read(alias, customer_id, version, Done::Customer);
        }
    }

    fn begin_read<P: Projection>(
        &self,
        alias: String,
        key: &str,
        version: i64,
        done: fn(Box<Reading<P>>) -> Done,
    ) {
        let Sources { index, feed, .. } = self.sources.clone();
        let reading = read::<P>(index, alias, feed, key.to_owned(), version, self.tail.tells());
        let turns = Arc::clone(&self.turns);
        let in_turn = async move {
            // Never closed.
            let _turn = turns.acquire_owned().await;
            done(Box::new(reading.await))
        };
        self.reads.push(in_turn.boxed());
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats; these numbers need no last digit")]
    fn record(&self) {
        let watchers: usize = self.orders.values().map(|order| order.recent.receiver_count()).sum();
        metrics::gauge!("order_watchers").set(watchers as f64);
        metrics::gauge!("watched_orders").set(self.orders.len() as f64);
        metrics::gauge!("watched_bytes").set(self.bytes as f64);
    }
}
