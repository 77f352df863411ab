//! A real Elasticsearch that stands still, is killed, and has no room: whoever asks meanwhile is answered or told so in time, and
//! nothing that is written meanwhile is lost.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local::elasticsearch::Node;
use local::process::{Process, kill_group};
use local::testing;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proto::reason::Reason;
use proto::v1::*;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::questions::{Queries, Question, SEARCHED, STORED, ask, is_refusal};
use crate::world::{PATIENCE, World, create};

/// What every question is given, and shortest time from one to the next.
const DEADLINE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// How often one asker was answered, and told that Elasticsearch is away.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    answered: usize,
    refused: usize,
}

/// Somebody who asks the same question again and again.
struct Asker {
    question: Question,
    token: bool,
    heard: watch::Receiver<Heard>,
}

impl Asker {
    /// Waits until it has heard more of what `count` counts.
    async fn hears(&self, more: usize, count: fn(&Heard) -> usize) {
        let mut heard = self.heard.clone();
        let before = count(&heard.borrow());
        let waited =
            tokio::time::timeout(PATIENCE, heard.wait_for(|heard| count(heard) >= before + more)).await;
        let told = || format!("{:?}, token {}: {:?}", self.question, self.token, self.heard.borrow());
        waited.unwrap_or_else(|_| panic!("{}", told())).unwrap_or_else(|_| panic!("{}", told()));
    }
}

/// All kinds of questions, with a token and without, and a customer who goes on ordering.
struct Load {
    askers: Vec<Asker>,
    asking: JoinSet<()>,
    ordering: tokio::task::JoinHandle<BTreeSet<String>>,
    over: CancellationToken,
}

impl Load {
    fn start(world: &Arc<World>, receipt: &OrderReceipt) -> Self {
        let over = CancellationToken::new();
        let (mut askers, mut asking) = (Vec::new(), JoinSet::new());
        let questions =
            SEARCHED.iter().chain(&STORED).flat_map(|question| [(*question, false), (*question, true)]);
        for (question, token) in questions {
            let (hearing, heard) = watch::channel(Heard::default());
            askers.push(Asker { question, token, heard });
            let (queries, receipt, over) = (world.queries(), receipt.clone(), over.clone());
            asking.spawn(async move {
                over.run_until_cancelled(asks(queries, question, token, receipt, hearing)).await;
            });
        }
        let ordering = tokio::spawn(orders(world.clone(), over.clone()));
        Self { askers, asking, ordering, over }
    }

    async fn hears(&self, questions: &[Question], more: usize, count: fn(&Heard) -> usize) {
        let heard = self.askers.iter().filter(|asker| questions.contains(&asker.question));
        join_all(heard.map(|asker| asker.hears(more, count))).await;
    }

    /// Every question to Elasticsearch is refused, more than once; the others are answered.
    async fn is_told(&self) {
        self.hears(&SEARCHED, 2, |heard| heard.refused).await;
        self.hears(&STORED, 1, |heard| heard.answered).await;
    }

    /// Every question is answered, more than once.
    async fn is_answered(&self) {
        self.hears(&SEARCHED, 2, |heard| heard.answered).await;
    }

    /// Whoever has no token is answered, more than once: what was made visible before still is.
    async fn is_answered_without_tokens(&self) {
        let heard = self.askers.iter().filter(|asker| !asker.token);
        join_all(heard.map(|asker| asker.hears(2, |heard| heard.answered))).await;
    }

    /// Ends it; gives the orders that were acknowledged.
    async fn end(mut self) -> BTreeSet<String> {
        self.over.cancel();
        while let Some(ended) = self.asking.join_next().await {
            ended.unwrap();
        }
        self.ordering.await.unwrap()
    }
}

/// Every answer comes in time: what was asked for, or that Elasticsearch is away.
async fn asks(
    queries: Queries,
    question: Question,
    token: bool,
    receipt: OrderReceipt,
    hearing: watch::Sender<Heard>,
) {
    let mut pace = interval(PAUSE);
    loop {
        pace.tick().await;
        let begun = Instant::now();
        let answer = ask(queries.clone(), question, &receipt, token, Some(DEADLINE)).await;
        let took = begun.elapsed();
        let told = format!("{question:?}, token {token}, after {took:?}: {answer:?}");
        let refused = answer.is_err_and(|status| {
            assert!(is_refusal(&status, Reason::SearchDown) && SEARCHED.contains(&question), "{told}");
            true
        });
        assert!(took < DEADLINE, "{told}");
        hearing.send_modify(|heard| {
            heard.answered += usize::from(!refused);
            heard.refused += usize::from(refused);
        });
    }
}

