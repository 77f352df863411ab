//! The room that speaks Elasticsearch, against the real one.

use elasticsearch::http::Method;
use read_service::index::{Bulk, EnsureError, Index, IndexError, ItemOutcome};
use read_service::projection::{
    CustomerDocument, Customers, LineDocument, OrderDocument, Orders, ProductDocument, Products, Projection,
    Status,
};
use serde_json::{Value, json};

use crate::support::Search;

/// An order with every field filled.
fn order(key: &str, version: i64, placed_at: i64) -> OrderDocument {
    let line = LineDocument {
        line: 1,
        product_id: "85123A".to_owned(),
        product_name: "WHITE HANGING HEART".to_owned(),
        quantity: 6,
        unit_price: 255,
        subtotal: 1_530,
    };
    OrderDocument {
        order_id: key.to_owned(),
        version,
        reference: "R-100".to_owned(),
        customer_id: "17850".to_owned(),
        customer_name: "José Müller".to_owned(),
        status: Status::Cancelled,
        currency: "GBP".to_owned(),
        total: 1_530,
        item_count: 1,
        unit_count: 6,
        delivery_country: "United Kingdom".to_owned(),
        placed_at,
        updated_at: placed_at,
        submitted_at: Some(1),
        confirmed_at: Some(2),
        shipped_at: Some(3),
        delivered_at: Some(4),
        cancelled_at: Some(5),
        carrier: "DHL".to_owned(),
        tracking_number: "T1".to_owned(),
        cancel_reason: "lost".to_owned(),
        lines: vec![line],
    }
}

async fn with_orders(name: &str) -> (Search, String) {
    let search = Search::start(name).await;
    let alias = search.name("orders");
    let live = search.index.ensure(&alias, &format!("{alias}-v1-1"), Orders::MAPPING).await.unwrap();
    (search, live.name)
}

#[tokio::test]
async fn two_that_start_at_once_make_one_index() {
    let search = Search::start("at-once").await;
    let alias = search.name("orders");
    let first = format!("{alias}-v1-1");
    let ensure = || search.index.ensure(&alias, &first, Orders::MAPPING);
    let (one, two, three) = tokio::join!(ensure(), ensure(), ensure());
    let one = one.unwrap();
    assert_eq!(one.name, first);
    assert_eq!((&one, &one), (&two.unwrap(), &three.unwrap()));
    assert_eq!(search.index.live(&alias).await.unwrap(), Some(one));
    assert_eq!(search.index.live(&search.name("nobody")).await.unwrap(), None);
}

#[tokio::test]
async fn an_index_with_another_mapping_is_noticed() {
    let (search, name) = with_orders("other-mapping").await;
    let alias = search.name("orders");
    let other = search.index.ensure(&alias, &name, Customers::MAPPING).await.unwrap();
    assert!(other.has(Orders::MAPPING) && !other.has(Customers::MAPPING));
    let stray = search.index.ensure(&search.name("stray"), &name, Orders::MAPPING).await;
    assert!(matches!(stray, Err(EnsureError::NoAlias { .. })), "{stray:?}");
}

