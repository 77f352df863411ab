//! The order: what can happen to it, what may be asked of it, and when the answer is no.
//!
//! A decider: [`decide`] takes a state and a command and returns events or a rejection, [`evolve`] takes a state and an
//! event and returns the next state, both pure and total. Clock, ids and names arrive in the command. A command that
//! changes nothing returns no events.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

#[cfg(test)]
mod tests;

/// Most lines that an order holds at a time.
pub const MAX_LINES: usize = 2_000;

/// What happened. Stored for ever, through `codec`: a storage format, extended, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what the contract's events say")]
pub enum Event {
    Created {
        customer_id: String,
        customer_name: String,
        currency: String,
        reference: String,
        delivery_country: String,
        /// Nanoseconds since 1970.
        placed_at: i64,
    },
    ItemAdded {
        line: i32,
        product_id: String,
        product_name: String,
        quantity: i32,
        unit_price: Money,
    },
    ItemQuantityChanged {
        line: i32,
        quantity: i32,
    },
    ItemRemoved {
        line: i32,
    },
    Submitted {
        total: Money,
    },
    Confirmed,
    Shipped {
        carrier: String,
        tracking_number: String,
    },
    Delivered,
    Cancelled {
        reason: String,
    },
}

/// An amount in the minor unit of its currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Money {
    /// ISO 4217 code.
    pub currency: String,
    /// Signed count of the minor unit.
    pub minor_units: i64,
}

/// An order as far as deciding needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Not created yet.
    #[default]
    Absent,
    /// Open for items.
    Draft(Draft),
    /// Past the draft: items are fixed, only the status moves.
    Fixed {
        /// Never [`Status::Draft`].
        status: Status,
        /// Sum of the lines.
        total: Money,
    },
}

/// The open order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    lines: BTreeMap<i32, Line>,
    /// Highest line number ever given; numbers are not reused.
    last_line: i32,
    total: Money,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    quantity: i32,
    unit_price: i64,
}

/// Where in its life an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum Status {
    Draft,
    Submitted,
    Confirmed,
    Shipped,
    Delivered,
    Cancelled,
}

/// What is asked of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what the contract's requests say")]
pub enum Command {
    Create(Create),
    AddItem(NewItem),
    ChangeItemQuantity { line: i32, quantity: i32 },
    RemoveItem { line: i32 },
    Submit,
    Confirm,
    Ship { carrier: String, tracking_number: String },
    Deliver,
    Cancel { reason: String },
}

/// The start of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what the contract's request says")]
pub struct Create {
    pub customer_id: String,
    /// Today's name; `None` where the customer is not registered.
    pub customer_name: Option<String>,
    pub currency: String,
    pub reference: String,
    pub delivery_country: String,
    /// Nanoseconds since 1970; `None`: now.
    pub placed_at: Option<i64>,
    /// When the command is decided, in nanoseconds since 1970.
    pub now: i64,
    pub items: Vec<NewItem>,
    pub submit: bool,
}

/// A line to add.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what the contract's request says")]
pub struct NewItem {
    pub product_id: String,
    /// Today's name; `None` where the product is not registered.
    pub product_name: Option<String>,
    /// At least 1.
    pub quantity: i32,
    /// Not negative.
    pub unit_price: Money,
}

/// The domain says no: an answer, not a failure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Rejection {
    #[error("order not found")]
    NotFound,
    #[error("another order has this order_id")]
    Exists,
    #[error("an order that is {status} does not allow this")]
    IllegalState { status: Status },
    #[error("an order without items cannot be submitted")]
    Empty,
    #[error("the order has no line {line}")]
    LineNotFound { line: i32 },
    #[error("an order holds at most {} lines", MAX_LINES)]
    TooManyLines,
    #[error("the order's total would pass the largest amount")]
    TotalOverflow,
    #[error("customer {customer_id} is not registered")]
    CustomerUnknown { customer_id: String },
    #[error("product {product_id} is not registered")]
    ProductUnknown { product_id: String },
    #[error("the order is in {order}, the price is in {price}")]
    CurrencyMismatch { order: String, price: String },
}