async fn orders(world: Arc<World>, over: CancellationToken) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut pace = interval(PAUSE);
    while !over.is_cancelled() {
        pace.tick().await;
        ids.insert(world.create(create(1)).await.order_id);
    }
    ids
}

fn send(server: &Process, signal: Signal) {
    killpg(Pid::from_raw(server.identity().unwrap().id.cast_signed()), signal).unwrap();
}

/// From now on the node has room for its indices, or for none.
async fn room(node: &Node, enough: bool) {
    // More bytes than any disk has left.
    let [low, high, flood] = if enough { ["null"; 3] } else { [r#""3000tb""#, r#""2000tb""#, r#""1000tb""#] };
    let settings = format!(
        r#"{{"persistent":{{"cluster.routing.allocation.disk.threshold_enabled":{},
        "cluster.routing.allocation.disk.watermark.low":{low},
        "cluster.routing.allocation.disk.watermark.high":{high},
        "cluster.routing.allocation.disk.watermark.flood_stage":{flood},
        "cluster.info.update.interval":"10s"}}}}"#,
        !enough
    );
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
    let (status, answer) = local::http::put(address, "/_cluster/settings", &settings).await.unwrap();
    assert_eq!(status, 200, "{answer}");
}

async fn projections(world: &World) -> Vec<Projection> {
    world.admin().list_projections(ListProjectionsRequest {}).await.unwrap().into_inner().projections
}

/// Waits until an order is read and listed as its receipt says.
async fn found(world: &World, receipt: &OrderReceipt) {
    for question in [Question::Get, Question::List] {
        testing::until(PATIENCE, "what was written is found", async || {
            ask(world.queries(), question, receipt, true, Some(DEADLINE)).await.ok()
        })
        .await;
    }
}

#[tokio::test]
async fn who_asks_is_told_in_time_and_nothing_is_lost() {
    let run = testing::private_run().unwrap();
    let node = testing::node(&run, 512).await.unwrap();
    let server = node.start(&run).await.unwrap();
    let world = Arc::new(World::start_on(node.url()).await);
    let first = world.create(create(1)).await;
    world.settle().await;
    let load = Load::start(&world, &first);
    load.is_answered().await;

    send(&server, Signal::SIGSTOP);
    load.is_told().await;
    let frozen = world.create(create(1)).await;
    send(&server, Signal::SIGCONT);
    found(&world, &frozen).await;
    load.is_answered().await;

    // Killed, and then it comes back to a full disk.
    room(&node, false).await;
    kill_group(server.identity().unwrap());
    load.is_told().await;
    let killed = world.create(create(1)).await;
    let server = node.start(&run).await.unwrap();
    testing::until(PATIENCE, "the full disk is met", async || {
        let projections = projections(&world).await;
        let orders = projections.iter().find(|projection| projection.name == "orders").unwrap();
        let met = orders.last_error == "elasticsearch is overloaded: cluster_block_exception";
        (met && orders.state() == projection::State::Waiting).then_some(())
    })
    .await;
    load.is_answered_without_tokens().await;
    let full = world.create(create(1)).await;
    room(&node, true).await;
    for receipt in [&killed, &full] {
        found(&world, receipt).await;
    }
    load.is_answered().await;

    let mut orders = load.end().await;
    orders.extend([first, frozen, killed, full].map(|receipt| receipt.order_id));
    world.settle().await;
    let listed = world.all_orders(OrderSort::Unspecified, 500).await;
    assert_eq!(listed.len(), orders.len());
    assert_eq!(listed.into_iter().map(|order| order.order_id).collect::<BTreeSet<_>>(), orders);
    // Those that nobody asked for may still be in the last wait that the full disk brought them.
    testing::until(PATIENCE, "every projection is live again", async || {
        let projections = projections(&world).await;
        let parked = projections.iter().map(|projection| projection.parked_streams).sum::<i64>();
        assert_eq!(parked, 0, "{projections:?}");
        let live = |each: &Projection| each.state() == projection::State::Live && each.last_error.is_empty();
        projections.iter().all(live).then_some(())
    })
    .await;
    kill_group(server.identity().unwrap());
    run.close();
}
