//! The importer against a write service that loses connections, asks for patience and rejects.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use local::import;
use local::import::order::{order_id, read};
use local::import::survey::{Survey, UncleanCounts};
use local::screen::Screen;
use proto::reason::{Error, Reason, status_message};
use proto::v1::catalog_command_service_server::{CatalogCommandService, CatalogCommandServiceServer};
use proto::v1::execute_commands_request::Command;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::order_command_service_server::{OrderCommandService, OrderCommandServiceServer};
use proto::v1::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Commands that the service takes before it drops a connection, and how many of them it has answered by then.
const TAKEN: usize = 200;
const ANSWERED: usize = 150;
/// Connections that it drops, each in another way. Of 600 orders at least 300 are left for the third, so each of them is long
/// enough to be dropped; a later one might end with commands that are taken and never answered.
const DROPPED: usize = 3;
const REJECTED: &str = "536370";

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/online-retail-sample.csv.gz")
}

/// Keeps what it was sent, by `request_id`, and behaves badly.
#[derive(Clone, Default)]
struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    orders: HashMap<String, CreateOrderRequest>,
    names: HashSet<String>,
    refused_catalog_calls: usize,
    connections: usize,
}

impl Fake {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address");
        let server = tonic::transport::Server::builder()
            .add_service(OrderCommandServiceServer::new(self.clone()))
            .add_service(CatalogCommandServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        format!("http://{address}")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }

    /// Stores the order as the real service does: once, then replayed.
    fn take(&self, request: CreateOrderRequest) -> Outcome {
        if request.reference == REJECTED {
            return Outcome::Error(status_message(
                &Error::new(Reason::CustomerUnknown, "no such customer").into(),
            ));
        }
        let minor_units = request.items.iter().map(|item| i64::from(item.quantity) * price(item)).sum();
        let total = Some(Money { currency_code: request.currency_code.clone(), minor_units });
        let replayed = match self.state().orders.insert(request.request_id.clone(), request.clone()) {
            Some(earlier) => {
                assert_eq!(earlier, request, "a repeat has the same content");
                true
            }
            None => false,
        };
        Outcome::Receipt(OrderReceipt {
            order_id: request.request_id,
            replayed,
            total,
            ..OrderReceipt::default()
        })
    }
}

fn price(item: &NewItem) -> i64 {
    item.unit_price.as_ref().map_or(0, |price| price.minor_units)
}

macro_rules! unary {
    ($($method:ident: $request:ident => $response:ident,)+) => {
        #[tonic::async_trait]
        impl OrderCommandService for Fake {
            type ExecuteCommandsStream = ReceiverStream<Result<ExecuteCommandsResponse, Status>>;

            async fn execute_commands(
                &self,
                request: Request<Streaming<ExecuteCommandsRequest>>,
            ) -> Result<Response<Self::ExecuteCommandsStream>, Status> {
                let (answers, receiver) = mpsc::channel(TAKEN);
                tokio::spawn(answer(self.clone(), request.into_inner(), answers));
                Ok(Response::new(ReceiverStream::new(receiver)))
            }

            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not used by the importer"))
            })+
        }
    };
}

unary! {
    create_order: CreateOrderRequest => CreateOrderResponse,
    add_item: AddItemRequest => AddItemResponse,
    change_item_quantity: ChangeItemQuantityRequest => ChangeItemQuantityResponse,
    remove_item: RemoveItemRequest => RemoveItemResponse,
    submit_order: SubmitOrderRequest => SubmitOrderResponse,
    confirm_order: ConfirmOrderRequest => ConfirmOrderResponse,
    ship_order: ShipOrderRequest => ShipOrderResponse,
    deliver_order: DeliverOrderRequest => DeliverOrderResponse,
    cancel_order: CancelOrderRequest => CancelOrderResponse,
}

/// Stores up to [`TAKEN`] commands, answers [`ANSWERED`] of them, then fails in one of three ways.
async fn answer(
    fake: Fake,
    mut commands: Streaming<ExecuteCommandsRequest>,
    answers: mpsc::Sender<Result<ExecuteCommandsResponse, Status>>,
) {
    let connection = {
        let mut state = fake.state();
        state.connections += 1;
        state.connections
    };
    let mut taken = 0;
    while let Ok(Some(ExecuteCommandsRequest { sequence, command })) = commands.message().await {
        let Some(Command::CreateOrder(request)) = command else { panic!("only orders are created") };
        let outcome = Some(fake.take(request));
        taken += 1;
        let answered = connection > DROPPED || taken <= ANSWERED;
        if answered && answers.send(Ok(ExecuteCommandsResponse { sequence, outcome })).await.is_err() {
            return;
        }
        if connection <= DROPPED && taken == TAKEN {
            let overloaded = Status::from(Error::new(Reason::Overloaded, "a queue is full"));
            let failure = match connection % 3 {
                0 => return,
                1 => Err(Status::unavailable("going away")),
                _ => Ok(ExecuteCommandsResponse {
                    sequence,
                    outcome: Some(Outcome::Error(status_message(&overloaded))),
                }),
            };
            answers.send(failure).await.ok();
            return;
        }
    }
}