#[tokio::test]
async fn documents_fit_their_mappings_and_strangers_do_not() {
    let (search, orders) = with_orders("strict").await;
    for (name, mapping) in [("customers", Customers::MAPPING), ("products", Products::MAPPING)] {
        let alias = search.name(name);
        search.index.ensure(&alias, &format!("{alias}-v1-1"), mapping).await.unwrap();
    }
    let full = order("a", 1, 0);
    let mut bulk = Bulk::default();
    bulk.index("a", 1, &full, &Orders::search(&full));
    bulk.index("b", 1, &json!({ "order_id": "b", "surprise": 1 }), "");
    bulk.index("c", 1, &json!({ "order_id": "c", "total": "much" }), "");
    bulk.index("d", 1, &json!({ "order_id": "d" }), "words");
    let outcomes = search.index.bulk(&orders, &bulk.seal()).await.unwrap();
    let unfit = |kind: &str| ItemOutcome::Unfit(IndexError::Refused { status: 400, kind: kind.to_owned() });
    let expected = [
        ItemOutcome::Applied,
        unfit("strict_dynamic_mapping_exception"),
        unfit("document_parsing_exception"),
        ItemOutcome::Applied,
    ];
    assert_eq!(outcomes, expected);
    let found = search.index.get::<OrderDocument>(&orders, "a").await.unwrap().unwrap();
    assert_eq!(found.source, full);

    let mut bulk = Bulk::default();
    let customer = CustomerDocument {
        customer_id: "c".to_owned(),
        version: 1,
        name: "n".to_owned(),
        registered_at: 1,
        updated_at: 2,
    };
    bulk.index("c", 1, &customer, "");
    assert_eq!(
        search.index.bulk(&search.name("customers"), &bulk.seal()).await.unwrap(),
        [ItemOutcome::Applied]
    );
    let mut bulk = Bulk::default();
    let product = ProductDocument {
        product_id: "p".to_owned(),
        version: 1,
        name: "n".to_owned(),
        registered_at: 1,
        updated_at: 2,
    };
    bulk.index("p", 1, &product, "");
    assert_eq!(
        search.index.bulk(&search.name("products"), &bulk.seal()).await.unwrap(),
        [ItemOutcome::Applied]
    );
}

#[tokio::test]
async fn a_document_never_goes_back() {
    let (search, orders) = with_orders("versions").await;
    let mut bulk = Bulk::default();
    for version in [5, 5, 4, 6] {
        bulk.index("a", version, &order("a", version, 0), "");
    }
    let outcomes = search.index.bulk(&orders, &bulk.seal()).await.unwrap();
    let (applied, already) = (ItemOutcome::Applied, ItemOutcome::AlreadyApplied);
    assert_eq!(outcomes, [applied.clone(), already.clone(), already, applied]);
    let found = search.index.get::<OrderDocument>(&orders, "a").await.unwrap().unwrap();
    assert_eq!((found.version, found.source.version), (6, 6));
}

#[tokio::test]
async fn reads_by_id_see_what_no_refresh_has_shown() {
    let (search, orders) = with_orders("real-time").await;
    let alias = search.name("orders");
    let mut bulk = Bulk::default();
    bulk.index("a", 3, &order("a", 3, 0), "");
    bulk.index("..", 7, &order("..", 7, 0), "");
    search.index.bulk(&orders, &bulk.seal()).await.unwrap();
    let index = &search.index;
    let found = index.get::<OrderDocument>(&alias, "a").await.unwrap().unwrap();
    assert_eq!((found.version, found.index, found.source), (3, orders.clone(), order("a", 3, 0)));
    assert_eq!(index.get::<OrderDocument>(&alias, "..").await.unwrap().unwrap().version, 7);
    assert_eq!(index.get::<OrderDocument>(&alias, "nobody").await.unwrap(), None);
    assert_eq!(index.versions(&alias, &["nobody", "a", ".."]).await.unwrap(), [None, Some(3), Some(7)]);
    let several = index.mget::<OrderDocument>(&alias, &["nobody", "a"]).await.unwrap();
    assert_eq!(
        several.into_iter().map(|found| found.map(|found| found.version)).collect::<Vec<_>>(),
        [None, Some(3)]
    );
    let all = json!({ "query": { "match_all": {} } });
    assert_eq!(index.search::<Value>(&alias, &all).await.unwrap().total, 0);
    index.refresh(&alias).await.unwrap();
    let answer = index.search::<OrderDocument>(&alias, &all).await.unwrap();
    assert_eq!((answer.total, answer.total_is_exact, answer.hits.len()), (2, true, 2));
    assert_eq!((answer.hits[0].index.as_str(), answer.hits[0].version), (orders.as_str(), 3));
}

