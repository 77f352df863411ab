//! What holds for every sequence of requests, repeats among them: without a database, as deciding is pure.

use std::collections::HashMap;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::event_store::ReadEvent;
use crate::order::{Create, Money, NewItem};

fn item(quantity: i32) -> NewItem {
    let unit_price = Money { currency: "GBP".into(), minor_units: 255 };
    NewItem { product_id: "85123A".into(), product_name: Some("HEART".into()), quantity, unit_price }
}

fn create(items: i32, submit: bool) -> Command {
    Command::Create(Create {
        customer_id: "17850".into(),
        customer_name: Some("Ada".into()),
        currency: "GBP".into(),
        reference: String::new(),
        delivery_country: String::new(),
        placed_at: None,
        now: 1_000,
        items: (1..=items).map(item).collect(),
        submit,
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        2 => (0..3_i32, any::<bool>()).prop_map(|(items, submit)| create(items, submit)),
        4 => (1..4_i32).prop_map(|quantity| Command::AddItem(item(quantity))),
        2 => (1..4_i32, 1..4_i32).prop_map(|(line, quantity)| Command::ChangeItemQuantity { line, quantity }),
        1 => (1..4_i32).prop_map(|line| Command::RemoveItem { line }),
        1 => Just(Command::Submit),
        1 => Just(Command::Confirm),
        1 => Just(Command::Cancel { reason: "no".into() }),
    ]
}

/// A request of few ids, so that repeats, and other content under the same id, are common.
fn any_request() -> impl Strategy<Value = Request> {
    (any_command(), proptest::option::weighted(0.8, 1..6_u128)).prop_map(|(command, id)| {
        let hash = Sha256::digest(format!("{command:?}"));
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(&hash[..16]);
        Request {
            order_id: Uuid::from_u128(7),
            identity: id.map(|id| Identity { request_id: Uuid::from_u128(id), fingerprint }),
            expected_version: None,
            actor: "anonymous".into(),
            traceparent: "".into(),
            command,
        }
    })
}

proptest! {
    /// A request_id stores once and answers alike for ever; versions are dense; what is stored, read and folded again, is
    /// the state that deciding reached, with the memory of every request.
    #[test]
    fn a_request_stores_once_and_the_stored_stream_is_the_live_one(
        requests in proptest::collection::vec(any_request(), 0..40),
    ) {
        let order_id = Uuid::from_u128(7);
        let mut live = Stream::default();
        let mut stored = Vec::new();
        let mut first: HashMap<Uuid, (Fingerprint, Receipt)> = HashMap::new();
        for request in requests {
            let known = request.identity.and_then(|identity| first.get(&identity.request_id));
            match (decide(&live, &request), known) {
                (Ok(Decision::Append(events)), None) => {
                    let append = CommandHandler::encode(&request, 1_000, &live, &events);
                    let batch_id = live.version() + 10;
                    prop_assert_eq!(append.predecessor.is_some(), live.version() > 0);
                    for event in &append.events {
                        let recorded = codec::decode(event).unwrap();
                        stored.push(ReadEvent { recorded, fingerprint: append.fingerprint, batch_id });
                    }
                    let receipt = live.record(order_id, request.identity, &events, batch_id);
                    prop_assert_eq!(receipt.version, i64::try_from(stored.len()).unwrap());
                    if let Some(identity) = request.identity {
                        first.insert(identity.request_id, (identity.fingerprint, receipt));
                    }
                }
                (Ok(Decision::Answer(receipt)), Some((_, answer))) => {
                    prop_assert_eq!(receipt, Receipt { replayed: true, ..answer.clone() });
                }
                (Ok(Decision::Answer(receipt)), None) => {
                    prop_assert!(!receipt.replayed && receipt.version == live.version());
                }
                (Err(CommandError::RequestIdReused), Some((fingerprint, _))) => {
                    prop_assert_ne!(Some(*fingerprint), request.identity.map(|identity| identity.fingerprint));
                }
                (Err(CommandError::Rejected(_)), None) => {}
                (Ok(Decision::Append(_)) | Err(_), known) => {
                    prop_assert!(false, "{:?} with {known:?}", request);
                }
            }
        }
        let versions = stored.iter().map(|event| event.recorded.version);
        prop_assert!(versions.eq(1..=live.version()));
        let folded = Stream::fold(order_id, stored).unwrap();
        prop_assert_eq!(
            (folded.order(), folded.version(), folded.batch_id()),
            (live.order(), live.version(), live.batch_id())
        );
        for (request_id, (_, answer)) in first {
            let again = folded.handled(request_id).map(|handled| handled.receipt(order_id));
            prop_assert_eq!(again, Some(Receipt { replayed: true, ..answer }));
        }
    }
}
