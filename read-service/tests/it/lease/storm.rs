//! Three copies as processes of their own, killed and paused at random while orders are written.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use local::testing::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::{RecordedEvent, StreamCategory};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use read_service::projection::{self, Orders, Projection as _};
use serde_json::Value;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use super::key;
use crate::support::feed::ScriptedFeed;
use crate::support::{History, Search, added, confirmed, created, serve, submitted};

/// Longest time that a range of slices may be without a sign of its owner, while one copy is there to see it.
const REPLACED_WITHIN: Duration = Duration::from_secs(15);
/// Events a second.
const RATE: u64 = 200;
/// Orders that are changed at a time.
const OPEN: usize = 200;

#[tokio::test]
async fn copies_that_die_and_sleep_for_two_minutes_lose_nothing() {
    storm("storm", Duration::from_mins(2), rand::random()).await;
}

#[expect(clippy::print_stderr, reason = "a failure is told apart from another by its seed")]
async fn storm(name: &str, length: Duration, seed: u64) {
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let search = Search::start(name).await;
    let feed = ScriptedFeed::start(&History::default()).await;
    feed.change(|script| script.batch = 100);
    let mut fleet: Vec<_> = (0..3).map(|number| Member::start(number, &search, &feed)).collect();
    let over = CancellationToken::new();
    let witness = watch::Sender::new(Instant::now());
    let watched = tokio::spawn(observe(
        search.name("control"),
        search.index.clone(),
        search.name("orders-v1-1"),
        witness.subscribe(),
        over.clone(),
    ));

    let begun = Instant::now();
    let (written, ()) = tokio::join!(write(&feed, length, random.random()), async {
        while begun.elapsed() < length {
            let pause = Duration::from_millis(random.random_range(1_000..4_000));
            let (victim, deadly) = (random.random_range(0..fleet.len()), random.random_bool(0.5));
            let down = Duration::from_millis(random.random_range(200..12_000));
            // One of them is always well, so that there is somebody to take over.
            if fleet.iter().filter_map(Member::well_since).count() > 1 {
                fleet[victim].hit(deadly, down);
            }
            let ends = Instant::now() + pause;
            while Instant::now() < ends {
                for member in &mut fleet {
                    member.tend(&search, &feed);
                }
                let well = fleet.iter().filter_map(Member::well_since).min();
                witness.send_replace(well.unwrap_or_else(Instant::now));
                sleep(Duration::from_millis(50)).await;
            }
        }
        for member in &mut fleet {
            member.recover(&search, &feed);
        }
    });

    let events: usize = written.values().map(Vec::len).sum();
    let head = i64::try_from(events).unwrap();
    until(Duration::from_mins(1), "all copies together reach the head", async || {
        (search.checkpoint::<Orders>().await >= head).then_some(())
    })
    .await;
    over.cancel();
    let longest = watched.await.unwrap();
    let faults: usize = fleet.iter().map(|member| member.faults).sum();
    eprintln!(
        "{events} events of {} orders, {faults} faults, a range was silent for {longest:?} at most",
        written.len()
    );
    assert!(longest < REPLACED_WITHIN, "{longest:?}");
    for (key, events) in &written {
        let expected = projection::fold::<Orders>(events).unwrap().unwrap();
        let version = Orders::version(&expected);
        assert_eq!(search.document::<Orders>(key).await, Some((version, expected)), "{key}");
    }
}