#[tonic::async_trait]
impl CatalogCommandService for Fake {
    async fn put_customer(
        &self,
        _: Request<PutCustomerRequest>,
    ) -> Result<Response<PutCustomerResponse>, Status> {
        Err(Status::unimplemented("not used by the importer"))
    }

    async fn put_product(
        &self,
        _: Request<PutProductRequest>,
    ) -> Result<Response<PutProductResponse>, Status> {
        Err(Status::unimplemented("not used by the importer"))
    }

    async fn put_many(
        &self,
        request: Request<Streaming<PutManyRequest>>,
    ) -> Result<Response<PutManyResponse>, Status> {
        let mut entries = request.into_inner();
        let mut count = 0;
        while let Some(entry) = entries.message().await? {
            self.state().names.insert(format!("{:?}", entry.entry));
            count += 1;
        }
        let mut state = self.state();
        if state.refused_catalog_calls == 0 {
            state.refused_catalog_calls += 1;
            return Err(Error::new(Reason::EventStoreDown, "the event store does not answer").into());
        }
        Ok(Response::new(PutManyResponse { registered: count, renamed: 0, unchanged: 0 }))
    }
}

#[tokio::test]
async fn every_order_arrives_once_over_lost_connections() {
    let fake = Fake::default();
    let to = fake.serve().await;
    let summary = import::run(&sample(), &to, &Screen::hidden(), &CancellationToken::new()).await.unwrap();

    let state = fake.state();
    assert!(state.connections > 3, "{} connections", state.connections);
    assert_eq!((state.orders.len(), summary.rejected, summary.stored + summary.replayed), (599, 1, 599));
    assert!(summary.replayed > 0, "what was stored but not answered is replayed");
    assert_eq!(state.names.len(), 450 + 1874);
    assert_eq!(summary.catalog.registered, 450 + 1874);
    let lines: usize = state.orders.values().map(|order| order.items.len()).sum();
    assert_eq!(summary.lines, lines as u64);
    for (id, order) in &state.orders {
        assert_eq!(*id, order_id(&order.reference).to_string());
    }
}

#[tokio::test]
async fn a_repeated_import_stores_nothing() {
    let fake = Fake::default();
    let to = fake.serve().await;
    let import =
        async || import::run(&sample(), &to, &Screen::hidden(), &CancellationToken::new()).await.unwrap();
    let first = import().await;
    let second = import().await;
    assert_eq!((second.stored, second.replayed, second.rejected), (0, 599, 1));
    assert_eq!((second.lines, second.revenue), (first.lines, first.revenue));
}

#[tokio::test]
async fn an_interrupted_import_says_so_and_sends_nothing_more() {
    let interrupted = CancellationToken::new();
    interrupted.cancel();
    let fake = Fake::default();
    let to = fake.serve().await;
    let summary = import::run(&sample(), &to, &Screen::hidden(), &interrupted).await.unwrap();
    assert!(summary.interrupted);
    assert!(fake.state().orders.is_empty());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_one_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = import::run(&sample(), &to, &Screen::hidden(), &CancellationToken::new()).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with(&format!("the write service at {to}/ does not answer: ")), "{error}");
    let error = import::run(&sample(), "127.0.0.1:50051", &Screen::hidden(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "\"127.0.0.1:50051\" is not an address like http://127.0.0.1:50051");
}

#[test]
fn the_sample_holds_what_its_readme_says() {
    let survey = Survey::of(&sample()).unwrap();
    assert_eq!((survey.rows, survey.lines, survey.invoices.len()), (17_409, 11_215, 600));
    assert_eq!((survey.customers.len(), survey.products.len(), survey.malformed), (450, 1_874, 0));
    let unclean = UncleanCounts { cancellations: 192, no_customer: 6_001, quantity: 0, price: 1 };
    assert_eq!(survey.unclean, unclean);
    let (mut orders, mut pence) = (0, 0);
    read(&sample(), &survey, |order| {
        orders += 1;
        pence += order.request.items.iter().map(|item| i64::from(item.quantity) * price(item)).sum::<i64>();
        true
    })
    .unwrap();
    assert_eq!((orders, pence), (600, 24_421_237));
}
