//! Orders made of the bundled sample of real ones: as they are, or cut to a few lines.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use local::import::order;
use local::import::survey::Survey;
use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::execute_commands_request::Command;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::{CreateOrderRequest, ExecuteCommandsRequest, PutCustomerRequest, PutProductRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::pair::Pair;

/// Commands under way.
const WINDOW: usize = 1_000;
/// Lines of a small order, at most.
const FEW: usize = 5;

/// What orders look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One to five lines.
    Small,
    /// As in the sample: 21 lines on average.
    Real,
}

/// The orders of the sample, whose customers and products the pair knows.
pub struct Orders {
    requests: Vec<CreateOrderRequest>,
    /// Names of products by their ids.
    names: HashMap<String, String>,
}

impl Orders {
    /// Reads the sample and registers its names.
    pub async fn register(pair: &Pair) -> anyhow::Result<Self> {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy/local/sample/online-retail-sample.csv.gz");
        let survey = Survey::of(&file)?;
        let mut orders = Vec::new();
        order::read(&file, &survey, |order| {
            orders.push(order.request);
            true
        })?;
        let mut catalog = CatalogCommandServiceClient::new(pair.connect().await?);
        for customer_id in &survey.customers {
            let name = format!("Customer {customer_id}");
            catalog.put_customer(PutCustomerRequest { customer_id: customer_id.clone(), name }).await?;
        }
        for product in &survey.products {
            let request = PutProductRequest { product_id: product.id.clone(), name: product.name.clone() };
            catalog.put_product(request).await?;
        }
        let names = survey.products.into_iter().map(|product| (product.id, product.name)).collect();
        Ok(Self { requests: orders, names })
    }

    /// The name of a product, empty where it is none of the sample.
    pub fn product_name(&self, product_id: &str) -> &str {
        self.names.get(product_id).map_or("", String::as_str)
    }

    /// The order with this number, again and again those of the sample; each call gives it another id.
    pub fn command(&self, number: usize, shape: Shape) -> CreateOrderRequest {
        let mut request = self.requests[number % self.requests.len()].clone();
        if shape == Shape::Small {
            request.items.truncate(1 + number % FEW);
        }
        request.request_id = Uuid::now_v7().to_string();
        request.reference = format!("R-{number}");
        request
    }

    /// Places so many orders, each with one command; their ids.
    pub async fn place(&self, pair: &Pair, count: usize, shape: Shape) -> anyhow::Result<Vec<String>> {
        let commands = (0..count).map(|number| Command::CreateOrder(self.command(number, shape)));
        execute(pair, commands).await
    }
}

/// Executes commands, many at a time, those on one order in their order; the ids of their orders.
pub async fn execute(pair: &Pair, commands: impl Iterator<Item = Command>) -> anyhow::Result<Vec<String>> {
    let mut client = OrderCommandServiceClient::new(pair.connect().await?);
    let (sender, receiver) = mpsc::channel(WINDOW);
    let mut answers = client.execute_commands(ReceiverStream::new(receiver)).await?.into_inner();
    let mut commands = commands.enumerate();
    let mut under_way = 0;
    let mut ids = Vec::new();
    loop {
        while under_way < WINDOW
            && let Some((number, command)) = commands.next()
        {
            let request = ExecuteCommandsRequest { sequence: number as u64, command: Some(command) };
            sender.send(request).await.ok().context("the service ended the call")?;
            under_way += 1;
        }
        if under_way == 0 {
            return Ok(ids);
        }
        let answer = answers.message().await?.context("the service ended the call")?;
        let Some(Outcome::Receipt(receipt)) = answer.outcome else {
            bail!("a command failed: {:?}", answer.outcome)
        };
        under_way -= 1;
        ids.push(receipt.order_id);
    }
}
