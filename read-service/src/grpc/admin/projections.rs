//! The state of each projection, true within the time that one call takes: the projector's own view, and a look at both
//! dependencies for this answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use proto::v1::{self, projection};
use shared::clock::Clock;
use tokio::time::{Instant, timeout};

use crate::Queries;
use crate::index::{Index, IndexError};
use crate::parking;
use crate::projector::{Progress, Snapshot, State};
use crate::rebuild::Desk;
use crate::subscription::Feed;

/// How long a dependency may take to answer before the answer is that it does not.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// A projection that is less far behind the feed's head follows it.
const LIVE_LAG: f64 = 2.0;

/// All projections.
#[derive(Clone, Debug)]
pub(super) struct Projections {
    all: Arc<[Known]>,
    index: Index,
    control: String,
    feed: Feed,
    clock: Clock,
}

/// A projection, with what its index last told.
#[derive(Debug)]
struct Known {
    progress: Progress,
    desk: Desk,
    alias: String,
    documents: AtomicI64,
}

/// What Elasticsearch told of a projection.
struct Told {
    documents: i64,
    parked: i64,
}

impl Projections {
    pub fn new(queries: &Queries) -> Self {
        let aliases = &queries.aliases;
        let [orders, customers, products] = &queries.desks;
        let known = |progress: &Progress, desk: &Desk, alias: &String| Known {
            progress: progress.clone(),
            desk: desk.clone(),
            alias: alias.clone(),
            documents: AtomicI64::new(0),
        };
        Self {
            all: Arc::new([
                known(&queries.orders, orders, &aliases.orders),
                known(&queries.customers, customers, &aliases.customers),
                known(&queries.products, products, &aliases.products),
            ]),
            index: queries.index.clone(),
            control: aliases.control.clone(),
            feed: queries.feed.clone(),
            clock: queries.clock.clone(),
        }
    }

    /// All of them, in a fixed order.
    pub async fn list(&self) -> Vec<v1::Projection> {
        let head = async {
            match timeout(LOOK_LIMIT, self.feed.head()).await {
                Ok(head) => head.map(|head| head.head_position).map_err(|error| error.to_string()),
                Err(_) => Err("feed does not answer: timed out".to_owned()),
            }
        };
        // Taken before the look, so that what is looked at includes what they claim.
        let snapshots: Vec<_> = self.all.iter().map(|known| known.progress.snapshot()).collect();
        let asked = self.all.iter().zip(&snapshots).map(|(known, snapshot)| self.ask(known, snapshot));
        let (head, told) = tokio::join!(head, join_all(asked));
        let all = self.all.iter().zip(snapshots).zip(told);
        all.map(|((known, snapshot), told)| self.projection(known, snapshot, &head, told)).collect()
    }

    async fn ask(&self, known: &Known, snapshot: &Snapshot) -> Result<Told, String> {
        let target = if snapshot.index.is_empty() { &known.alias } else { &snapshot.index };
        let told = async {
            let documents = self.index.count(target, None).await?;
            let parked = parking::count(&self.index, &self.control, target).await?;
            Ok::<_, IndexError>(Told { documents, parked })
        };
        match timeout(LOOK_LIMIT, told).await {
            Ok(told) => told.map_err(|error| error.to_string()),
            Err(_) => Err("elasticsearch does not answer: timed out".to_owned()),
        }
    }

    fn projection(
        &self,
        known: &Known,
        snapshot: Snapshot,
        head: &Result<i64, String>,
        told: Result<Told, String>,
    ) -> v1::Projection {
        let now = self.clock.now_nanos();
        let mut lag_seconds = snapshot.visible_lag_seconds(now);
        if head.is_err() {
            // What a silent store holds is not known.
            lag_seconds = lag_seconds.max(snapshot.age_seconds(now));
        }
        let head_position =
            head.as_ref().map_or(snapshot.head_position, |head| snapshot.head_position.max(*head));
        let (state, last_error) = match (snapshot.state, &told, head) {
            (State::Halted, ..) => (projection::State::Halted, snapshot.last_error.clone()),
            (_, Err(error), _) | (_, _, Err(error)) => (projection::State::Waiting, error.clone()),
            (State::Waiting, ..) => (projection::State::Waiting, snapshot.last_error.clone()),
            _ if is_behind(&snapshot, head_position, lag_seconds) => {
                (projection::State::CatchingUp, String::new())
            }
            _ => (projection::State::Live, String::new()),
        };
        let parked = told
            .as_ref()
            .map_or_else(|_| i64::try_from(snapshot.parked_streams).unwrap_or(i64::MAX), |told| told.parked);
        if let Ok(told) = told {
            known.documents.store(told.documents, Ordering::Relaxed);
        }
        v1::Projection {
            name: snapshot.projection.to_owned(),
            document_count: known.documents.load(Ordering::Relaxed),
            position: snapshot.applied_position,
            head_position,
            lag_seconds,
            parked_streams: parked,
            state: state.into(),
            last_error,
            last_progress_time: (snapshot.last_progress_at > 0)
                .then(|| proto::time::from_nanos(snapshot.last_progress_at)),
            owners: owners(&snapshot, now),
            live_index: snapshot.index,
            previous_index: known.desk.previous_index().unwrap_or_default(),
        }
    }
}

/// Under load the head is always a little further; what counts is by how much.
fn is_behind(snapshot: &Snapshot, head_position: i64, lag_seconds: f64) -> bool {
    let far = lag_seconds > LIVE_LAG || snapshot.state == State::CatchingUp;
    far && snapshot.visible_position < head_position
}

/// Who projects which slices; the ends of leases, which this copy knows by its own monotonic clock, as times of day.
fn owners(snapshot: &Snapshot, now: i64) -> Vec<v1::SliceOwner> {
    let this_moment = Instant::now();
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let owned = snapshot.owners.iter().filter(|owner| !owner.copy.is_empty());
    owned
        .map(|owner| {
            let left = nanos(owner.expires_at.saturating_duration_since(this_moment));
            let past = nanos(this_moment.saturating_duration_since(owner.expires_at));
            v1::SliceOwner {
                first_slice: owner.first_slice,
                last_slice: owner.last_slice,
                owner: owner.copy.clone(),
                lease_expire_time: Some(proto::time::from_nanos(
                    now.saturating_add(left).saturating_sub(past),
                )),
            }
        })
        .collect()
}
