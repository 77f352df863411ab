//! The same request again and again: from many connections at once, and after the service was killed.

use std::net::SocketAddr;

use futures_util::future::join_all;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::*;
use tonic::Status;
use tonic::transport::Channel;

use crate::process::WriteService;
use crate::support::{World, connect, create, lantern, new_id, serve_at};

const CONNECTIONS: usize = 50;

type Client = OrderCommandServiceClient<Channel>;

/// A command with its content: sent as often as one likes, it is the same request.
#[derive(Clone)]
enum Request {
    Create(CreateOrderRequest),
    Add(AddItemRequest),
}

impl Request {
    fn create() -> Self {
        let items = vec![lantern(1), lantern(2)];
        Self::Create(CreateOrderRequest { request_id: new_id(), ..create(items, true) })
    }

    /// Adds a line to a draft of its own.
    async fn add(world: &mut World) -> Self {
        let (order_id, item) = (world.draft().await, Some(lantern(3)));
        Self::Add(AddItemRequest { order_id, request_id: new_id(), item, ..Default::default() })
    }

    async fn send(&self, client: &mut Client) -> Result<OrderReceipt, Status> {
        let receipt = match self.clone() {
            Self::Create(request) => client.create_order(request).await?.into_inner().receipt,
            Self::Add(request) => client.add_item(request).await?.into_inner().receipt,
        };
        Ok(receipt.unwrap())
    }

    fn order_id(&self) -> &str {
        match self {
            Self::Create(request) => &request.request_id,
            Self::Add(request) => &request.order_id,
        }
    }
}

/// Sends the request over fifty connections at once, spread over these copies.
async fn storm(request: &Request, copies: &[SocketAddr]) -> Vec<OrderReceipt> {
    let connected = copies.iter().cycle().take(CONNECTIONS).map(|address| connect(*address));
    let clients = join_all(connected).await.into_iter().map(OrderCommandServiceClient::new);
    join_all(clients.map(async |mut client| request.send(&mut client).await.unwrap())).await
}

#[tokio::test]
async fn one_request_from_fifty_connections_is_stored_once_and_answered_alike() {
    let mut world = World::start().await;
    let (one, _first) = serve_at(&world.database.url).await;
    let (two, _second) = serve_at(&world.database.url).await;
    for copies in [&[one][..], &[one, two][..]] {
        for request in [Request::create(), Request::add(&mut world).await] {
            let receipts = storm(&request, copies).await;
            let (first, repeats): (Vec<_>, Vec<_>) =
                receipts.into_iter().partition(|receipt| !receipt.replayed);
            let [first] = &first[..] else { panic!("one of them is the first: {first:?}") };
            assert_eq!(repeats.len(), CONNECTIONS - 1);
            assert!(
                repeats.into_iter().all(|repeat| repeat == OrderReceipt { replayed: true, ..first.clone() })
            );
            let stored = world.history(request.order_id()).await.len();
            assert_eq!(i64::try_from(stored).unwrap(), first.version);
        }
    }
}

/// The answer of a service that is started after another one was killed at `point` while it handled the request; then what
/// an undisturbed service would have answered to such a request.
async fn killed_at(point: &str, world: &mut World, request: &Request, twin: &Request) -> [OrderReceipt; 2] {
    let mut dying = WriteService::dying_at(point, &world.database.url).await;
    request.send(&mut dying.orders()).await.expect_err("killed before its answer");
    dying.died().await;
    let restarted = WriteService::start(&world.database.url).await;
    let answer = request.send(&mut restarted.orders()).await.unwrap();
    let repeat = request.send(&mut restarted.orders()).await.unwrap();
    assert_eq!(repeat, OrderReceipt { replayed: true, ..answer.clone() });
    assert_eq!(i64::try_from(world.history(request.order_id()).await.len()).unwrap(), answer.version);
    let mut undisturbed = twin.send(&mut world.orders).await.unwrap();
    undisturbed.order_id.clone_from(&answer.order_id);
    undisturbed.consistency_token.clone_from(&answer.consistency_token);
    [answer, undisturbed]
}

#[tokio::test]
async fn killed_between_commit_and_answer_the_retry_gets_the_original_answer() {
    let mut world = World::start().await;
    let requests = [
        (Request::create(), Request::create()),
        (Request::add(&mut world).await, Request::add(&mut world).await),
    ];
    for (request, twin) in requests {
        let [answer, original] = killed_at("append.committed", &mut world, &request, &twin).await;
        assert_eq!(answer, OrderReceipt { replayed: true, ..original });
    }
}

#[tokio::test]
async fn killed_before_the_append_the_retry_is_the_first() {
    let mut world = World::start().await;
    let requests = [
        (Request::create(), Request::create()),
        (Request::add(&mut world).await, Request::add(&mut world).await),
    ];
    for (request, twin) in requests {
        let [answer, original] = killed_at("append.collected", &mut world, &request, &twin).await;
        assert_eq!(answer, original);
        assert!(!answer.replayed);
    }
}