/// The state before the first event.
#[must_use]
pub fn initial() -> Order {
    Order::Absent
}

/// What happens when `command` meets `order`.
///
/// # Errors
/// The [`Rejection`] where the state forbids it.
pub fn decide(order: &Order, command: Command) -> Result<Vec<Event>, Rejection> {
    match (order, command) {
        (Order::Absent, Command::Create(create)) => start(create),
        (Order::Absent, _) => Err(Rejection::NotFound),
        (_, Command::Create(_)) => Err(Rejection::Exists),
        (Order::Draft(draft), Command::AddItem(item)) => Ok(vec![add(draft, item)?]),
        (Order::Draft(draft), Command::ChangeItemQuantity { line, quantity }) => {
            change(draft, line, quantity)
        }
        (Order::Draft(draft), Command::RemoveItem { line }) => {
            draft.line(line)?;
            Ok(vec![Event::ItemRemoved { line }])
        }
        (Order::Draft(draft), Command::Submit) => Ok(vec![submit(draft)?]),
        (Order::Fixed { status: Status::Submitted, .. }, Command::Confirm) => Ok(vec![Event::Confirmed]),
        (Order::Fixed { status: Status::Confirmed, .. }, Command::Ship { carrier, tracking_number }) => {
            Ok(vec![Event::Shipped { carrier, tracking_number }])
        }
        (Order::Fixed { status: Status::Shipped, .. }, Command::Deliver) => Ok(vec![Event::Delivered]),
        (
            Order::Draft(_) | Order::Fixed { status: Status::Submitted | Status::Confirmed, .. },
            Command::Cancel { reason },
        ) => Ok(vec![Event::Cancelled { reason }]),
        (Order::Draft(_), _) => Err(Rejection::IllegalState { status: Status::Draft }),
        (Order::Fixed { status, .. }, _) => Err(Rejection::IllegalState { status: *status }),
    }
}

fn start(create: Create) -> Result<Vec<Event>, Rejection> {
    let Create {
        customer_id,
        customer_name,
        currency,
        reference,
        delivery_country,
        placed_at,
        now,
        items,
        submit,
    } = create;
    let placed_at = placed_at.unwrap_or(now);
    let Some(customer_name) = customer_name else {
        return Err(Rejection::CustomerUnknown { customer_id });
    };
    let created =
        Event::Created { customer_id, customer_name, currency, reference, delivery_country, placed_at };
    let mut order = evolve(initial(), &created);
    let mut events = vec![created];
    let steps = items.into_iter().map(Command::AddItem).chain(submit.then_some(Command::Submit));
    for step in steps {
        for event in decide(&order, step)? {
            order = evolve(order, &event);
            events.push(event);
        }
    }
    Ok(events)
}

fn add(draft: &Draft, item: NewItem) -> Result<Event, Rejection> {
    let NewItem { product_id, product_name, quantity, unit_price } = item;
    if unit_price.currency != draft.total.currency {
        let order = draft.total.currency.clone();
        return Err(Rejection::CurrencyMismatch { order, price: unit_price.currency });
    }
    let Some(product_name) = product_name else {
        return Err(Rejection::ProductUnknown { product_id });
    };
    if draft.lines.len() >= MAX_LINES {
        return Err(Rejection::TooManyLines);
    }
    let line = draft.last_line.checked_add(1).ok_or(Rejection::TooManyLines)?;
    let added = Line { quantity, unit_price: unit_price.minor_units };
    draft.total_with(None, Some(added)).ok_or(Rejection::TotalOverflow)?;
    Ok(Event::ItemAdded { line, product_id, product_name, quantity, unit_price })
}

fn change(draft: &Draft, line: i32, quantity: i32) -> Result<Vec<Event>, Rejection> {
    let old = draft.line(line)?;
    if old.quantity == quantity {
        return Ok(vec![]);
    }
    let new = Line { quantity, ..old };
    draft.total_with(Some(old), Some(new)).ok_or(Rejection::TotalOverflow)?;
    Ok(vec![Event::ItemQuantityChanged { line, quantity }])
}

