//! Many commands over one call.

use std::collections::HashMap;

use proto::reason::{self, Reason};
use proto::v1::execute_commands_request::Command;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::*;

use crate::support::{World, create, lantern, new_id};

async fn execute(world: &mut World, commands: Vec<Option<Command>>) -> HashMap<u64, Outcome> {
    let requests =
        (0..).zip(commands).map(|(sequence, command)| ExecuteCommandsRequest { sequence, command });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut answers = world.orders.execute_commands(requests).await.unwrap().into_inner();
    let mut outcomes = HashMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let earlier = outcomes.insert(answer.sequence, answer.outcome.unwrap());
        assert!(earlier.is_none(), "one answer each");
    }
    outcomes
}

#[tokio::test]
async fn commands_on_one_order_run_in_the_order_sent() {
    let mut world = World::start().await;
    let orders: Vec<_> = (0..50).map(|_| new_id()).collect();
    let mut commands = Vec::new();
    for id in &orders {
        let create = CreateOrderRequest { order_id: id.clone(), ..create(vec![], false) };
        commands.push(Some(Command::CreateOrder(create)));
    }
    for quantity in 1..=5 {
        for id in &orders {
            // Upper or lower case, it is the same order.
            let order_id = id.to_uppercase();
            let item = Some(lantern(quantity));
            commands.push(Some(Command::AddItem(AddItemRequest { order_id, item, ..Default::default() })));
        }
    }
    let total = commands.len();
    let outcomes = execute(&mut world, commands).await;
    assert_eq!(outcomes.len(), total);
    assert!(outcomes.values().all(|outcome| matches!(outcome, Outcome::Receipt(_))), "{outcomes:?}");
    for id in &orders {
        let quantities: Vec<_> = world
            .history(id)
            .await
            .into_iter()
            .filter_map(|event| match event.body {
                Some(recorded_event::Body::ItemAdded(added)) => Some(added.quantity),
                _ => None,
            })
            .collect();
        assert_eq!(quantities, [1, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn a_rejected_command_is_answered_and_does_not_end_the_stream() {
    let mut world = World::start().await;
    let id = new_id();
    let commands = vec![
        Some(Command::SubmitOrder(SubmitOrderRequest { order_id: id.clone(), ..Default::default() })),
        None,
        Some(Command::CreateOrder(CreateOrderRequest {
            order_id: id.clone(),
            ..create(vec![lantern(1)], false)
        })),
        Some(Command::SubmitOrder(SubmitOrderRequest { order_id: id, ..Default::default() })),
    ];
    let outcomes = execute(&mut world, commands).await;
    let reason_of = |sequence: u64| match &outcomes[&sequence] {
        Outcome::Error(status) => Reason::of(&reason::status_from_message(status)),
        Outcome::Receipt(_) => None,
    };
    assert_eq!(reason_of(0), Some(Reason::OrderNotFound));
    assert_eq!(reason_of(1), Some(Reason::InvalidField));
    assert!(matches!(&outcomes[&2], Outcome::Receipt(receipt) if receipt.version == 2));
    assert!(matches!(&outcomes[&3], Outcome::Receipt(receipt) if receipt.version == 3));
}
