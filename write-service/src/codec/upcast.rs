//! Stored events of older schemas, brought to today's.
//!
//! In: the body that an older release stored. Today's messages read its bytes, as fields are only ever added. Out: the body as
//! it would be stored today, so that whoever folds or publishes events meets the current schema of each type only.

use proto::v1::recorded_event::Body;

use super::subtotal;

/// From one schema of a type to the next; `None` where the body lacks what the step needs.
type Step = fn(Body) -> Option<Body>;

/// Every (type, schema) that was written once and no longer is, with the step to the schema after it; a type's schemas in
/// rising order. Nothing is ever taken out: the store keeps events for ever.
pub(super) const STEPS: [(&str, i16, Step); 1] = [("ItemAdded", 1, item_added_1)];

/// Whether there is a way from this pair to today's schema.
pub(super) fn reads(type_name: &str, schema: i16) -> bool {
    STEPS.iter().any(|(name, from, _)| *name == type_name && *from == schema)
}

/// The body in today's schema of its type.
pub(super) fn to_current(type_name: &str, schema: i16, body: Body) -> Option<Body> {
    let steps = STEPS.iter().filter(|(name, from, _)| *name == type_name && *from >= schema);
    steps.into_iter().try_fold(body, |body, (_, _, step)| step(body))
}

/// Schema 2 has the subtotal.
fn item_added_1(body: Body) -> Option<Body> {
    let Body::ItemAdded(mut event) = body else { return None };
    event.subtotal = Some(subtotal(event.quantity, event.unit_price.as_ref()?)?);
    Some(Body::ItemAdded(event))
}
