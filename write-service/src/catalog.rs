//! Customers and products: a name each, which can be registered and changed. A decider like `order`.

use uuid::Uuid;

/// What kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Customer,
    Product,
}

/// What happened. A storage format: extended, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what the contract's events say")]
pub enum Event {
    Registered { kind: Kind, key: String, name: String },
    Renamed { kind: Kind, key: String, name: String },
}

/// An entry's name, `None` before it is registered.
pub type Entry = Option<String>;

/// The events of giving an entry this name: none where it has it already.
#[must_use]
pub fn decide(entry: &Entry, kind: Kind, key: &str, name: &str) -> Vec<Event> {
    let (key, name) = (key.to_owned(), name.to_owned());
    match entry {
        None => vec![Event::Registered { kind, key, name }],
        Some(current) if *current == name => vec![],
        Some(_) => vec![Event::Renamed { kind, key, name }],
    }
}

/// The entry after `event`.
#[must_use]
pub fn evolve(_entry: Entry, event: &Event) -> Entry {
    let (Event::Registered { name, .. } | Event::Renamed { name, .. }) = event;
    Some(name.clone())
}

/// The stream of an entry: UUIDv5 of its key in the namespace of its kind. Never changes.
#[must_use]
pub fn stream_id(kind: Kind, key: &str) -> Uuid {
    // Drawn once, at random; the stream ids of every store derive from them.
    const CUSTOMERS: Uuid = Uuid::from_u128(0x6a3c_1f0e_5b7d_4c02_9e41_8d2f_77a0_c1b3);
    const PRODUCTS: Uuid = Uuid::from_u128(0xd94b_e827_30c6_4f15_b8a2_41f6_0e5d_9c7a);
    let namespace = match kind {
        Kind::Customer => CUSTOMERS,
        Kind::Product => PRODUCTS,
    };
    Uuid::new_v5(&namespace, key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(entry: &Entry, name: &str) -> Vec<Event> {
        decide(entry, Kind::Customer, "17850", name)
    }

    #[test]
    fn a_new_entry_is_registered() {
        let expected = Event::Registered { kind: Kind::Customer, key: "17850".into(), name: "Ada".into() };
        assert_eq!(put(&None, "Ada"), [expected]);
    }

    #[test]
    fn the_same_name_changes_nothing() {
        assert_eq!(put(&Some("Ada".into()), "Ada"), []);
    }

    #[test]
    fn another_name_is_a_rename_and_the_entry_carries_it() {
        let events = put(&Some("Ada".into()), "Grace");
        assert!(matches!(&events[..], [Event::Renamed { name, .. }] if name == "Grace"));
        assert_eq!(evolve(Some("Ada".into()), &events[0]), Some("Grace".into()));
    }

    #[test]
    fn stream_ids_never_move_and_kinds_do_not_meet() {
        let customer = stream_id(Kind::Customer, "1");
        assert_eq!(customer.to_string(), "38334e5d-4f95-53e6-9d20-bd9fea74a8e9");
        assert_ne!(customer, stream_id(Kind::Product, "1"));
    }
}
