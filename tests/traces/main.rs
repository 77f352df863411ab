//! A caller's trace goes with the command into the events: a process of its own, as telemetry is installed once.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../e2e/world.rs"]
#[expect(dead_code, reason = "the other end-to-end tests use the rest")]
mod world;

use proto::v1::GetOrderHistoryRequest;
use shared::telemetry::{self, TelemetryConfig};
use tonic::Request;

use crate::world::{World, create};

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_command_is_kept_with_its_events() {
    let _telemetry = telemetry::init("the pair", &TelemetryConfig::default()).unwrap();
    let world = World::start().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut request = Request::new(create(1));
    let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let receipt = world.orders().create_order(request).await.unwrap().into_inner().receipt.unwrap();
    let history = GetOrderHistoryRequest { order_id: receipt.order_id };
    let events = world.queries().get_order_history(history).await.unwrap().into_inner().events;
    assert_eq!(events.len(), 4);
    for event in events {
        let [version, kept, span, flags] = event.traceparent.split('-').collect::<Vec<_>>()[..] else {
            panic!("not a traceparent: {}", event.traceparent)
        };
        assert_eq!((version, kept, flags), ("00", trace, "01"));
        assert_ne!(span, "b7ad6b7169203331", "the span is the service's own");
    }
}
