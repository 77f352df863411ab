//! Searches: words are found as callers write them, best first, and marked as the order has them.

use proto::v1::*;

use super::world::{DAY, Sale, World, history, hits_of, id, time};

fn orders() -> Vec<Sale> {
    let mut muller = Sale::number(1).only("85123A", "WHITE HANGING HEART T-LIGHT HOLDER", 6, 255);
    muller.reference = "536365".into();
    let mut oneill = Sale::number(2).only("22423", "REGENCY CAKESTAND 3 TIER", 1, 1_275);
    oneill.customer_id = "C-12346".into();
    oneill.customer_name = "Siobhán O'Neill & Sons".into();
    oneill.reference = "PO 4711/B".into();
    let mut tokyo =
        Sale::number(3).only("POST", "CHRISTMAS LIGHTS", 1, 1_800).line("22423", "REGENCY CAKE TIN", 1, 100);
    tokyo.customer_name = "東京タワー Straße".into();
    tokyo.customer_id = "12347".into();
    tokyo.reference = "536366".into();
    vec![muller, oneill, tokyo]
}

fn query(text: &str) -> SearchOrdersRequest {
    SearchOrdersRequest { query: text.into(), ..Default::default() }
}

#[tokio::test]
async fn words_are_found_and_marked() {
    let world = World::of("words", &history(&orders())).await;
    for (text, expected) in [
        // Accents and case, both ways.
        ("muller", vec![(1, "customer_name=Jürgen [Müller]")]),
        ("MÜLLER", vec![(1, "customer_name=Jürgen [Müller]")]),
        ("strasse", vec![(3, "customer_name=東京タワー [Straße]")]),
        ("京タ", vec![(3, "customer_name=東[京タ]ワー Straße")]),
        // Any order, beginnings, words behind punctuation.
        ("light hanging white", vec![(1, "lines.product_name=[WHITE] [HANGING] HEART T-[LIGHT] HOLDER")]),
        ("hang hol", vec![(1, "lines.product_name=WHITE [HANGING] HEART T-LIGHT [HOLDER]")]),
        ("neill", vec![(2, "customer_name=Siobhán O'[Neill] & Sons")]),
        ("o'neill & sons", vec![(2, "customer_name=Siobhán [O]'[Neill] & [Sons]")]),
        // One typing error: wrong, missing, added, swapped; first letter too. Not in short words, not twice.
        ("mullar", vec![(1, "customer_name=Jürgen [Müller]")]),
        ("siobhn", vec![(2, "customer_name=[Siobhán] O'Neill & Sons")]),
        ("regenccy cakestand", vec![(2, "lines.product_name=[REGENCY] [CAKESTAND] 3 TIER")]),
        ("jurgne", vec![(1, "customer_name=[Jürgen] Müller")]),
        ("xurgen", vec![(1, "customer_name=[Jürgen] Müller")]),
        ("hert", vec![]),
        ("chrsitmsa", vec![]),
        // Ids and references: whole or by their beginning, never nearly.
        ("536366", vec![(3, "reference=[536366]")]),
        ("po", vec![(2, "reference=[PO 4711/B]"), (3, "lines.product_id=[POST]")]),
        ("4711/b", vec![(2, "reference=PO [4711]/[B]")]),
        ("536367", vec![]),
        ("85123a", vec![(1, "lines.product_id=[85123A]")]),
        ("85123", vec![(1, "lines.product_id=[85123A]")]),
        ("85124A", vec![]),
        ("c-12346", vec![(2, "customer_id=[C-12346]")]),
        (
            "00000000-0000-7000-8000-000000000002",
            vec![(2, "order_id=[00000000-0000-7000-8000-000000000002]")],
        ),
        // Syntax of query languages is text.
        ("muller OR neill", vec![]),
    ] {
        let answer = world.search(query(text)).await.unwrap();
        let found: Vec<_> =
            answer.hits.iter().map(|hit| hit.order.as_ref().unwrap().order_id.clone()).collect();
        assert_eq!(found, expected.iter().map(|(number, _)| id(*number)).collect::<Vec<_>>(), "{text}");
        for (hit, (_, shown)) in answer.hits.iter().zip(&expected) {
            let shown_here = |h: &Highlight| format!("{}={}", h.field, brackets(&h.fragment));
            assert!(hit.highlights.iter().any(|h| shown_here(h) == *shown), "{text}: {:?}", hit.highlights);
        }
    }
}

