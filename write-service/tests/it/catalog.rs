//! Customers and products through the client.

use proto::reason::Reason;
use proto::v1::put_many_request::Entry;
use proto::v1::*;
use tonic::Code;

use crate::support::{World, refusal};

#[tokio::test]
async fn an_entry_is_registered_renamed_and_left_alone() {
    let mut world = World::start().await;
    assert_eq!(world.put_customer("c1", "Ada").await.version, 1);
    assert_eq!(world.put_customer("c1", "Ada").await.version, 1);
    assert_eq!(world.put_customer("c1", "Grace").await.version, 2);
    assert_eq!(world.put_product("c1", "a product of the same id is another stream").await.version, 1);
}

fn customer(customer_id: &str, name: &str) -> PutManyRequest {
    let entry = PutCustomerRequest { customer_id: customer_id.into(), name: name.into() };
    PutManyRequest { entry: Some(Entry::Customer(entry)) }
}

fn product(product_id: &str, name: &str) -> PutManyRequest {
    let entry = PutProductRequest { product_id: product_id.into(), name: name.into() };
    PutManyRequest { entry: Some(Entry::Product(entry)) }
}

#[tokio::test]
async fn many_entries_are_put_in_the_order_sent_per_entry() {
    let mut world = World::start().await;
    let fresh = (0..500).map(|i| product(&format!("p{i}"), "new"));
    let again =
        [customer("17850", "Customer 17850"), customer("c", "A"), customer("c", "B"), customer("c", "B")];
    let entries: Vec<_> = fresh.chain(again).collect();
    let answer = world.catalog.put_many(tokio_stream::iter(entries)).await.unwrap().into_inner();
    assert_eq!(answer, PutManyResponse { registered: 501, renamed: 1, unchanged: 2 });
    assert_eq!(world.put_customer("c", "B").await.version, 2, "the last name sent is the name");
}

#[tokio::test]
async fn the_first_malformed_entry_ends_the_call_and_those_before_it_stay() {
    let mut world = World::start().await;
    let entries = vec![product("good", "kept"), product("bad id", "refused")];
    let outcome = world.catalog.put_many(tokio_stream::iter(entries)).await;
    assert_eq!(refusal(outcome), (Code::InvalidArgument, Reason::InvalidField));
    assert_eq!(world.put_product("good", "kept").await.version, 1);
}
