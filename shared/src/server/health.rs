//! `grpc.health.v1.Health`: SERVING while every condition of readiness holds and draining has not begun.
//!
//! The answer is computed when asked, so nothing is served as healthy after draining began. A watch ends with draining,
//! after its last word, `NOT_SERVING`: it would hold the connection open otherwise.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::probes::Readiness;

/// Health of the services with these names, and of the whole under "".
pub(super) fn service(
    names: Vec<&'static str>,
    readiness: Readiness,
    draining: CancellationToken,
) -> HealthServer<impl Health> {
    HealthServer::new(Service { names, state: State { readiness, draining } })
}

struct Service {
    names: Vec<&'static str>,
    state: State,
}

#[derive(Clone)]
struct State {
    readiness: Readiness,
    draining: CancellationToken,
}

impl State {
    fn status(&self) -> ServingStatus {
        if self.readiness.is_ready() && !self.draining.is_cancelled() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }

    /// Every status that differs from the one before, up to the one that draining causes.
    fn changes(self) -> impl Stream<Item = ServingStatus> {
        let changes = self.readiness.changes();
        stream::unfold((self, changes, None), async |(state, mut changes, last)| {
            loop {
                let draining = state.draining.is_cancelled();
                let status = state.status();
                if last != Some(status) {
                    return Some((status, (state, changes, Some(status))));
                }
                if draining {
                    return None;
                }
                tokio::select! {
                    () = state.draining.cancelled() => {}
                    known = changes.changed() => known.ok()?,
                }
            }
        })
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(answer(self.state.status())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// An unknown service gets `SERVICE_UNKNOWN`, as the protocol demands: it may appear later, though here it never does.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        use futures_util::StreamExt as _;
        if self.knows(&request.get_ref().service) {
            return Ok(Response::new(Box::pin(
                self.state.clone().changes().map(|status| Ok(answer(status))),
            )));
        }
        let draining = self.state.draining.clone();
        let unknown = stream::once(async { Ok(answer(ServingStatus::ServiceUnknown)) });
        let until_drained = unknown.chain(stream::pending()).take_until(draining.cancelled_owned());
        Ok(Response::new(Box::pin(until_drained)))
    }
}

impl Service {
    fn knows(&self, name: &str) -> bool {
        name.is_empty() || self.names.contains(&name)
    }
}
