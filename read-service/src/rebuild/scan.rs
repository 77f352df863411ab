//! Every stream folded once, every document indexed once, as fast as the index takes them.
//!
//! The scan gives streams; each is folded and its document goes into the lanes. Documents may arrive in any order; the cursor that is
//! stored lies behind everything that has arrived whole.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Stop;
use super::advance::{Advance, SCAN, share};
use super::record::Rebuild;
use super::session::Session;
use crate::demand::{self, Spells};
use crate::index::{Bulk, Index, ItemOutcome};
use crate::lanes::Lanes;
use crate::parking::{self, Fault, Parking};
use crate::projection::Projection;
use crate::projector::{Limits, fold_onto};
use crate::subscription::{Feed, WholeStream};

/// How often the cursor is stored.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// How far a throttled scan may be ahead of its limit before it waits: at a high limit it does not wait for each stream.
const BURST: Duration = Duration::from_millis(100);

/// A document on its way.
struct Sent {
    key: String,
    /// Number of its part.
    part: usize,
}

/// Fills the target from the stored cursor on.
pub(super) async fn fill<P: Projection>(session: &Session, limits: &Limits) -> Result<(), Stop> {
    let rebuild = session.rebuild().await;
    let subject = &session.subject;
    let mut scan = subject.feed.scan(subject.category, &rebuild.cursor).await?;
    let (control, clock) = (subject.feeds.control().to_owned(), subject.clock.clone());
    let (index, target) = (subject.index.clone(), rebuild.target_index.clone());
    let mut filling = Filling {
        lanes: Lanes::new(index.clone(), target.clone(), P::NAME, limits.bulks),
        parking: Parking::load::<P>(index.clone(), control, target.clone(), clock).await?,
        index,
        feed: subject.feed.clone(),
        target,
        parts: Parts::default(),
        meter: Meter::new(&rebuild),
        stored: Instant::now(),
    };
    let mut pace = Pace::new(rebuild.max_streams_per_second);
    let mut skip = rebuild.beyond;
    let mut spells = Spells::new(subject.demand.clone());
    while let Some(page) = filling.lanes.beside(scan.next()).await? {
        filling.meter.expect(page.estimated_streams);
        for (number, stream) in page.streams.into_iter().enumerate() {
            demand::step(number).await;
            // Streams that came since lie among these or behind them and are brought by their events, too.
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if let Some(until) = pace.wait(Instant::now()) {
                // What a throttled scan has done shows while it waits.
                filling.parts.end(String::new());
                filling.drain::<P>().await?;
                filling.store(session).await?;
                sleep_until(until).await;
                spells.resume();
            }
            filling.fold::<P>(stream).await?;
            if spells.is_over() {
                filling.drain::<P>().await?;
                spells.rest().await;
            }
        }
        filling.parts.end(page.cursor);
        filling.settle::<P>().await?;
        filling.store(session).await?;
    }
    filling.drain::<P>().await?;
    filling.stand();
    filling.meter.end();
    session.save(|rebuild| filling.meter.tell(rebuild, filling.parking.len())).await.map(drop)
}

/// The new index while it is filled.
struct Filling {
    index: Index,
    feed: Feed,
    target: String,
    lanes: Lanes<Sent>,
    parking: Parking,
    parts: Parts,
    meter: Meter,
    /// When the record was last stored.
    stored: Instant,
}

impl Filling {
    /// Sends the document of a stream; what can be folded of a stream that cannot be folded whole is stored, as a projector would.
    async fn fold<P: Projection>(&mut self, stream: WholeStream) -> Result<(), Stop> {
        let part = self.parts.stream();
        let mut document = None;
        let (_, outcome) = fold_onto::<P>(&mut document, &stream.events);
        if let Err((version, error)) = outcome {
            self.park::<P>(&stream.key, Fault { version, position: 0, error: error.to_string() }).await?;
        }
        if let Some(document) = document {
            self.parts.sent(part);
            let write = |sent: &Sent, bulk: &mut Bulk| {
                bulk.index(&sent.key, P::version(&document), &document, &P::search(&document));
            };
            self.lanes.put(Sent { key: stream.key, part }, write).await;
        }
        Ok(())
    }

    /// Counts what has arrived.
    fn stand(&mut self) {
        for (streams, cursor) in self.parts.arrived() {
            self.meter.add(streams, cursor);
            shared::crash::point("rebuild.chunk");
        }
    }

