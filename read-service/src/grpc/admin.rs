//! The admin service: how the projections are, which streams are set aside.
//!
//! It answers whatever stands still: what a dependency does not tell in time is told from what was last known, and that it does not
//! answer is part of the answer.
//!
//! - `projections`: the state of each projection.

mod projections;

use std::pin::Pin;

use futures_util::Stream;
use proto::v1::projection_admin_service_server::{ProjectionAdminService, ProjectionAdminServiceServer};
use proto::v1::{
    AuditProjectionRequest, AuditProjectionResponse, CancelRebuildRequest, CancelRebuildResponse,
    GetRebuildRequest, GetRebuildResponse, ListParkedStreamsRequest, ListParkedStreamsResponse,
    ListProjectionsRequest, ListProjectionsResponse, PauseRebuildRequest, PauseRebuildResponse,
    ResumeRebuildRequest, ResumeRebuildResponse, RetryParkedStreamRequest, RetryParkedStreamResponse,
    RollbackProjectionRequest, RollbackProjectionResponse, StartRebuildRequest, StartRebuildResponse,
    WatchRebuildRequest, WatchRebuildResponse,
};
use tonic::{Request, Response, Status};

use crate::Queries;
use projections::Projections;

/// `orders.v1.ProjectionAdminService`.
#[derive(Clone, Debug)]
pub struct Administration {
    projections: Projections,
}

impl Administration {
    /// The service over the projections that `queries` leads to.
    #[must_use]
    pub fn new(queries: &Queries) -> ProjectionAdminServiceServer<Self> {
        ProjectionAdminServiceServer::new(Self { projections: Projections::new(queries) })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn later<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not served yet"))
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
        _request: Request<StartRebuildRequest>,
    ) -> Result<Response<StartRebuildResponse>, Status> {
        later()
    }

    async fn get_rebuild(
        &self,
        _request: Request<GetRebuildRequest>,
    ) -> Result<Response<GetRebuildResponse>, Status> {
        later()
    }

    type WatchRebuildStream = Answers<WatchRebuildResponse>;

    async fn watch_rebuild(
        &self,
        _request: Request<WatchRebuildRequest>,
    ) -> Result<Response<Self::WatchRebuildStream>, Status> {
        later()
    }

    async fn pause_rebuild(
        &self,
        _request: Request<PauseRebuildRequest>,
    ) -> Result<Response<PauseRebuildResponse>, Status> {
        later()
    }

    async fn resume_rebuild(
        &self,
        _request: Request<ResumeRebuildRequest>,
    ) -> Result<Response<ResumeRebuildResponse>, Status> {
        later()
    }

    async fn cancel_rebuild(
        &self,
        _request: Request<CancelRebuildRequest>,
    ) -> Result<Response<CancelRebuildResponse>, Status> {
        later()
    }

    async fn rollback_projection(
        &self,
        _request: Request<RollbackProjectionRequest>,
    ) -> Result<Response<RollbackProjectionResponse>, Status> {
        later()
    }

    async fn list_parked_streams(
        &self,
        _request: Request<ListParkedStreamsRequest>,
    ) -> Result<Response<ListParkedStreamsResponse>, Status> {
        later()
    }

    async fn retry_parked_stream(
        &self,
        _request: Request<RetryParkedStreamRequest>,
    ) -> Result<Response<RetryParkedStreamResponse>, Status> {
        later()
    }

    type AuditProjectionStream = Answers<AuditProjectionResponse>;

    async fn audit_projection(
        &self,
        _request: Request<AuditProjectionRequest>,
    ) -> Result<Response<Self::AuditProjectionStream>, Status> {
        later()
    }
}
