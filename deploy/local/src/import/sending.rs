//! The way to the write service: names first, then orders through one stream with a bounded window.
//!
//! An answer settles its order. When the connection is lost, or the service asks for patience, the sender waits, connects
//! again and sends every unanswered command again under the same `request_id`, so nothing is stored twice. It gives up when
//! the service has not answered anything for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use proto::reason::{Advice, Reason, status_from_message};
use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::execute_commands_request::Command;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::put_many_request::Entry;
use proto::v1::{
    ExecuteCommandsRequest, ExecuteCommandsResponse, OrderReceipt, PutCustomerRequest, PutManyRequest,
    PutManyResponse, PutProductRequest,
};
use shared::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::order::Order;
use super::summary::Summary;
use super::survey::Survey;
use crate::screen::Screen;

/// Orders sent and not yet answered.
const WINDOW: usize = 500;
/// Names in one call: far below the service's deadline for a call.
const NAMES_PER_CALL: usize = 1_000;
/// Time without any answer after which the sender gives up: at first, and once the service has answered.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(1);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Rejected orders that are shown; all are counted.
const EXAMPLES: u64 = 20;

/// Sends an import to one write service.
pub struct Sender<'s> {
    endpoint: Endpoint,
    screen: &'s Screen,
    backoff: Backoff,
    /// When to give up, moved by every answer.
    deadline: Instant,
}

/// What the service decided on an order.
type Decision = Result<OrderReceipt, Status>;

/// An attempt that may be repeated, or not.
enum Failure {
    Passing(Status),
    Final(anyhow::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if is_passing(&status) {
            Self::Passing(status)
        } else {
            Self::Final(anyhow!("{}", describe(&status)))
        }
    }
}

impl<'s> Sender<'s> {
    /// A sender to the write service at `to`, as `http://host:port`.
    ///
    /// # Errors
    /// Where `to` is no such address.
    pub fn new(to: &str, screen: &'s Screen) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(to.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme().is_some())
            .with_context(|| format!("{to:?} is not an address like http://127.0.0.1:50051"))?
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        Ok(Self { endpoint, screen, backoff, deadline: Instant::now() })
    }

    /// Registers every customer and product that the file names.
    ///
    /// # Errors
    /// Where the service refuses a name or stays away.
    pub async fn register(&mut self, survey: &Survey) -> anyhow::Result<PutManyResponse> {
        let customers = survey.customers.iter().map(|number| {
            Entry::Customer(PutCustomerRequest {
                customer_id: number.clone(),
                name: format!("Customer {number}"),
            })
        });
        let products = survey.products.iter().map(|product| {
            Entry::Product(PutProductRequest { product_id: product.id.clone(), name: product.name.clone() })
        });
        let entries: Vec<_> =
            customers.chain(products).map(|entry| PutManyRequest { entry: Some(entry) }).collect();
        let bar = self.screen.bar("names", entries.len() as u64, "names");
        let mut total = PutManyResponse::default();
        self.deadline = Instant::now() + FIRST_PATIENCE;
        for chunk in entries.chunks(NAMES_PER_CALL) {
            let answer = loop {
                let attempt = timeout_at(self.deadline, put_many(&self.endpoint, chunk)).await;
                match attempt.unwrap_or_else(|_| Err(no_answer())) {
                    Ok(answer) => break answer,
                    Err(failure) => self.wait_after(failure).await?,
                }
            };
            self.answered();
            total.registered += answer.registered;
            total.renamed += answer.renamed;
            total.unchanged += answer.unchanged;
            bar.add(chunk.len() as u64);
        }
        Ok(total)
    }

