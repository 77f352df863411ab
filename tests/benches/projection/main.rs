//! How fast documents follow events, beside plain bulks of the same documents.
//!
//! `cargo bench -p tests --bench projection`, optionally with `-- NUMBER.. WORD`: a number below 1,000 is how often each figure is
//! measured (3), a larger one how many documents a backlog has (100,000); the word selects figures by their name.
//!
//! The projector runs in this process, on a feed of the built write service; for `visible` the built read service runs. The floor
//! sends the same documents, built before the clock runs: bulks of 1 MB, two in flight, then one refresh on either side.

mod backlog;
mod drain;
mod floor;
mod visible;

use rig::pair::Pair;
use rig::search::ReadSide;
use rig::table::{self, Better, Row};

use crate::backlog::{Backlog, Kind};

/// That of the service, whose projector runs in this process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Documents that Elasticsearch takes before anything is measured: its compiler needs about as many.
const WARM_UP: usize = 400_000;

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let rounds = numbers.iter().copied().find(|number| *number < 1_000).unwrap_or(3);
    let documents = numbers.into_iter().find(|number| *number >= 1_000).unwrap_or(100_000);
    let (_, word) = rig::arguments(rounds);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(rounds, documents, &word))
}

async fn run(rounds: usize, documents: usize, word: &str) -> anyhow::Result<()> {
    let host = Pair::start().await?;
    let mut read = ReadSide::start(&host).await?;
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    let mut warm = false;
    for (name, kind) in [
        ("backlog, a document for each event", Kind::Versions),
        ("small orders, each stored at once", Kind::Small),
        ("real orders, each stored at once", Kind::Real),
    ] {
        let coalesced = "the same, free to coalesce";
        let wanted = |name: &str| name.contains(word);
        if !(wanted(name) || kind == Kind::Versions && wanted(coalesced)) {
            continue;
        }
        let backlog = Backlog::make(kind, documents).await?;
        if !warm {
            floor::warm_up(&read.elasticsearch_url, &backlog.documents, WARM_UP.min(4 * documents)).await?;
            warm = true;
        }
        notes.push(backlog.note(name));
        let apart = drain::against_bulks(&read, &backlog, name, rounds).await?;
        if kind == Kind::Versions {
            let together = drain::coalesced(&read, &backlog, coalesced, &apart, rounds).await?;
            rows.extend([apart, together]);
        } else {
            rows.push(apart);
        }
        backlog.stop().await?;
    }
    if visible::NAME.contains(word) {
        let (row, note) = visible::measure(&host, &mut read, documents, rounds).await?;
        rows.push(row);
        notes.push(note);
    }
    table::print("projection", &rows, &notes)?;
    read.stop().await?;
    host.stop().await
}

fn row(name: &'static str, unit: &'static str, reach: f64, aim: f64) -> Row {
    Row { name, unit, rounds: Vec::new(), latency: None, cpu: None, reach, aim, better: Better::More }
}
