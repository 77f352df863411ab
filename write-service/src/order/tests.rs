//! Given events, when a command, then events or a rejection; and what holds for every history.

use proptest::prelude::*;

use super::*;

struct Given(Order);

struct Outcome(Result<Vec<Event>, Rejection>);

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    Given(events.into_iter().fold(initial(), |order, event| evolve(order, &event)))
}

impl Given {
    fn when(self, command: Command) -> Outcome {
        Outcome(decide(&self.0, command))
    }
}

impl Outcome {
    #[track_caller]
    fn then(self, events: impl IntoIterator<Item = Event>) {
        assert_eq!(self.0, Ok(events.into_iter().collect()));
    }

    #[track_caller]
    fn then_rejected(self, rejection: Rejection) {
        assert_eq!(self.0, Err(rejection));
    }
}

fn gbp(minor_units: i64) -> Money {
    Money { currency: "GBP".into(), minor_units }
}

fn created() -> Event {
    Event::Created {
        customer_id: "17850".into(),
        customer_name: "Customer 17850".into(),
        currency: "GBP".into(),
        reference: "536365".into(),
        delivery_country: "United Kingdom".into(),
        placed_at: 1,
    }
}

fn create(items: Vec<NewItem>, submit: bool) -> Command {
    Command::Create(Create {
        customer_id: "17850".into(),
        customer_name: Some("Customer 17850".into()),
        currency: "GBP".into(),
        reference: "536365".into(),
        delivery_country: "United Kingdom".into(),
        placed_at: None,
        now: 1,
        items,
        submit,
    })
}

fn lantern(quantity: i32, price: i64) -> NewItem {
    NewItem {
        product_id: "71053".into(),
        product_name: Some("WHITE METAL LANTERN".into()),
        quantity,
        unit_price: gbp(price),
    }
}

fn added(line: i32, quantity: i32, price: i64) -> Event {
    let NewItem { product_id, product_name, unit_price, .. } = lantern(quantity, price);
    Event::ItemAdded { line, product_id, product_name: product_name.unwrap(), quantity, unit_price }
}

fn submitted(total: i64) -> Event {
    Event::Submitted { total: gbp(total) }
}

fn shipped() -> Event {
    Event::Shipped { carrier: "Royal Mail".into(), tracking_number: "RM1".into() }
}

fn cancelled() -> Event {
    Event::Cancelled { reason: "changed my mind".into() }
}

fn ship() -> Command {
    Command::Ship { carrier: "Royal Mail".into(), tracking_number: "RM1".into() }
}

fn cancel() -> Command {
    Command::Cancel { reason: "changed my mind".into() }
}

#[test]
fn an_order_starts_empty() {
    given([]).when(create(vec![], false)).then([created()]);
}

#[test]
fn an_order_starts_with_items_and_is_submitted_at_once() {
    given([]).when(create(vec![lantern(6, 339), lantern(1, 1)], true)).then([
        created(),
        added(1, 6, 339),
        added(2, 1, 1),
        submitted(2035),
    ]);
}

#[test]
fn an_older_order_keeps_the_time_it_was_placed() {
    let Command::Create(create) = create(vec![], false) else { unreachable!() };
    let older = Create { placed_at: Some(1), now: 2, ..create };
    given([]).when(Command::Create(older)).then([created()]);
}

#[test]
fn one_bad_item_refuses_the_whole_order() {
    let unknown = NewItem { product_name: None, ..lantern(1, 1) };
    given([])
        .when(create(vec![lantern(6, 339), unknown], true))
        .then_rejected(Rejection::ProductUnknown { product_id: "71053".into() });
}

#[test]
fn an_unregistered_customer_orders_nothing() {
    let Command::Create(create) = create(vec![], false) else { unreachable!() };
    given([])
        .when(Command::Create(Create { customer_name: None, ..create }))
        .then_rejected(Rejection::CustomerUnknown { customer_id: "17850".into() });
}