    /// Sends the orders that come through `orders`, about `expected` of them, until each is answered.
    ///
    /// # Errors
    /// Where the service stays away or refuses the stream as a whole.
    pub async fn send(
        &mut self,
        expected: usize,
        mut orders: mpsc::Receiver<Order>,
        summary: &mut Summary,
    ) -> anyhow::Result<()> {
        let screen = self.screen;
        let bar = screen.bar("orders", expected as u64, "orders");
        let mut window = Window::default();
        self.deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = self.stream(&mut window, &mut orders, |order, outcome| {
                match outcome {
                    Ok(receipt) => summary.accept(&receipt, order.request.items.len()),
                    Err(status) => {
                        summary.rejected += 1;
                        if summary.rejected <= EXAMPLES {
                            screen.line(format_args!(
                                "invoice {} rejected: {}",
                                order.invoice,
                                describe(&status)
                            ));
                        }
                    }
                }
                bar.set(summary.answered());
            });
            match attempt.await {
                Ok(()) => return Ok(()),
                Err(failure) => self.wait_after(failure).await?,
            }
        }
    }

    /// One connection: sends what is unanswered, then new orders, until all are answered or something fails.
    async fn stream(
        &mut self,
        window: &mut Window,
        orders: &mut mpsc::Receiver<Order>,
        mut settle: impl FnMut(Order, Decision),
    ) -> Result<(), Failure> {
        let channel =
            timeout_at(self.deadline, connect(&self.endpoint)).await.unwrap_or_else(|_| Err(no_answer()))?;
        let (requests, receiver) = mpsc::channel(WINDOW);
        for (sequence, order) in &window.unanswered {
            // There is room for the whole window.
            requests.try_send(request(*sequence, order)).map_err(|_| no_answer())?;
        }
        let mut client = OrderCommandServiceClient::new(channel);
        let opened = timeout_at(self.deadline, client.execute_commands(ReceiverStream::new(receiver))).await;
        let mut answers = opened.unwrap_or_else(|_| Err(Status::unavailable("no answer")))?.into_inner();
        loop {
            tokio::select! {
                order = orders.recv(), if window.has_room() => match order {
                    Some(order) => {
                        let sequence = window.add(order.clone());
                        requests.send(request(sequence, &order)).await.map_err(|_| closed())?;
                    }
                    None => window.source_ended = true,
                },
                answer = timeout_at(self.deadline, answers.message()), if !window.unanswered.is_empty() => {
                    let answer = answer.map_err(|_| no_answer())??.ok_or_else(closed)?;
                    let Some((order, outcome)) = window.settle(answer)? else { continue };
                    self.answered();
                    settle(order, outcome);
                }
                else => return Ok(()),
            }
        }
    }

    /// The service lives: patience starts anew.
    fn answered(&mut self) {
        self.backoff.reset();
        self.deadline = Instant::now() + PATIENCE;
    }

    /// Waits before the next attempt, or gives up.
    async fn wait_after(&mut self, failure: Failure) -> anyhow::Result<()> {
        let status = match failure {
            Failure::Passing(status) => status,
            Failure::Final(error) => return Err(error),
        };
        if Instant::now() >= self.deadline {
            bail!("the write service at {} does not answer: {}", self.endpoint.uri(), describe(&status));
        }
        sleep(self.backoff.next()).await;
        Ok(())
    }
}

/// Orders sent and not yet answered, by sequence.
#[derive(Default)]
struct Window {
    unanswered: BTreeMap<u64, Order>,
    last: u64,
    source_ended: bool,
}

impl Window {
    fn has_room(&self) -> bool {
        !self.source_ended && self.unanswered.len() < WINDOW
    }

    fn add(&mut self, order: Order) -> u64 {
        self.last += 1;
        self.unanswered.insert(self.last, order);
        self.last
    }

    /// The order that an answer settles; `None` for an answer that comes twice. An answer that asks for a repeat settles
    /// nothing and fails the attempt.
    fn settle(&mut self, answer: ExecuteCommandsResponse) -> Result<Option<(Order, Decision)>, Failure> {
        let outcome = match answer.outcome {
            Some(Outcome::Receipt(receipt)) => Ok(receipt),
            Some(Outcome::Error(error)) => Err(status_from_message(&error)),
            None => return Err(Failure::Final(anyhow!("the write service gave an answer without outcome"))),
        };
        match outcome {
            Err(status) if is_passing(&status) => Err(Failure::Passing(status)),
            outcome => Ok(self.unanswered.remove(&answer.sequence).map(|order| (order, outcome))),
        }
    }
}

fn request(sequence: u64, order: &Order) -> ExecuteCommandsRequest {
    ExecuteCommandsRequest { sequence, command: Some(Command::CreateOrder(order.request.clone())) }
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, Failure> {
    endpoint.connect().await.map_err(|error| {
        let cause = anyhow::Error::new(error).root_cause().to_string();
        Failure::Passing(Status::unavailable(cause))
    })
}

async fn put_many(endpoint: &Endpoint, entries: &[PutManyRequest]) -> Result<PutManyResponse, Failure> {
    let mut client = CatalogCommandServiceClient::new(connect(endpoint).await?);
    Ok(client.put_many(tokio_stream::iter(entries.to_vec())).await?.into_inner())
}

fn no_answer() -> Failure {
    Failure::Passing(Status::unavailable("no answer in time"))
}

fn closed() -> Failure {
    Failure::Passing(Status::unavailable("the connection was closed"))
}

/// Whether a repeat of the same command may succeed.
fn is_passing(status: &Status) -> bool {
    match Reason::of(status).map(Reason::advice) {
        Some(advice) => matches!(advice, Advice::WaitAndRepeat | Advice::Repeat | Advice::ReadAgain),
        // Not from the service but from the way to it.
        None => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded
        ),
    }
}

fn describe(status: &Status) -> String {
    Reason::of(status)
        .map_or_else(|| status.message().to_owned(), |reason| format!("{reason}: {}", status.message()))
}
