//! `orders.v1.CatalogCommandService`: customers and products.

use futures_util::TryStreamExt as _;
use proto::reason::{Error, Reason};
use proto::token::ConsistencyToken;
use proto::v1::catalog_command_service_server::{CatalogCommandService, CatalogCommandServiceServer};
use proto::v1::put_many_request::Entry;
use proto::v1::{
    PutCustomerRequest, PutCustomerResponse, PutManyRequest, PutManyResponse, PutProductRequest,
    PutProductResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::answer;
use super::check::Check;
use super::in_order::in_order;
use super::request::Caller;
use crate::admission::Admission;
use crate::catalog::Kind;
use crate::codec;
use crate::command_handler::{Change, CommandHandler, Put};

/// Entries of one `PutMany` under way at a time.
const WINDOW: usize = 256;

/// `orders.v1.CatalogCommandService`.
#[derive(Clone)]
pub struct Catalog {
    handler: CommandHandler,
    admission: Admission,
    draining: CancellationToken,
}

impl Catalog {
    /// The service over `handler`; a `PutMany` ends with `SHUTTING_DOWN` once `draining` begins.
    #[must_use]
    pub fn new(
        handler: CommandHandler,
        admission: Admission,
        draining: CancellationToken,
    ) -> CatalogCommandServiceServer<Self> {
        CatalogCommandServiceServer::new(Self { handler, admission, draining })
    }

    async fn put_one(&self, put: Put) -> Result<(Change, String), Status> {
        // Names are short: what they weigh is the command itself.
        let Some(_admitted) = self.admission.try_enter(0) else { return Err(answer::overloaded()) };
        self.put(put).await
    }

    async fn put(&self, put: Put) -> Result<(Change, String), Status> {
        let (category, key) = (codec::category(put.kind), put.key.clone());
        let change = self.handler.put(put).await.map_err(|error| answer::status(&key, error))?;
        let token = ConsistencyToken { category, key, version: change.version() };
        Ok((change, token.encode()))
    }
}

#[tonic::async_trait]
impl CatalogCommandService for Catalog {
    async fn put_customer(
        &self,
        request: Request<PutCustomerRequest>,
    ) -> Result<Response<PutCustomerResponse>, Status> {
        let (caller, request) = Caller::of(request);
        let (change, consistency_token) = self.put_one(parse(&caller, "", Entry::Customer(request))?).await?;
        Ok(Response::new(PutCustomerResponse { version: change.version(), consistency_token }))
    }

    async fn put_product(
        &self,
        request: Request<PutProductRequest>,
    ) -> Result<Response<PutProductResponse>, Status> {
        let (caller, request) = Caller::of(request);
        let (change, consistency_token) = self.put_one(parse(&caller, "", Entry::Product(request))?).await?;
        Ok(Response::new(PutProductResponse { version: change.version(), consistency_token }))
    }

    async fn put_many(
        &self,
        request: Request<Streaming<PutManyRequest>>,
    ) -> Result<Response<PutManyResponse>, Status> {
        let (caller, requests) = Caller::of(request);
        let puts = requests.and_then(|request| {
            let put = match request.entry {
                Some(Entry::Customer(entry)) => parse(&caller, "customer.", Entry::Customer(entry)),
                Some(Entry::Product(entry)) => parse(&caller, "product.", Entry::Product(entry)),
                None => Err(Error::invalid("entry", "customer or product is required")),
            };
            std::future::ready(put.map_err(Status::from))
        });
        let changes = in_order(
            puts,
            WINDOW,
            |put| (put.kind, put.key.clone()),
            |put| async move {
                let _admitted = self.admission.enter(0).await;
                self.put(put).await
            },
        );
        let count = changes.try_fold(PutManyResponse::default(), |mut count, (change, _)| async move {
            match change {
                Change::Registered { .. } => count.registered += 1,
                Change::Renamed { .. } => count.renamed += 1,
                Change::Unchanged { .. } => count.unchanged += 1,
            }
            Ok(count)
        });
        tokio::select! {
            count = count => count.map(Response::new),
            () = self.draining.cancelled() => {
                Err(Error::new(Reason::ShuttingDown, "the service is stopping; repeat the call").into())
            }
        }
    }
}

/// Checks an entry; `prefix` is the path to it.
fn parse(caller: &Caller, prefix: &str, entry: Entry) -> Result<Put, Error> {
    let mut check = Check::default();
    let (kind, field, key, name) = match entry {
        Entry::Customer(entry) => (Kind::Customer, "customer_id", entry.customer_id, entry.name),
        Entry::Product(entry) => (Kind::Product, "product_id", entry.product_id, entry.name),
    };
    let key = check.key(&format!("{prefix}{field}"), key);
    let name = check.text(&format!("{prefix}name"), name, 1, 200);
    let Caller { actor, traceparent } = caller.clone();
    check.finish(Put { kind, key, name, actor, traceparent })
}