    /// Stores how far it is, where that is due; hears what callers wish.
    async fn store(&mut self, session: &Session) -> Result<(), Stop> {
        self.stand();
        if self.stored.elapsed() >= STORE_EVERY {
            let Self { lanes, meter, parking, .. } = self;
            lanes.beside(session.save(|rebuild| meter.tell(rebuild, parking.len()))).await?;
            self.stored = Instant::now();
        }
        Ok(())
    }

    /// Takes the outcomes that are there.
    async fn settle<P: Projection>(&mut self) -> Result<(), Stop> {
        while let Some((sent, outcome)) = self.lanes.settled() {
            self.became::<P>(sent, outcome).await?;
        }
        Ok(())
    }

    /// Waits for all outcomes.
    async fn drain<P: Projection>(&mut self) -> Result<(), Stop> {
        while let Some((sent, outcome)) = self.lanes.next().await {
            self.became::<P>(sent, outcome).await?;
        }
        Ok(())
    }

    /// What became of a document: one that does not fit is stored as far as it does, and its stream parked.
    async fn became<P: Projection>(&mut self, sent: Sent, outcome: ItemOutcome) -> Result<(), Stop> {
        match outcome {
            ItemOutcome::Applied | ItemOutcome::AlreadyApplied => {}
            ItemOutcome::Unfit(_) => {
                let stream = self.feed.read_as_far(P::CATEGORY, &sent.key, 1, 0).await?;
                let fault = parking::store::<P>(&self.index, &self.target, &sent.key, &stream).await?;
                if let Some(fault) = fault {
                    self.park::<P>(&sent.key, fault).await?;
                }
            }
            ItemOutcome::Closed(error) => return Err(Stop::Fail(error.to_string())),
            // The lanes have tried for a while: from the stored cursor, once it may succeed.
            ItemOutcome::Later(error) => return Err(error.into()),
        }
        self.parts.has_arrived(sent.part);
        Ok(())
    }

    async fn park<P: Projection>(&mut self, key: &str, mut fault: Fault) -> Result<(), Stop> {
        if fault.position == 0 {
            // A scan does not tell it, nor why an event cannot be read.
            let read = self.feed.read_as_far(P::CATEGORY, key, fault.version, fault.version).await?;
            fault.position = read.events.first().map_or(0, |event| event.position);
            fault.error = read.unreadable.map_or(fault.error, |(_, error)| error);
        }
        Ok(self.parking.park(key, &fault).await?)
    }
}

/// Parts of the scan whose documents are on their way: pages, or less where it is throttled.
struct Parts {
    /// Number of the first in `open`.
    first: usize,
    /// The last is not sent whole.
    open: VecDeque<Part>,
}

#[derive(Default)]
struct Part {
    streams: i64,
    /// Documents that have not arrived.
    left: usize,
    /// From where a scan goes on behind it; empty in the middle of a page.
    cursor: String,
}

impl Default for Parts {
    fn default() -> Self {
        Self { first: 0, open: VecDeque::from([Part::default()]) }
    }
}

impl Parts {
    /// Takes a stream into the last part; gives its number.
    fn stream(&mut self) -> usize {
        if let Some(last) = self.open.back_mut() {
            last.streams += 1;
        }
        self.first + self.open.len() - 1
    }

    fn sent(&mut self, part: usize) {
        self.open[part - self.first].left += 1;
    }

    fn has_arrived(&mut self, part: usize) {
        self.open[part - self.first].left -= 1;
    }

    /// All of the last part is sent.
    fn end(&mut self, cursor: String) {
        if let Some(last) = self.open.back_mut() {
            last.cursor = cursor;
        }
        self.open.push_back(Part::default());
    }

    /// Streams and cursors of the parts that have arrived whole, as all before them.
    fn arrived(&mut self) -> Vec<(i64, String)> {
        let sent = self.open.len() - 1;
        let whole = self.open.iter().take(sent).take_while(|part| part.left == 0).count();
        self.first += whole;
        self.open.drain(..whole).map(|part| (part.streams, part.cursor)).collect()
    }
}

/// Keeps to the limit of streams a second. What was not used is lost: after an interruption it is no faster.
struct Pace {
    /// Time for a stream; `None` without a limit.
    each: Option<Duration>,
    /// When all streams so far have had their time.
    due: Instant,
}

