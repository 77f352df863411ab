//! Rebuilds: requests to the desk of their projection, records to messages.

use std::time::Duration;

use futures_util::{Stream, stream};
use proto::reason::{Error, Reason};
use proto::v1::{self, StartRebuildRequest, WatchRebuildResponse};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::grpc::answer;
use crate::rebuild::{Desk, DeskError, Difference, Rebuild, Stage, Verified, Wish};

/// How often a watch tells, at least.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Longest `request_id`.
const REQUEST_ID_CHARACTERS: usize = 128;

/// The desks of all projections.
#[derive(Clone, Debug)]
pub(super) struct Rebuilds {
    desks: [Desk; 3],
    draining: CancellationToken,
}

impl Rebuilds {
    pub fn new(desks: [Desk; 3], draining: CancellationToken) -> Self {
        Self { desks, draining }
    }

    pub async fn start(&self, request: StartRebuildRequest) -> Result<v1::Rebuild, Error> {
        let desk = self.desk(&request.projection)?;
        if request.request_id.chars().count() > REQUEST_ID_CHARACTERS {
            let description = format!("must have at most {REQUEST_ID_CHARACTERS} characters");
            return Err(Error::invalid("request_id", description));
        }
        if request.max_streams_per_second < 0 {
            return Err(Error::invalid("max_streams_per_second", "must not be negative"));
        }
        let started = desk.start(&request.request_id, request.dry_run, request.max_streams_per_second).await;
        started.map(message).map_err(desk_error)
    }

    pub async fn find(&self, id: &str) -> Result<v1::Rebuild, Error> {
        self.record(id).await.map(|(_, rebuild)| message(rebuild))
    }

    pub async fn wish(&self, id: &str, wish: Wish) -> Result<v1::Rebuild, Error> {
        let (desk, _) = self.record(id).await?;
        let told = desk.wish(id, wish).await.map_err(desk_error)?;
        told.map(message).ok_or_else(|| not_found(id))
    }

    pub async fn roll_back(&self, projection: &str) -> Result<(), Error> {
        self.desk(projection)?.roll_back().await.map_err(desk_error)
    }

    /// The rebuild now and again until it has ended. While Elasticsearch does not answer, the watch tells what was last known.
    pub async fn watch(
        &self,
        id: String,
    ) -> Result<impl Stream<Item = Result<WatchRebuildResponse, Status>> + Send + 'static, Error> {
        let (desk, first) = self.record(&id).await?;
        let start = (desk.clone(), self.draining.clone(), Some(first), false);
        Ok(stream::unfold(Some(start), |state| async move {
            let (desk, draining, last, told) = state?;
            let mut last = last?;
            if told {
                if last.stage.is_ended() {
                    return None;
                }
                if draining.run_until_cancelled(sleep(TELL_EVERY)).await.is_none() {
                    let error = Error::new(Reason::ShuttingDown, "the service is stopping; watch again");
                    return Some((Err(error.into()), None));
                }
                match desk.find(&last.rebuild_id).await {
                    Ok(Some(now)) => last = now,
                    Ok(None) => return Some((Err(not_found(&last.rebuild_id).into()), None)),
                    Err(error) => last.error = format!("not known: {error}"),
                }
            }
            let answer = WatchRebuildResponse { rebuild: Some(message(last.clone())) };
            Some((Ok(answer), Some((desk, draining, Some(last), true))))
        }))
    }

    fn desk(&self, projection: &str) -> Result<&Desk, Error> {
        super::desk(&self.desks, projection)
    }

    async fn record(&self, id: &str) -> Result<(&Desk, Rebuild), Error> {
        if id.is_empty() || id.len() > REQUEST_ID_CHARACTERS {
            return Err(not_found(id));
        }
        for desk in &self.desks {
            if let Some(rebuild) = desk.find(id).await.map_err(desk_error)? {
                return Ok((desk, rebuild));
            }
        }
        Err(not_found(id))
    }
}

fn not_found(id: &str) -> Error {
    let shown: String = id.chars().filter(|c| !c.is_control()).take(REQUEST_ID_CHARACTERS).collect();
    Error::new(Reason::RebuildNotFound, format!("there is no rebuild {shown}")).with("rebuild_id", shown)
}

fn desk_error(error: DeskError) -> Error {
    match error {
        DeskError::Running(id) => {
            let text = format!("rebuild {id} of this projection is under way");
            Error::new(Reason::RebuildRunning, text).with("rebuild_id", id)
        }
        DeskError::NoPrevious => Error::new(Reason::NoPreviousIndex, error.to_string()),
        DeskError::NotNow(why) => Error::new(Reason::SwitchPostponed, why),
        DeskError::Index(error) => answer::index_error(&error),
    }
}

fn message(rebuild: Rebuild) -> v1::Rebuild {
    let time = |nanos: i64| (nanos > 0).then(|| proto::time::from_nanos(nanos));
    let state = state(&rebuild);
    v1::Rebuild {
        rebuild_id: rebuild.rebuild_id,
        projection: rebuild.projection,
        state: state.into(),
        source_index: rebuild.source_index,
        target_index: rebuild.target_index,
        streams_done: rebuild.streams_done,
        streams_total: rebuild.streams_total,
        streams_per_second: rebuild.streams_per_second,
        percent: rebuild.percent,
        eta_seconds: rebuild.eta_seconds,
        start_time: time(rebuild.started_at),
        end_time: time(rebuild.ended_at),
        verification: rebuild.verified.map(verification),
        error: rebuild.error,
    }
}

fn state(rebuild: &Rebuild) -> v1::rebuild::State {
    use v1::rebuild::State;
    match rebuild.stage {
        Stage::Succeeded => State::Succeeded,
        Stage::Failed => State::Failed,
        Stage::Cancelled => State::Cancelled,
        Stage::Verified => State::Verified,
        _ if rebuild.paused => State::Paused,
        Stage::Asked | Stage::Scanning => State::Scanning,
        Stage::CatchingUp => State::CatchingUp,
        Stage::Verifying | Stage::Switching => State::Verifying,
    }
}

fn verification(verified: Verified) -> v1::Verification {
    let example = |Difference { key, what }| format!("{key} {what}");
    v1::Verification {
        documents_expected: verified.expected,
        documents_found: verified.found,
        documents_compared: verified.compared,
        documents_different: verified.different,
        examples: verified.examples.into_iter().map(example).collect(),
    }
}
