//! The admin service: how the projections are, which streams are set aside.
//!
//! It answers whatever stands still: what a dependency does not tell in time is told from what was last known, and that it does not
//! answer is part of the answer.
//!
//! - `projections`: the state of each projection.
//! - `rebuild`: rebuilds and the way back.
//! - `parked`: streams that are set aside.
//! - `audit`: documents compared with their events.

mod projections;
mod rebuild;
mod parked;
mod audit;

use std::pin::Pin;

use futures_util::Stream;
use proto::reason::Error;
use proto::v1::projection_admin_service_server::{ProjectionAdminService, ProjectionAdminServiceServer};
use proto::v1::{
    AuditProjectionRequest, AuditProjectionResponse, CancelRebuildRequest, CancelRebuildResponse,
    GetRebuildRequest, GetRebuildResponse, ListParkedStreamsRequest, ListParkedStreamsResponse,
    ListProjectionsRequest, ListProjectionsResponse, PauseRebuildRequest, PauseRebuildResponse,
    ResumeRebuildRequest, ResumeRebuildResponse, RetryParkedStreamRequest, RetryParkedStreamResponse,
    RollbackProjectionRequest, RollbackProjectionResponse, StartRebuildRequest, StartRebuildResponse,
    WatchRebuildRequest, WatchRebuildResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::Queries;
use crate::rebuild::{Desk, Wish};
use audit::Audits;
use parked::Parked;
use projections::Projections;
use rebuild::Rebuilds;

/// `orders.v1.ProjectionAdminService`.
#[derive(Clone, Debug)]
pub struct Administration {
    projections: Projections,
    rebuilds: Rebuilds,
    parked: Parked,
    audits: Audits,
}

impl Administration {
    /// The service over the projections that `queries` leads to; watches and audits end with `SHUTTING_DOWN` once `draining` begins.
    #[must_use]
    pub fn new(queries: &Queries, draining: CancellationToken) -> ProjectionAdminServiceServer<Self> {
        let rebuilds = Rebuilds::new(queries.desks.clone(), draining.clone());
        let audits = Audits::new(queries.auditors.clone(), draining);
        let (projections, parked) = (Projections::new(queries), Parked::new(queries));
        ProjectionAdminServiceServer::new(Self { projections, rebuilds, parked, audits })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The desk of a projection that a caller names.
fn desk<'a>(desks: &'a [Desk], projection: &str) -> Result<&'a Desk, Error> {
    desks.iter().find(|desk| desk.projection() == projection).ok_or_else(unknown_projection)
}

fn unknown_projection() -> Error {
    Error::invalid("projection", "must be \"orders\", \"customers\" or \"products\"")
}

#[tonic::async_trait]
impl ProjectionAdminService for Administration {
    async fn list_projections(
        &self,
        _request: Request<ListProjectionsRequest>,
    ) -> Result<Response<ListProjectionsResponse>, Status> {
        Ok(Response::new(ListProjectionsResponse { projections: self.projections.list().await }))
    }

    async fn start_rebuild(
        &self,
        request: Request<StartRebuildRequest>,
    ) -> Result<Response<StartRebuildResponse>, Status> {
        let rebuild = Some(self.rebuilds.start(request.into_inner()).await?);
        Ok(Response::new(StartRebuildResponse { rebuild }))
    }

    async fn get_rebuild(
        &self,
        request: Request<GetRebuildRequest>,
    ) -> Result<Response<GetRebuildResponse>, Status> {
        let rebuild = Some(self.rebuilds.find(&request.into_inner().rebuild_id).await?);
        Ok(Response::new(GetRebuildResponse { rebuild }))
    }

    type WatchRebuildStream = Answers<WatchRebuildResponse>;

    async fn watch_rebuild(
        &self,
        request: Request<WatchRebuildRequest>,
    ) -> Result<Response<Self::WatchRebuildStream>, Status> {
        let watch = self.rebuilds.watch(request.into_inner().rebuild_id).await?;
        Ok(Response::new(Box::pin(watch)))
    }

    async fn pause_rebuild(
        &self,
        request: Request<PauseRebuildRequest>,
    ) -> Result<Response<PauseRebuildResponse>, Status> {
        let id = request.into_inner().rebuild_id;
        let rebuild = Some(self.rebuilds.wish(&id, Wish::Pause).await?);
        Ok(Response::new(PauseRebuildResponse { rebuild }))
    }

    async fn resume_rebuild(
        &self,
        request: Request<ResumeRebuildRequest>,
    ) -> Result<Response<ResumeRebuildResponse>, Status> {
        let id = request.into_inner().rebuild_id;
        let rebuild = Some(self.rebuilds.wish(&id, Wish::Resume).await?);
        Ok(Response::new(ResumeRebuildResponse { rebuild }))
    }

    async fn cancel_rebuild(
        &self,
        request: Request<CancelRebuildRequest>,
    ) -> Result<Response<CancelRebuildResponse>, Status> {
        let id = request.into_inner().rebuild_id;
        let rebuild = Some(self.rebuilds.wish(&id, Wish::Cancel).await?);
        Ok(Response::new(CancelRebuildResponse { rebuild }))
    }

    async fn rollback_projection(
        &self,
        request: Request<RollbackProjectionRequest>,
    ) -> Result<Response<RollbackProjectionResponse>, Status> {
        let name = request.into_inner().projection;
        self.rebuilds.roll_back(&name).await?;
        let projection = self.projections.list().await.into_iter().find(|projection| projection.name == name);
        Ok(Response::new(RollbackProjectionResponse { projection }))
    }

    async fn list_parked_streams(
        &self,
        request: Request<ListParkedStreamsRequest>,
    ) -> Result<Response<ListParkedStreamsResponse>, Status> {
        Ok(Response::new(self.parked.list(request.into_inner()).await?))
    }

    async fn retry_parked_stream(
        &self,
        request: Request<RetryParkedStreamRequest>,
    ) -> Result<Response<RetryParkedStreamResponse>, Status> {
        let still_parked = self.parked.retry(request.into_inner()).await?;
        Ok(Response::new(RetryParkedStreamResponse { still_parked }))
    }

    type AuditProjectionStream = Answers<AuditProjectionResponse>;

    async fn audit_projection(
        &self,
        request: Request<AuditProjectionRequest>,
    ) -> Result<Response<Self::AuditProjectionStream>, Status> {
        Ok(Response::new(Box::pin(self.audits.begin(request.into_inner())?)))
    }
}
