//! Every event survives storing; what cannot be read says what it is.

mod corpus;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn envelope(category: StreamCategory, key: &str) -> Envelope {
    Envelope {
        event_id: Uuid::from_u128(1),
        category,
        key: key.to_owned(),
        version: 3,
        recorded_at: 1_322_586_000_000_001_000,
        actor: "anonymous".into(),
        request_id: Some(Uuid::from_u128(2)),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
    }
}

fn samples() -> Vec<(StreamCategory, &'static str, Event)> {
    let order_id = "0190b6a0-0000-7000-8000-000000000001";
    let money = |minor_units| Money { currency: "GBP".into(), minor_units };
    let entry = |kind, renamed| {
        let (kind, key, name) = (kind, "A.1".to_owned(), "Näme".to_owned());
        Event::Catalog(if renamed {
            catalog::Event::Renamed { kind, key, name }
        } else {
            catalog::Event::Registered { kind, key, name }
        })
    };
    let orders = [
        order::Event::Created {
            customer_id: "17850".into(),
            customer_name: "Customer 17850".into(),
            currency: "GBP".into(),
            reference: "536365".into(),
            delivery_country: "United Kingdom".into(),
            placed_at: 1_291_192_000_123_456_789,
        },
        order::Event::ItemAdded {
            line: 1,
            product_id: "85123A".into(),
            product_name: "WHITE HANGING HEART T-LIGHT HOLDER".into(),
            quantity: 6,
            unit_price: money(255),
        },
        order::Event::ItemQuantityChanged { line: 1, quantity: 7 },
        order::Event::ItemRemoved { line: 1 },
        order::Event::Submitted { total: money(1530) },
        order::Event::Confirmed,
        order::Event::Shipped { carrier: "Royal Mail".into(), tracking_number: "RM1".into() },
        order::Event::Delivered,
        order::Event::Cancelled { reason: "changed my mind".into() },
    ];
    let orders = orders.into_iter().map(|event| (StreamCategory::Order, order_id, Event::Order(event)));
    let entries = [
        (StreamCategory::Customer, "A.1", entry(Kind::Customer, false)),
        (StreamCategory::Customer, "A.1", entry(Kind::Customer, true)),
        (StreamCategory::Product, "A.1", entry(Kind::Product, false)),
        (StreamCategory::Product, "A.1", entry(Kind::Product, true)),
    ];
    orders.chain(entries).collect()
}

#[test]
fn every_type_survives_storing() {
    let samples = samples();
    assert_eq!(samples.len(), CURRENT.len(), "a sample of every type");
    for (category, key, event) in samples {
        let stored = encode(event.clone(), envelope(category, key));
        let recorded = decode(&stored).unwrap();
        assert_eq!((recorded.position, recorded.version, recorded.stream_key.as_str()), (0, 3, key));
        assert_eq!(recorded.category, i32::from(category));
        assert_eq!(recorded.recorded_time, Some(proto::time::from_nanos(1_322_586_000_000_001_000)));
        assert_eq!(to_domain(recorded), Ok(event));
    }
}

#[test]
fn metadata_and_body_joined_are_the_published_message() {
    for (category, key, event) in samples() {
        let stored = encode(event, envelope(category, key));
        let joined = [stored.metadata.clone(), stored.body.clone()].concat();
        assert_eq!(RecordedEvent::decode(joined.as_slice()).unwrap(), decode(&stored).unwrap());
    }
}

#[test]
fn an_unknown_type_or_schema_is_named() {
    let (category, key, event) = samples().remove(0);
    let stored = encode(event, envelope(category, key));
    let newer = StoredEvent { schema: 2, ..stored.clone() };
    assert_eq!(decode(&newer), Err(Unreadable::UnknownType { type_name: "OrderCreated".into(), schema: 2 }));
    let foreign = StoredEvent { type_name: "OrderArchived".into(), ..stored };
    assert_eq!(
        decode(&foreign),
        Err(Unreadable::UnknownType { type_name: "OrderArchived".into(), schema: 1 })
    );
}

