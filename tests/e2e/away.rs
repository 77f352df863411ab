//! What a caller hears while a part of the pair is away, and that it goes on when the part is back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local::testing;
use proto::reason::Reason;
use proto::v1::*;

use crate::gate::{Gate, Way};
use crate::questions::{Queries, Question, SEARCHED, STORED, ask, is_refusal};
use crate::world::{PATIENCE, Paths, Running, World, create};

/// A read service whose callers have this time where they name none.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(3);

async fn read_by(world: &World, paths: &Paths) -> Running {
    let deadline = format!("--default-deadline={}", WITHOUT_DEADLINE.as_secs());
    world.another_read_with(paths, &[deadline]).await
}

/// Every one of these questions is answered with this reason, in time and with the advice to come back.
async fn refused(
    queries: &Queries,
    questions: &[Question],
    receipt: &OrderReceipt,
    reason: Reason,
    why: &str,
) {
    let deadlines = [Some(Duration::from_secs(1)), Some(Duration::from_secs(2)), None];
    let asked = questions.iter().flat_map(|question| {
        let each = deadlines.into_iter().flat_map(|deadline| [(deadline, false), (deadline, true)]);
        each.map(move |(deadline, token)| async move {
            let begun = Instant::now();
            let answer = ask(queries.clone(), *question, receipt, token, deadline).await;
            let (status, took) = (answer.expect_err(why), begun.elapsed());
            let told = format!("{why}: {question:?} within {deadline:?}, token {token}: {status:?}");
            assert!(is_refusal(&status, reason), "{told}");
            assert!(took < deadline.unwrap_or(WITHOUT_DEADLINE), "{told} after {took:?}");
        })
    });
    join_all(asked).await;
}

/// Waits until a question is answered again.
async fn answered(queries: &Queries, question: Question, receipt: &OrderReceipt) {
    testing::until(PATIENCE, "it comes back by itself", async || {
        ask(queries.clone(), question, receipt, true, Some(Duration::from_secs(2))).await.ok()
    })
    .await;
}

#[tokio::test]
async fn elasticsearch_that_does_not_answer_is_named_before_the_deadline() {
    let mut world = World::start().await;
    let gate = Gate::before(world.paths().elasticsearch).await;
    let paths = Paths { elasticsearch: gate.address.clone(), ..world.paths() };
    let read = read_by(&world, &paths).await;
    // The only one: what is written meanwhile waits for its way.
    world.stop_read().await;
    let receipt = world.create(create(1)).await;
    world.settle_at(&read.queries()).await;
    for way in [
        Way::Frozen,
        Way::Gone,
        Way::Slow(Duration::from_secs(3)),
        Way::Answers(429),
        Way::Answers(503),
        Way::Cut,
    ] {
        gate.set(way);
        let meanwhile = world.create(create(2)).await;
        refused(&read.queries(), &SEARCHED, &receipt, Reason::SearchDown, &format!("{way:?}")).await;
        // What was needs no Elasticsearch.
        for question in STORED {
            ask(read.queries(), question, &receipt, false, Some(Duration::from_secs(2))).await.unwrap();
        }
        gate.set(Way::Open);
        for question in SEARCHED {
            answered(&read.queries(), question, &meanwhile).await;
        }
    }
    let told = read.admin().list_projections(ListProjectionsRequest {}).await.unwrap().into_inner();
    assert!(told.projections.iter().all(|projection| projection.parked_streams == 0), "{told:?}");
    read.stop().await;
}

#[tokio::test]
async fn questions_go_on_without_the_write_service_but_for_what_was() {
    let world = World::start().await;
    let gate = Gate::before(world.paths().feed).await;
    let read = read_by(&world, &Paths { feed: gate.address.clone(), ..world.paths() }).await;
    let receipt = world.create(create(1)).await;
    world.settle_at(&read.queries()).await;
    for way in [Way::Frozen, Way::Gone, Way::Slow(Duration::from_secs(4))] {
        gate.set(way);
        refused(&read.queries(), &STORED, &receipt, Reason::EventStoreDown, &format!("{way:?}")).await;
        for question in SEARCHED {
            ask(read.queries(), question, &receipt, true, Some(Duration::from_secs(2))).await.unwrap();
        }
        gate.set(Way::Open);
        answered(&read.queries(), Question::History, &receipt).await;
    }
    // A feed that is slow but not too slow is waited for.
    gate.set(Way::Slow(Duration::from_millis(500)));
    for question in STORED {
        ask(read.queries(), question, &receipt, false, None).await.unwrap();
    }
    read.stop().await;
}