fn brackets(fragment: &str) -> String {
    fragment.replace('\u{E000}', "[").replace('\u{E001}', "]")
}

#[tokio::test]
async fn the_best_match_comes_first() {
    let named = |number, reference: &str, product: &str| {
        let mut sale = Sale::number(number).only("1", product, 1, 100);
        sale.reference = reference.into();
        sale
    };
    // By id against the order of the ids, so that only the score can sort them.
    let sales = [
        named(4, "order-4", "GLASS"),
        named(3, "order-3", "GLASSES"),
        named(2, "GLASS-9", "CUP"),
        named(1, "order-1", "GRASS"),
        named(5, "glass", "CUP"),
    ];
    let world = World::of("best", &history(&sales)).await;
    let answer = world.search(query("glass")).await.unwrap();
    assert_eq!(hits_of(&answer), [5, 2, 4, 3, 1].map(id));
    let request = SearchOrdersRequest { sort: OrderSort::PlacedTimeDesc.into(), ..query("glass") };
    assert_eq!(hits_of(&world.search(request).await.unwrap()), [1, 2, 3, 4, 5].map(id));
}

#[tokio::test]
async fn pages_of_equal_matches_are_exact() {
    let sales: Vec<_> = (0..40).map(Sale::number).collect();
    let world = World::of("equal", &history(&sales)).await;
    let mut request = SearchOrdersRequest { page_size: 7, ..query("heart muler") };
    let mut found = Vec::new();
    loop {
        let page = world.search(request.clone()).await.unwrap();
        assert_eq!((page.total_size, page.total_is_exact), (40, true));
        found.extend(hits_of(&page));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(found, (0..40).map(id).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_filter_hits() {
    let mut sales: Vec<_> = (0..5).map(Sale::number).collect();
    sales[0].customer_id = "12346".into();
    sales[1].country = "EIRE".into();
    sales[2].status = OrderStatus::Shipped;
    sales[3].placed_at = DAY + 1;
    sales[4] = sales[4].clone().line("POST", "POSTAGE", 1, 1_800);
    let world = World::of("narrow", &history(&sales)).await;
    let all = query("heart");
    for (request, expected) in [
        (SearchOrdersRequest { customer_id: "12346".into(), ..all.clone() }, vec![0]),
        (SearchOrdersRequest { delivery_country: "EIRE".into(), ..all.clone() }, vec![1]),
        (SearchOrdersRequest { statuses: vec![OrderStatus::Shipped.into()], ..all.clone() }, vec![2]),
        (SearchOrdersRequest { placed_from: time(DAY + 1), ..all.clone() }, vec![3]),
        (SearchOrdersRequest { placed_to: time(DAY + 1), ..all.clone() }, vec![0, 1, 2, 4]),
        (SearchOrdersRequest { min_total_minor_units: Some(101), ..all.clone() }, vec![4]),
        (SearchOrdersRequest { max_total_minor_units: Some(100), ..all.clone() }, vec![0, 1, 2, 3]),
        (
            SearchOrdersRequest {
                min_total_minor_units: Some(0),
                max_total_minor_units: Some(0),
                ..all.clone()
            },
            vec![],
        ),
    ] {
        let answer = world.search(request.clone()).await.unwrap();
        assert_eq!(hits_of(&answer), expected.into_iter().map(id).collect::<Vec<_>>(), "{request:?}");
    }
}