/// Writes orders for as long as this; gives the events of each.
async fn write(feed: &ScriptedFeed, length: Duration, seed: u64) -> HashMap<String, Vec<RecordedEvent>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut orders: HashMap<String, Vec<RecordedEvent>> = HashMap::new();
    let mut position = 0;
    let mut tick = interval(Duration::from_secs(1) / 20);
    let begun = Instant::now();
    while begun.elapsed() < length {
        tick.tick().await;
        let mut new = Vec::new();
        for _ in 0..RATE / 20 {
            position += 1;
            let order = usize::try_from(position).unwrap() / 5 + random.random_range(0..OPEN);
            let of_order = orders.entry(key(order)).or_default();
            let version = i64::try_from(of_order.len()).unwrap() + 1;
            let body = match version {
                1 => created(&key(order), "R"),
                2..5 => added(i32::try_from(version).unwrap() - 1, 1, 100),
                5 => submitted(300),
                6 => confirmed(),
                _ => {
                    position -= 1;
                    continue;
                }
            };
            let event = RecordedEvent {
                position,
                category: StreamCategory::Order.into(),
                stream_key: key(order),
                version,
                recorded_time: Some(proto::time::from_nanos(1_700_000_000_000_000_000 + position)),
                body: Some(body),
                ..RecordedEvent::default()
            };
            of_order.push(event.clone());
            new.push(event);
        }
        feed.change(|script| script.events.extend(new));
    }
    orders
}

/// Reads the records of all ranges until it is over: no checkpoint goes back. Gives the longest time without a sign of an
/// owner which one copy, well since `witness`, could see.
async fn observe(
    control: String,
    index: read_service::index::Index,
    orders: String,
    witness: watch::Receiver<Instant>,
    over: CancellationToken,
) -> Duration {
    let ids: Vec<_> = (0..1024).step_by(64).map(|slice| format!("range:{orders}:{slice:04}")).collect();
    let mut last: HashMap<usize, (i64, i64, Instant)> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut tick = interval(Duration::from_millis(200));
    while over.run_until_cancelled(tick.tick()).await.is_some() {
        let Ok(records) = index.records::<Value>(&control, &ids).await else { continue };
        for (range, record) in records.into_iter().enumerate() {
            let Some(record) = record else { continue };
            let number = |field: &str| record.value[field].as_i64().unwrap();
            let (position, beat) = (number("position"), number("beat"));
            let (before, beaten, since) = *last.entry(range).or_insert((position, beat, Instant::now()));
            assert!(position >= before, "range {range} went back from {before} to {position}");
            longest = longest.max(since.max(*witness.borrow()).elapsed());
            let since = if beat == beaten { since } else { Instant::now() };
            last.insert(range, (position, beat, since));
        }
    }
    longest
}

/// A copy of the service as a process.
struct Member {
    number: usize,
    process: Child,
    state: State,
    faults: usize,
}

enum State {
    Well { since: Instant },
    Dead { until: Instant },
    Asleep { until: Instant },
}

impl Member {
    fn start(number: usize, search: &Search, feed: &ScriptedFeed) -> Self {
        Self {
            number,
            process: launch(number, search, feed),
            state: State::Well { since: Instant::now() },
            faults: 0,
        }
    }

    fn well_since(&self) -> Option<Instant> {
        match self.state {
            State::Well { since } => Some(since),
            State::Dead { .. } | State::Asleep { .. } => None,
        }
    }

    /// Kills it, or puts it to sleep, for as long as this.
    fn hit(&mut self, deadly: bool, down: Duration) {
        if self.well_since().is_none() {
            return;
        }
        self.faults += 1;
        let until = Instant::now() + down;
        self.signal(if deadly { Signal::SIGKILL } else { Signal::SIGSTOP });
        self.state = if deadly { State::Dead { until } } else { State::Asleep { until } };
    }

    /// Brings it back where its time has come.
    fn tend(&mut self, search: &Search, feed: &ScriptedFeed) {
        match self.state {
            State::Dead { until } | State::Asleep { until } if until <= Instant::now() => {
                self.recover(search, feed);
            }
            _ => {}
        }
    }

    fn recover(&mut self, search: &Search, feed: &ScriptedFeed) {
        match self.state {
            State::Well { .. } => {}
            State::Dead { .. } => self.process = launch(self.number, search, feed),
            State::Asleep { .. } => self.signal(Signal::SIGCONT),
        }
        self.state = State::Well { since: Instant::now() };
    }

    fn signal(&self, signal: Signal) {
        let id = self.process.id().expect("nobody else ends it");
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }
}

fn launch(number: usize, search: &Search, feed: &ScriptedFeed) -> Child {
    let name = format!("--host-name=copy-{number}");
    serve(search, feed).args(["--listen=127.0.0.1:0", &name]).spawn().unwrap()
}
