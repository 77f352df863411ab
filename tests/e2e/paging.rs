//! Pages while orders are written: nothing that did not change is repeated or left out.

use std::collections::HashSet;

use proto::v1::*;

use crate::world::{World, create};

#[tokio::test]
async fn pages_are_exact_with_ties_while_orders_are_written() {
    let world = World::start().await;
    let placed_time = Some(prost_types::Timestamp { seconds: 1_291_192_000, nanos: 0 });
    let mut settled = HashSet::new();
    for i in 0..60 {
        // Three totals, one placed time: every sort has ties.
        let request = CreateOrderRequest { placed_time, ..create(i % 3 + 1) };
        settled.insert(world.create(request).await.order_id);
    }
    world.settle().await;
    let sorts = [
        OrderSort::Unspecified,
        OrderSort::PlacedTimeAsc,
        OrderSort::PlacedTimeDesc,
        OrderSort::TotalDesc,
        OrderSort::TotalAsc,
        OrderSort::UpdateTimeDesc,
    ];
    let mut totals = Vec::new();
    for sort in sorts {
        let mut request = ListOrdersRequest { sort: sort.into(), page_size: 7, ..Default::default() };
        let mut seen = Vec::new();
        loop {
            let answer = world.queries().list_orders(request.clone()).await.unwrap().into_inner();
            seen.extend(answer.orders);
            if answer.next_page_token.is_empty() {
                break;
            }
            request.page_token = answer.next_page_token;
            // Between two pages, another order is written and becomes visible.
            let new = world.create(CreateOrderRequest { placed_time, ..create(2) }).await;
            let consistency = Some(Consistency { tokens: vec![new.consistency_token], ..Default::default() });
            let visible = ListOrdersRequest { page_size: 1, consistency, ..Default::default() };
            world.queries().list_orders(visible).await.unwrap();
        }
        let ids: Vec<_> = seen.iter().map(|order| order.order_id.clone()).collect();
        let distinct: HashSet<_> = ids.iter().cloned().collect();
        assert_eq!(distinct.len(), ids.len(), "{sort:?} repeats nothing");
        assert!(settled.is_subset(&distinct), "{sort:?} leaves nothing out");
        if sort == OrderSort::TotalAsc {
            totals.extend(seen.iter().map(|order| order.total.as_ref().unwrap().minor_units));
        }
    }
    assert!(totals.is_sorted());
}
