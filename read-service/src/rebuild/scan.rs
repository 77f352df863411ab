//! Every stream folded once, every document indexed once, as fast as the index takes them.
//!
//! The scan gives streams; each is folded and its document goes into the lanes. Documents may arrive in any order; the cursor that is
//! stored lies behind everything that has arrived whole.

use std::collections::VecDeque;
use std::time::Duration;

use shared::backoff::Backoff;
use tokio::time::{Instant, sleep, sleep_until};

use super::Stop;
use super::record::Rebuild;
use super::session::Session;
use crate::index::{Bulk, ItemOutcome};
use crate::lanes::Lanes;
use crate::parking::{Fault, Parking};
use crate::projection::Projection;
use crate::projector::{Limits, fold_onto};
use crate::subscription::WholeStream;

/// How often the cursor is stored.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// Waits before documents are sent again that the lanes gave back.
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Share of the whole that the scan is.
const SCAN_PERCENT: f64 = 80.0;

/// A document on its way.
struct Sent<P: Projection> {
    key: String,
    /// Number of its page.
    page: usize,
    document: P::Document,
}

/// Fills the target from the stored cursor on.
pub(super) async fn fill<P: Projection>(session: &Session, limits: &Limits) -> Result<(), Stop> {
    let rebuild = session.rebuild().await;
    let subject = &session.subject;
    let mut scan = subject.feed.scan(subject.category, &rebuild.cursor).await?;
    let (control, clock) = (subject.feeds.control().to_owned(), subject.clock.clone());
    let (index, target) = (subject.index.clone(), rebuild.target_index.clone());
    let mut filling = Filling::<P> {
        lanes: Lanes::new(index.clone(), target.clone(), P::NAME, limits.bulks),
        parking: Parking::load::<P>(index, control, target, clock).await?,
        pages: Pages::default(),
        backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
    };
    let speed = Pace { begun: Instant::now(), limit: rebuild.max_streams_per_second };
    let mut meter = Meter::new(&rebuild);
    let (mut stored, mut read) = (Instant::now(), 0_u64);
    while let Some(part) = scan.next().await? {
        let page = filling.pages.begin();
        read += u64::try_from(part.streams.len()).unwrap_or(0);
        let streams = i64::try_from(part.streams.len()).unwrap_or(0);
        for stream in part.streams {
            filling.fold(stream, page).await?;
        }
        filling.pages.end(page, streams, part.cursor);
        filling.settle().await?;
        speed.keep(read).await;
        meter.expect(part.estimated_streams);
        for (streams, cursor) in filling.pages.arrived() {
            meter.add(streams, cursor);
            shared::crash::point("rebuild.chunk");
        }
        if stored.elapsed() >= STORE_EVERY {
            session.save(|rebuild| meter.tell(rebuild, filling.parking.len())).await?;
            stored = Instant::now();
        }
    }
    filling.drain().await?;
    filling.pages.arrived().into_iter().for_each(|(streams, cursor)| meter.add(streams, cursor));
    meter.end();
    session.save(|rebuild| meter.tell(rebuild, filling.parking.len())).await.map(drop)
}

/// The new index while it is filled.
struct Filling<P: Projection> {
    lanes: Lanes<Sent<P>>,
    parking: Parking,
    pages: Pages,
    backoff: Backoff,
}

impl<P: Projection> Filling<P> {
    /// Sends the document of a stream; what can be folded of a stream that cannot be folded whole is stored, as a projector would.
    async fn fold(&mut self, stream: WholeStream, page: usize) -> Result<(), Stop> {
        let mut document = None;
        let (_, outcome) = fold_onto::<P>(&mut document, &stream.events);
        if let Err((version, error)) = outcome {
            self.park(&stream.key, Fault { version, position: 0, error: error.to_string() }).await?;
        }
        if let Some(document) = document {
            self.pages.sent(page);
            self.put(Sent { key: stream.key, page, document }).await;
        }
        Ok(())
    }

    async fn put(&mut self, sent: Sent<P>) {
        let write = |sent: &Sent<P>, bulk: &mut Bulk| {
            let document = &sent.document;
            bulk.index(&sent.key, P::version(document), document, &P::search(document));
        };
        self.lanes.put(sent, write).await;
    }

    /// Takes the outcomes that are there.
    async fn settle(&mut self) -> Result<(), Stop> {
        while let Some((sent, outcome)) = self.lanes.settled() {
            self.became(sent, outcome).await?;
        }
        Ok(())
    }

    /// Waits for all outcomes.
    async fn drain(&mut self) -> Result<(), Stop> {
        while let Some((sent, outcome)) = self.lanes.next().await {
            self.became(sent, outcome).await?;
        }
        Ok(())
    }