fn submit(draft: &Draft) -> Result<Event, Rejection> {
    if draft.lines.is_empty() {
        return Err(Rejection::Empty);
    }
    Ok(Event::Submitted { total: draft.total.clone() })
}

/// The state after `event`. Total: an event that cannot follow the state leaves it as it is.
#[must_use]
pub fn evolve(order: Order, event: &Event) -> Order {
    match (order, event) {
        (Order::Absent, Event::Created { currency, .. }) => Order::Draft(Draft {
            lines: BTreeMap::new(),
            last_line: 0,
            total: Money { currency: currency.clone(), minor_units: 0 },
        }),
        (Order::Draft(mut draft), Event::ItemAdded { line, quantity, unit_price, .. }) => {
            draft.put(*line, Some(Line { quantity: *quantity, unit_price: unit_price.minor_units }));
            draft.last_line = draft.last_line.max(*line);
            Order::Draft(draft)
        }
        (Order::Draft(mut draft), Event::ItemQuantityChanged { line, quantity }) => {
            let changed = draft.lines.get(line).map(|old| Line { quantity: *quantity, ..*old });
            draft.put(*line, changed);
            Order::Draft(draft)
        }
        (Order::Draft(mut draft), Event::ItemRemoved { line }) => {
            draft.put(*line, None);
            Order::Draft(draft)
        }
        (Order::Draft(draft), Event::Submitted { .. }) => {
            Order::Fixed { status: Status::Submitted, total: draft.total }
        }
        (Order::Draft(draft), Event::Cancelled { .. }) => {
            Order::Fixed { status: Status::Cancelled, total: draft.total }
        }
        (Order::Fixed { total, status }, event) => {
            let status = match event {
                Event::Confirmed => Status::Confirmed,
                Event::Shipped { .. } => Status::Shipped,
                Event::Delivered => Status::Delivered,
                Event::Cancelled { .. } => Status::Cancelled,
                _ => status,
            };
            Order::Fixed { status, total }
        }
        (order, _) => order,
    }
}

impl Order {
    /// The status; `None` before the order exists.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Absent => None,
            Self::Draft(_) => Some(Status::Draft),
            Self::Fixed { status, .. } => Some(*status),
        }
    }

    /// The sum of the lines; `None` before the order exists.
    #[must_use]
    pub fn total(&self) -> Option<&Money> {
        match self {
            Self::Absent => None,
            Self::Draft(Draft { total, .. }) | Self::Fixed { total, .. } => Some(total),
        }
    }

    /// Number of lines kept in memory, for sizing a cache.
    #[must_use]
    pub fn lines_held(&self) -> usize {
        match self {
            Self::Draft(draft) => draft.lines.len(),
            Self::Absent | Self::Fixed { .. } => 0,
        }
    }
}

impl Draft {
    fn line(&self, line: i32) -> Result<Line, Rejection> {
        self.lines.get(&line).copied().ok_or(Rejection::LineNotFound { line })
    }

    /// The total with one line taken out and one put in; `None` beyond the largest amount.
    fn total_with(&self, out: Option<Line>, into: Option<Line>) -> Option<i64> {
        let out = out.map_or(Some(0), Line::subtotal)?;
        let into = into.map_or(Some(0), Line::subtotal)?;
        self.total.minor_units.checked_sub(out)?.checked_add(into)
    }

    /// Replaces a line. The decider let no event pass whose total overflows; should one exist, the total stays.
    fn put(&mut self, number: i32, line: Option<Line>) {
        let old = self.lines.get(&number).copied();
        self.total.minor_units = self.total_with(old, line).unwrap_or(self.total.minor_units);
        match line {
            Some(line) => self.lines.insert(number, line),
            None => self.lines.remove(&number),
        };
    }
}

impl Line {
    fn subtotal(self) -> Option<i64> {
        i64::from(self.quantity).checked_mul(self.unit_price)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draft => "DRAFT",
            Self::Submitted => "SUBMITTED",
            Self::Confirmed => "CONFIRMED",
            Self::Shipped => "SHIPPED",
            Self::Delivered => "DELIVERED",
            Self::Cancelled => "CANCELLED",
        })
    }
}