#[test]
fn an_order_is_created_once() {
    given([created()]).when(create(vec![], false)).then_rejected(Rejection::Exists);
}

#[test]
fn nothing_but_create_works_before_there_is_an_order() {
    let commands = [
        Command::AddItem(lantern(1, 1)),
        Command::ChangeItemQuantity { line: 1, quantity: 1 },
        Command::RemoveItem { line: 1 },
        Command::Submit,
        Command::Confirm,
        ship(),
        Command::Deliver,
        cancel(),
    ];
    for command in commands {
        given([]).when(command).then_rejected(Rejection::NotFound);
    }
}

#[test]
fn lines_are_numbered_and_numbers_never_reused() {
    given([created(), added(1, 6, 339), Event::ItemRemoved { line: 1 }])
        .when(Command::AddItem(lantern(2, 339)))
        .then([added(2, 2, 339)]);
}

#[test]
fn a_quantity_changes_and_the_same_quantity_changes_nothing() {
    let change = |quantity| Command::ChangeItemQuantity { line: 1, quantity };
    given([created(), added(1, 6, 339)])
        .when(change(7))
        .then([Event::ItemQuantityChanged { line: 1, quantity: 7 }]);
    given([created(), added(1, 6, 339)]).when(change(6)).then([]);
}

#[test]
fn lines_that_are_not_there_cannot_be_changed_or_removed() {
    let missing = || Rejection::LineNotFound { line: 2 };
    let order = || given([created(), added(1, 6, 339)]);
    order().when(Command::ChangeItemQuantity { line: 2, quantity: 1 }).then_rejected(missing());
    order().when(Command::RemoveItem { line: 2 }).then_rejected(missing());
}

#[test]
fn the_total_follows_every_change_of_the_lines() {
    let changed = Event::ItemQuantityChanged { line: 1, quantity: 2 };
    given([created(), added(1, 6, 100), added(2, 1, 50), changed, Event::ItemRemoved { line: 2 }])
        .when(Command::Submit)
        .then([submitted(200)]);
}

#[test]
fn an_empty_order_is_not_submitted() {
    given([created()]).when(Command::Submit).then_rejected(Rejection::Empty);
    given([created(), added(1, 1, 1), Event::ItemRemoved { line: 1 }])
        .when(Command::Submit)
        .then_rejected(Rejection::Empty);
}

#[test]
fn prices_come_in_the_currency_of_the_order() {
    let item = NewItem { unit_price: Money { currency: "EUR".into(), minor_units: 1 }, ..lantern(1, 1) };
    given([created()])
        .when(Command::AddItem(item))
        .then_rejected(Rejection::CurrencyMismatch { order: "GBP".into(), price: "EUR".into() });
}

#[test]
fn sums_are_checked() {
    given([created(), added(1, 1, i64::MAX)])
        .when(Command::AddItem(lantern(1, 1)))
        .then_rejected(Rejection::TotalOverflow);
    given([created(), added(1, 1, i64::MAX)])
        .when(Command::ChangeItemQuantity { line: 1, quantity: 2 })
        .then_rejected(Rejection::TotalOverflow);
    given([created(), added(1, 1, i64::MAX)]).when(Command::Submit).then([submitted(i64::MAX)]);
}

#[test]
fn an_order_holds_so_many_lines_and_no_more() {
    let full = || std::iter::once(created()).chain((1..=2_000).map(|line| added(line, 1, 1)));
    given(full()).when(Command::AddItem(lantern(1, 1))).then_rejected(Rejection::TooManyLines);
    given(full().chain([Event::ItemRemoved { line: 7 }]))
        .when(Command::AddItem(lantern(1, 1)))
        .then([added(2_001, 1, 1)]);
}