    /// What became of a document: one that does not fit is parked, one that was refused for now is sent again.
    async fn became(&mut self, sent: Sent<P>, outcome: ItemOutcome) -> Result<(), Stop> {
        match outcome {
            ItemOutcome::Applied | ItemOutcome::AlreadyApplied => self.backoff.reset(),
            ItemOutcome::Unfit(error) => {
                self.park(&sent.key, Fault { version: 1, position: 0, error: error.to_string() }).await?;
            }
            ItemOutcome::Closed(error) => return Err(Stop::Fail(error.to_string())),
            ItemOutcome::Later(_) => {
                sleep(self.backoff.next()).await;
                self.put(sent).await;
                return Ok(());
            }
        }
        self.pages.has_arrived(sent.page);
        Ok(())
    }

    async fn park(&mut self, key: &str, fault: Fault) -> Result<(), Stop> {
        Ok(self.parking.park(key, &fault).await?)
    }
}

/// Pages of the scan whose documents are on their way.
#[derive(Default)]
struct Pages {
    /// Number of the first in `open`.
    first: usize,
    open: VecDeque<Page>,
}

#[derive(Default)]
struct Page {
    /// Documents that have not arrived.
    left: usize,
    /// Set once all of the page is sent.
    end: Option<(i64, String)>,
}

impl Pages {
    /// The number of a new page.
    fn begin(&mut self) -> usize {
        self.open.push_back(Page::default());
        self.first + self.open.len() - 1
    }

    fn sent(&mut self, page: usize) {
        self.open[page - self.first].left += 1;
    }

    fn has_arrived(&mut self, page: usize) {
        self.open[page - self.first].left -= 1;
    }

    fn end(&mut self, page: usize, streams: i64, cursor: String) {
        self.open[page - self.first].end = Some((streams, cursor));
    }

    /// Streams and cursors of the pages that have arrived whole, as all before them.
    fn arrived(&mut self) -> Vec<(i64, String)> {
        let whole = self.open.iter().take_while(|page| page.left == 0 && page.end.is_some()).count();
        self.first += whole;
        self.open.drain(..whole).filter_map(|page| page.end).collect()
    }
}

/// Keeps to the limit of streams a second.
#[derive(Clone, Copy)]
struct Pace {
    begun: Instant,
    limit: i32,
}

impl Pace {
    async fn keep(&self, done: u64) {
        if let Some(limit) = u32::try_from(self.limit).ok().filter(|limit| *limit > 0) {
            let micros = done.saturating_mul(1_000_000) / u64::from(limit);
            sleep_until(self.begun + Duration::from_micros(micros)).await;
        }
    }
}

/// How far the scan is, and how fast it is since it was last interrupted.
struct Meter {
    begun: Instant,
    before: i64,
    done: i64,
    total: i64,
    cursor: String,
}

impl Meter {
    fn new(rebuild: &Rebuild) -> Self {
        let Rebuild { streams_done: done, streams_total: total, cursor, .. } = rebuild;
        Self { begun: Instant::now(), before: *done, done: *done, total: *total, cursor: cursor.clone() }
    }

    /// A resumed scan tells how many streams there are in all, too.
    fn expect(&mut self, estimated: i64) {
        self.total = self.total.max(estimated);
    }

    fn add(&mut self, streams: i64, cursor: String) {
        self.done += streams;
        self.total = self.total.max(self.done);
        if !cursor.is_empty() {
            self.cursor = cursor;
        }
    }

    /// There are no more: what was an estimate, of all categories, is known.
    fn end(&mut self) {
        self.total = self.done;
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn tell(&self, rebuild: &mut Rebuild, parked: usize) {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let rate = (self.done - self.before) as f64 / seconds;
        rebuild.cursor.clone_from(&self.cursor);
        rebuild.streams_done = self.done;
        rebuild.streams_total = self.total;
        rebuild.parked_streams = i64::try_from(parked).unwrap_or(i64::MAX);
        rebuild.streams_per_second = rate;
        rebuild.percent =
            rebuild.percent.max(SCAN_PERCENT * self.done as f64 / self.total.max(1) as f64).min(SCAN_PERCENT);
        let left = (self.total - self.done) as f64 / rate.max(0.001) / (SCAN_PERCENT / 100.0);
        // Shorter as time goes by; longer only after an interruption, which is shown.
        let interrupted = !rebuild.error.is_empty() || rebuild.eta_seconds == 0.0;
        rebuild.eta_seconds = if interrupted { left } else { left.min(rebuild.eta_seconds) };
        rebuild.error.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_waits_for_all_pages_before_it() {
        let mut pages = Pages::default();
        let one = pages.begin();
        pages.sent(one);
        pages.sent(one);
        pages.end(one, 2, "b".to_owned());
        let two = pages.begin();
        pages.sent(two);
        pages.end(two, 1, "c".to_owned());
        pages.has_arrived(two);
        pages.has_arrived(one);
        assert_eq!(pages.arrived(), []);
        pages.has_arrived(one);
        assert_eq!(pages.arrived(), [(2, "b".to_owned()), (1, "c".to_owned())]);
        let three = pages.begin();
        assert_eq!(pages.arrived(), [], "it is not sent whole");
        pages.end(three, 0, String::new());
        assert_eq!(pages.arrived(), [(0, String::new())]);
    }
}