#[tokio::test]
async fn times_sort_and_page_to_the_nanosecond() {
    let (search, orders) = with_orders("nanos").await;
    let base = 1_322_727_960_123_456_000;
    let mut bulk = Bulk::default();
    for (key, placed_at) in [("a", base), ("b", base + 1), ("c", base + 1), ("d", base + 999), ("e", 0)] {
        bulk.index(key, 1, &order(key, 1, placed_at), "");
    }
    search.index.bulk(&orders, &bulk.seal()).await.unwrap();
    search.index.refresh(&orders).await.unwrap();
    let mut body =
        json!({ "size": 1, "sort": [{ "placed_at": "desc" }, { "order_id": "asc" }], "_source": false });
    let mut keys = String::new();
    loop {
        let mut hits = search.index.search::<Value>(&orders, &body).await.unwrap().hits;
        let Some(hit) = hits.pop() else { break };
        keys.push_str(&hit.id);
        body["search_after"] = Value::Array(hit.sort);
    }
    assert_eq!(keys, "dbcae");
    let range = json!({ "query": { "range": { "placed_at": { "gt": "2011-12-01T08:26:00.123456001Z" } } } });
    assert_eq!(search.index.search::<Value>(&orders, &range).await.unwrap().hits[0].id, "d");
}

#[tokio::test]
async fn a_record_changes_only_for_who_saw_it() {
    let search = Search::start("records").await;
    let (index, control) = (&search.index, search.name("control"));
    let mapping = include_str!("../../index/control.json");
    let (one, two) =
        tokio::join!(index.ensure_plain(&control, mapping), index.ensure_plain(&control, mapping));
    one.unwrap();
    two.unwrap();
    let record = |position: i64| json!({ "kind": "checkpoint", "position": position });
    assert_eq!(index.record::<Value>(&control, "x/y").await.unwrap(), None);
    let first = index.create(&control, "x/y", &record(1)).await.unwrap();
    assert!(index.create(&control, "x/y", &record(2)).await.unwrap_err().is_conflict());
    let second = index.replace(&control, "x/y", first, &record(2)).await.unwrap();
    assert!(index.replace(&control, "x/y", first, &record(3)).await.unwrap_err().is_conflict());
    let seen = index.record::<Value>(&control, "x/y").await.unwrap().unwrap();
    assert_eq!((seen.stamp, seen.value), (second, record(2)));
    assert!(index.remove(&control, "x/y", first).await.unwrap_err().is_conflict());
    index.remove(&control, "x/y", second).await.unwrap();
    assert_eq!(index.record::<Value>(&control, "x/y").await.unwrap(), None);
    let stranger = index.create(&control, "z", &json!({ "surprise": 1 })).await.unwrap_err();
    assert!(stranger.is_kind("strict_dynamic_mapping_exception"), "{stranger}");
}

#[tokio::test]
async fn failures_say_what_they_are() {
    let (search, orders) = with_orders("failures").await;
    let absent = search.name("nobody");
    assert!(search.index.get::<Value>(&absent, "a").await.unwrap_err().is_absent());
    assert!(search.index.versions(&absent, &["a"]).await.unwrap_err().is_absent());
    assert!(search.index.search::<Value>(&absent, &json!({})).await.unwrap_err().is_absent());
    let mut bulk = Bulk::default();
    bulk.index("a", 1, &json!({}), "");
    assert!(matches!(
        search.index.bulk(&absent, &bulk.clone().seal()).await.as_deref(),
        Ok([ItemOutcome::Closed(_)]) | Err(_)
    ));
    let nonsense =
        search.index.search::<Value>(&orders, &json!({ "query": { "nonsense": {} } })).await.unwrap_err();
    assert!(matches!(nonsense, IndexError::Refused { status: 400, .. }), "{nonsense}");
    let close = format!("/{orders}/_close");
    search.raw(Method::Post, &close, None).await;
    assert!(matches!(search.index.bulk(&orders, &bulk.seal()).await.unwrap()[..], [ItemOutcome::Closed(_)]));

    let nobody = Index::new("http://127.0.0.1:1").unwrap();
    let unanswered = nobody.get::<Value>(&orders, "a").await.unwrap_err();
    assert!(
        matches!(&unanswered, IndexError::Unavailable(cause) if !cause.contains("127.0.0.1")),
        "{unanswered}"
    );
    assert!(unanswered.is_transient());
}