/// Every status, and what may be asked of it: the table of the contract, move by move.
#[test]
fn every_move_is_legal_or_refused_with_the_status() {
    let draft = vec![created(), added(1, 1, 1)];
    let after = |events: &[Event]| [&draft[..], events].concat();
    let histories = [
        (Status::Draft, draft.clone()),
        (Status::Submitted, after(&[submitted(1)])),
        (Status::Confirmed, after(&[submitted(1), Event::Confirmed])),
        (Status::Shipped, after(&[submitted(1), Event::Confirmed, shipped()])),
        (Status::Delivered, after(&[submitted(1), Event::Confirmed, shipped(), Event::Delivered])),
        (Status::Cancelled, after(&[cancelled()])),
    ];
    let moves = [
        (Command::AddItem(lantern(1, 1)), added(2, 1, 1), vec![Status::Draft]),
        (
            Command::ChangeItemQuantity { line: 1, quantity: 9 },
            Event::ItemQuantityChanged { line: 1, quantity: 9 },
            vec![Status::Draft],
        ),
        (Command::RemoveItem { line: 1 }, Event::ItemRemoved { line: 1 }, vec![Status::Draft]),
        (Command::Submit, submitted(1), vec![Status::Draft]),
        (Command::Confirm, Event::Confirmed, vec![Status::Submitted]),
        (ship(), shipped(), vec![Status::Confirmed]),
        (Command::Deliver, Event::Delivered, vec![Status::Shipped]),
        (cancel(), cancelled(), vec![Status::Draft, Status::Submitted, Status::Confirmed]),
    ];
    for (status, history) in &histories {
        for (command, event, allowed) in &moves {
            let outcome = given(history.clone()).when(command.clone());
            if allowed.contains(status) {
                outcome.then([event.clone()]);
            } else {
                outcome.then_rejected(Rejection::IllegalState { status: *status });
            }
        }
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    let line = 0..6_i32;
    let quantity = prop_oneof![Just(1), 1..1_000_000_i32];
    let price = prop_oneof![0..1_000_i64, Just(i64::MAX / 2), Just(i64::MAX)];
    let item = (quantity.clone(), price).prop_map(|(quantity, price)| lantern(quantity, price));
    prop_oneof![
        3 => (proptest::collection::vec(item.clone(), 0..4), any::<bool>()).prop_map(|(items, submit)| create(items, submit)),
        6 => item.prop_map(Command::AddItem),
        3 => (line.clone(), quantity).prop_map(|(line, quantity)| Command::ChangeItemQuantity { line, quantity }),
        2 => line.prop_map(|line| Command::RemoveItem { line }),
        1 => Just(Command::Submit),
        1 => Just(Command::Confirm),
        1 => Just(ship()),
        1 => Just(Command::Deliver),
        1 => Just(cancel()),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: the events of all decisions, replayed, give the state that deciding reached; the
    /// total is the sum of the lines and never negative; a rejected command leaves no trace.
    #[test]
    fn replay_equals_live_state(commands in proptest::collection::vec(any_command(), 0..40)) {
        let mut live = initial();
        let mut history = Vec::new();
        for command in commands {
            let Ok(events) = decide(&live, command) else { continue };
            for event in events {
                live = evolve(live, &event);
                history.push(event);
            }
        }
        let replayed = history.iter().fold(initial(), evolve);
        prop_assert_eq!(&replayed, &live);
        if let Order::Draft(draft) = &live {
            let sum: i128 = draft.lines.values().map(|line| i128::from(line.quantity) * i128::from(line.unit_price)).sum();
            prop_assert_eq!(i128::from(draft.total.minor_units), sum);
        }
        prop_assert!(live.total().is_none_or(|total| total.minor_units >= 0));
    }

    /// Total functions: any event on any state is folded without a panic.
    #[test]
    fn evolve_takes_any_event(lines in proptest::collection::vec((0..3_i32, 0..3_i32, any::<i64>()), 0..20)) {
        let events = lines.into_iter().map(|(line, kind, price)| match kind {
            0 => added(line, 1, price),
            1 => Event::ItemRemoved { line },
            _ => Event::ItemQuantityChanged { line, quantity: i32::MAX },
        });
        let _ = events.fold(evolve(initial(), &created()), |order, event| evolve(order, &event));
    }
}