#[test]
fn an_old_item_whose_subtotal_overflows_is_damage() {
    let (category, key, _) = samples().remove(1);
    let event = order::Event::ItemAdded {
        line: 1,
        product_id: "85123A".into(),
        product_name: "WHITE HANGING HEART T-LIGHT HOLDER".into(),
        quantity: 2,
        unit_price: Money { currency: "GBP".into(), minor_units: i64::MAX },
    };
    let stored = encode(Event::Order(event), envelope(category, key));
    let old = StoredEvent { schema: 1, ..stored };
    assert_eq!(decode(&old), Err(Unreadable::Damaged { type_name: "ItemAdded".into(), schema: 1 }));
}

#[test]
fn damaged_bytes_are_named_and_published_without_body() {
    let (category, key, event) = samples().remove(0);
    let stored = encode(event, envelope(category, key));
    let damaged = StoredEvent { body: vec![0xff; 8], ..stored.clone() };
    assert_eq!(decode(&damaged), Err(Unreadable::Damaged { type_name: "OrderCreated".into(), schema: 1 }));
    let published = published(damaged.clone());
    assert_eq!((published.stream_key.as_str(), published.version, published.body), (key, 3, None));
    let lost = StoredEvent { metadata: vec![0xff; 8], ..damaged };
    assert_eq!(self::published(lost).stream_key, Uuid::from_u128(7).to_string());
}

#[test]
fn what_is_published_is_what_is_read() {
    for (category, key, event) in samples() {
        let stored = encode(event, envelope(category, key));
        assert_eq!(published(stored.clone()), decode(&stored).unwrap());
    }
    let (category, key, event) = samples().remove(1);
    let old = StoredEvent { schema: 1, ..encode(event, envelope(category, key)) };
    assert_eq!(published(old.clone()), decode(&old).unwrap());
}

fn published(stored: StoredEvent) -> RecordedEvent {
    let Published { envelope, body } = publish(stored, 1, Uuid::from_u128(7), 3);
    RecordedEvent::decode([envelope, body].concat().as_slice()).unwrap()
}

#[test]
fn another_types_body_is_damage() {
    let [created, added, ..] = &samples()[..] else { unreachable!() };
    let created = encode(created.2.clone(), envelope(created.0, created.1));
    let added = encode(added.2.clone(), envelope(added.0, added.1));
    let mixed = StoredEvent { body: added.body, ..created };
    assert!(matches!(decode(&mixed), Err(Unreadable::Damaged { .. })));
}

#[test]
fn what_is_written_is_surely_sound() {
    for (category, key, event) in samples() {
        let stored = encode(event, envelope(category, key));
        assert!(sound::is_surely_sound(&stored), "{}: each of them would be decoded", stored.type_name);
    }
}

/// A change of bytes: one of them is replaced, added, or the first of those left away.
type Damage = (Index, u8, u8);

fn damage(bytes: &mut Vec<u8>, (place, kind, byte): Damage) {
    let place = place.index(bytes.len() + 1);
    match kind % 4 {
        0 => bytes.truncate(place),
        1 => bytes.insert(place, byte),
        _ => bytes.iter_mut().skip(place).take(1).for_each(|old| *old = byte),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// The published bytes of the one would otherwise end everyone's feed.
    #[test]
    fn what_is_surely_sound_can_be_decoded(
        sample in any::<Index>(),
        of_metadata in proptest::collection::vec(any::<Damage>(), 0..3),
        of_body in proptest::collection::vec(any::<Damage>(), 0..3),
    ) {
        let samples = samples();
        let (category, key, event) = sample.get(&samples).clone();
        let mut stored = encode(event, envelope(category, key));
        for change in of_metadata {
            damage(&mut stored.metadata, change);
        }
        for change in of_body {
            damage(&mut stored.body, change);
        }
        if sound::is_surely_sound(&stored) {
            prop_assert!(decode(&stored).is_ok(), "{stored:?}");
        }
    }
}
