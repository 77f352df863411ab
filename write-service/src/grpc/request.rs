//! From request messages to commands: every field checked, every malformed one named.

use std::sync::Arc;

use proto::reason::Error;
use proto::v1::execute_commands_request::Command as Sent;
use proto::v1::{self, CreateOrderRequest};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::check::Check;
use crate::command_handler::{Identity, Request};
use crate::event_store::Fingerprint;
use crate::order::{self, Command, Create};

/// Most items of one `CreateOrder`.
const MAX_ITEMS: usize = 2_000;
/// How far the clock of a caller may be ahead, in nanoseconds: five minutes.
const MAX_AHEAD: i64 = 300 * 1_000_000_000;

/// Who calls, and in which trace.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The authenticated subject, or "anonymous".
    pub actor: Arc<str>,
    /// W3C trace context, empty where there is none.
    pub traceparent: Arc<str>,
}

impl Caller {
    /// Splits a request into who calls and what.
    pub fn of<T>(request: tonic::Request<T>) -> (Self, T) {
        let traceparent = shared::telemetry::trace::current_traceparent();
        (Self { actor: "anonymous".into(), traceparent: traceparent.into() }, request.into_inner())
    }
}

/// What every command says beside what to do.
struct Header<'a> {
    order_id: &'a str,
    request_id: &'a str,
    expected_version: Option<i64>,
}

fn header(message: &Sent) -> Header<'_> {
    macro_rules! header {
        ($message:ident, $expected_version:expr) => {
            Header {
                order_id: &$message.order_id,
                request_id: &$message.request_id,
                expected_version: $expected_version,
            }
        };
    }
    match message {
        Sent::CreateOrder(m) => header!(m, None),
        Sent::AddItem(m) => header!(m, m.expected_version),
        Sent::ChangeItemQuantity(m) => header!(m, m.expected_version),
        Sent::RemoveItem(m) => header!(m, m.expected_version),
        Sent::SubmitOrder(m) => header!(m, m.expected_version),
        Sent::ConfirmOrder(m) => header!(m, m.expected_version),
        Sent::ShipOrder(m) => header!(m, m.expected_version),
        Sent::DeliverOrder(m) => header!(m, m.expected_version),
        Sent::CancelOrder(m) => header!(m, m.expected_version),
    }
}

/// The order that a command is about, as the caller wrote it in lower case: equal for equal orders, before any check.
pub(super) fn order_of(message: &Sent) -> String {
    let Header { order_id, request_id, .. } = header(message);
    let of_create = matches!(message, Sent::CreateOrder(_)) && order_id.is_empty();
    if of_create { request_id.to_ascii_lowercase() } else { order_id.to_ascii_lowercase() }
}

/// The command in `message`. `now` in nanoseconds since 1970.
///
/// # Errors
/// `INVALID_FIELD` with the path of each malformed field.
pub(super) fn parse(caller: &Caller, message: Sent, now: i64) -> Result<Request, Error> {
    let mut check = Check::default();
    let header = header(&message);
    let request_id = check.optional_uuid("request_id", header.request_id);
    let order_id = if matches!(message, Sent::CreateOrder(_)) {
        check.optional_uuid("order_id", header.order_id).or(request_id).unwrap_or_else(Uuid::now_v7)
    } else {
        check.uuid("order_id", header.order_id)
    };
    let expected_version = check.expected_version("expected_version", header.expected_version);
    let identity = request_id.map(|request_id| Identity { request_id, fingerprint: fingerprint(&message) });
    let command = command(message, now, &mut check);
    let Caller { actor, traceparent } = caller.clone();
    check.finish(Request { order_id, identity, expected_version, actor, traceparent, command })
}

/// First half of the SHA-256 of the message's wire form, which begins with the number of the command.
fn fingerprint(message: &Sent) -> Fingerprint {
    let mut bytes = Vec::with_capacity(message.encoded_len());
    message.encode(&mut bytes);
    let hash = Sha256::digest(&bytes);
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(&hash[..16]);
    fingerprint
}

fn command(message: Sent, now: i64, check: &mut Check) -> Command {
    match message {
        Sent::CreateOrder(m) => create(m, now, check),
        Sent::AddItem(m) => {
            if m.item.is_none() {
                check.refuse("item", "is required");
            }
            // Where it is missing, that is said once, and not of each of its fields.
            let mut own = Check::default();
            let check = if m.item.is_some() { check } else { &mut own };
            Command::AddItem(new_item("item", m.item.unwrap_or_default(), check))
        }
        Sent::ChangeItemQuantity(m) => Command::ChangeItemQuantity {
            line: check.line("line", m.line),
            quantity: check.quantity("quantity", m.quantity),
        },
        Sent::RemoveItem(m) => Command::RemoveItem { line: check.line("line", m.line) },
        Sent::SubmitOrder(_) => Command::Submit,
        Sent::ConfirmOrder(_) => Command::Confirm,
        Sent::ShipOrder(m) => Command::Ship {
            carrier: check.text("carrier", m.carrier, 0, 64),
            tracking_number: check.text("tracking_number", m.tracking_number, 0, 64),
        },
        Sent::DeliverOrder(_) => Command::Deliver,
        Sent::CancelOrder(m) => Command::Cancel { reason: check.text("reason", m.reason, 1, 500) },
    }
}

fn create(message: CreateOrderRequest, now: i64, check: &mut Check) -> Command {
    let placed_at = message.placed_time.as_ref().map(|time| {
        let nanos = proto::time::to_nanos(time).filter(|nanos| *nanos >= 0);
        if nanos.is_none() {
            check.refuse("placed_time", "must be a time since 1970-01-01T00:00:00Z");
        } else if nanos.is_some_and(|nanos| nanos > now.saturating_add(MAX_AHEAD)) {
            check.refuse("placed_time", "must not be more than five minutes ahead");
        }
        nanos.unwrap_or(0)
    });
    if message.items.len() > MAX_ITEMS {
        check.refuse("items", "must be at most 2,000");
    }
    if message.submit && message.items.is_empty() {
        check.refuse("items", "must be at least one to submit");
    }
    let numbered = message.items.into_iter().take(MAX_ITEMS).enumerate();
    let items: Vec<_> = numbered.map(|(i, item)| new_item(&format!("items[{i}]"), item, check)).collect();
    let total = items.iter().try_fold(0_i64, |sum, item| sum.checked_add(subtotal(item)?));
    // A single item beyond the largest amount has been refused by its own path.
    if total.is_none() && items.iter().all(|item| subtotal(item).is_some()) {
        check.refuse("items", "their sum passes the largest amount");
    }
    Command::Create(Create {
        customer_id: check.key("customer_id", message.customer_id),
        customer_name: None,
        currency: check.currency("currency_code", message.currency_code),
        reference: check.text("reference", message.reference, 0, 64),
        delivery_country: check.text("delivery_country", message.delivery_country, 0, 64),
        placed_at,
        now,
        items,
        submit: message.submit,
    })
}

fn new_item(path: &str, item: v1::NewItem, check: &mut Check) -> order::NewItem {
    let item = order::NewItem {
        product_id: check.key(&format!("{path}.product_id"), item.product_id),
        product_name: None,
        quantity: check.quantity(&format!("{path}.quantity"), item.quantity),
        unit_price: check.price(&format!("{path}.unit_price"), item.unit_price),
    };
    if subtotal(&item).is_none() {
        check.refuse(path, "quantity times unit_price passes the largest amount");
    }
    item
}

fn subtotal(item: &order::NewItem) -> Option<i64> {
    i64::from(item.quantity).checked_mul(item.unit_price.minor_units)
}