impl Pace {
    fn new(limit: i32) -> Self {
        let limit = u32::try_from(limit).ok().filter(|limit| *limit > 0);
        Self { each: limit.map(|limit| Duration::from_secs(1) / limit), due: Instant::now() }
    }

    /// Takes a stream; gives until when it has to wait, if at all.
    fn wait(&mut self, now: Instant) -> Option<Instant> {
        let each = self.each?;
        let due = self.due.max(now);
        self.due = due + each;
        Some(due).filter(|due| *due > now + BURST)
    }
}

/// How far the scan is, and how fast it is since it was last interrupted.
struct Meter {
    begun: Instant,
    advance: Advance,
    before: i64,
    done: i64,
    total: i64,
    cursor: String,
    /// Of `done`, those behind the cursor.
    beyond: i64,
}

impl Meter {
    fn new(rebuild: &Rebuild) -> Self {
        let Rebuild { streams_done: done, streams_total: total, cursor, beyond, .. } = rebuild;
        let (before, done, total, beyond) = (*done, *done, *total, *beyond);
        let advance = Advance::begin(SCAN, share(done, total));
        Self { begun: Instant::now(), advance, before, done, total, cursor: cursor.clone(), beyond }
    }

    /// A resumed scan tells how many streams there are in all, too.
    fn expect(&mut self, estimated: i64) {
        self.total = self.total.max(estimated);
    }

    fn add(&mut self, streams: i64, cursor: String) {
        self.done += streams;
        self.total = self.total.max(self.done);
        if cursor.is_empty() {
            self.beyond += streams;
        } else {
            (self.cursor, self.beyond) = (cursor, 0);
        }
    }

    /// There are no more: what was an estimate is known.
    fn end(&mut self) {
        self.total = self.done;
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn tell(&self, rebuild: &mut Rebuild, parked: usize) {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        rebuild.cursor.clone_from(&self.cursor);
        rebuild.beyond = self.beyond;
        rebuild.streams_done = self.done;
        rebuild.streams_total = self.total;
        rebuild.parked_streams = i64::try_from(parked).unwrap_or(i64::MAX);
        rebuild.streams_per_second = (self.done - self.before) as f64 / seconds;
        self.advance.tell(rebuild, share(self.done, self.total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_waits_for_all_parts_before_it() {
        let mut parts = Parts::default();
        for _ in 0..2 {
            let one = parts.stream();
            parts.sent(one);
        }
        parts.end("b".to_owned());
        let two = parts.stream();
        parts.sent(two);
        parts.end("c".to_owned());
        parts.has_arrived(two);
        parts.has_arrived(0);
        assert_eq!(parts.arrived(), []);
        parts.has_arrived(0);
        assert_eq!(parts.arrived(), [(2, "b".to_owned()), (1, "c".to_owned())]);
        parts.stream();
        assert_eq!(parts.arrived(), [], "it is not sent whole");
        parts.end(String::new());
        assert_eq!(parts.arrived(), [(1, String::new())]);
    }

    #[test]
    fn what_is_behind_the_cursor_is_known() {
        let mut rebuild =
            Rebuild { streams_done: 12, beyond: 2, cursor: "a".to_owned(), ..Rebuild::default() };
        let mut meter = Meter::new(&rebuild);
        meter.add(3, String::new());
        meter.tell(&mut rebuild, 0);
        assert_eq!((rebuild.streams_done, rebuild.beyond, rebuild.cursor.as_str()), (15, 5, "a"));
        meter.add(1, "b".to_owned());
        meter.tell(&mut rebuild, 0);
        assert_eq!((rebuild.streams_done, rebuild.beyond, rebuild.cursor.as_str()), (16, 0, "b"));
    }

    #[test]
    fn a_limit_is_kept_from_the_first_stream_on_and_after_a_rest() {
        let mut pace = Pace::new(50);
        let mut now = Instant::now();
        for _ in 0..3 {
            let end = now + Duration::from_secs(1);
            let mut streams = 0;
            while now < end {
                now = pace.wait(now).unwrap_or(now);
                streams += 1;
            }
            assert!((50..=56).contains(&streams), "{streams}");
            now += Duration::from_secs(30);
        }
        let mut free = Pace::new(0);
        assert!((0..1_000).all(|_| free.wait(now).is_none()));
    }
}
