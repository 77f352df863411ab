//! A hundred thousand orders: pages while they are written, and how long the worst of texts may take.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto::v1::*;
use read_service::index::{Bulk, Index};
use read_service::projection::{OrderDocument, Orders, Projection as _};
use tokio_util::sync::CancellationToken;

use super::world::{DAY, HOUR, Sale, World, history, id};

/// Orders, of which every fiftieth changes all the time.
const ORDERS: usize = 100_000;
const CHANGING: usize = 50;
const PRODUCTS: [&str; 7] = [
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "HEARTS OF WICKER SMALL",
    "HAERT SHAPED TIN",
    "REGENCY CAKESTAND 3 TIER",
    "JUMBO BAG RED RETROSPOT",
    "ASSORTED COLOUR BIRD ORNAMENT",
    "PARTY BUNTING",
];

/// An order as its events would leave it, with thousands of others at the same place in every sort.
fn order(template: &OrderDocument, number: usize, version: i64) -> OrderDocument {
    let mut order = template.clone();
    let spread = |modulus: usize| {
        i64::try_from((number * 7_919 + usize::try_from(version).unwrap()) % modulus).unwrap()
    };
    order.order_id = id(number);
    order.reference = format!("{}", 536_365 + number);
    order.customer_id = format!("{}", 12_346 + number % 4_000);
    order.customer_name = format!("Customer {}", 12_346 + number % 4_000);
    order.version = version;
    order.placed_at = DAY + spread(40) * HOUR;
    order.updated_at = DAY + 1_000 * HOUR + spread(30);
    let line = order.lines.remove(0);
    // The first has the word, its plural or a typing error.
    for place in 0..=number % 2 {
        let mut line = line.clone();
        line.line += i32::try_from(place).unwrap();
        line.product_id = format!("{}", 85_123 + (number + place) % 300);
        PRODUCTS[if place == 0 { number % 3 } else { (number + place) % PRODUCTS.len() }]
            .clone_into(&mut line.product_name);
        order.lines.push(line);
    }
    order.item_count = i64::try_from(order.lines.len()).unwrap();
    order.unit_count = order.item_count;
    order.total = 100 * spread(20);
    order
}

async fn store(index: &Index, name: &str, orders: impl IntoIterator<Item = OrderDocument>) {
    let mut bulk = Bulk::default();
    for order in orders {
        bulk.index(&order.order_id, order.version, &order, &Orders::search(&order));
    }
    index.bulk(name, &bulk.seal()).await.unwrap();
}

/// Changes the changing orders, and adds others, four times a second; each round can be found at once.
async fn write(index: &Index, name: &str, template: &OrderDocument, done: &CancellationToken) -> i64 {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    for version in 4.. {
        tick.tick().await;
        let round = usize::try_from(version).unwrap();
        let changing = (0..ORDERS).step_by(CHANGING).skip(round % 4).step_by(4);
        let added = (ORDERS + round * 100..).take(100);
        store(index, name, changing.chain(added).map(|number| order(template, number, version))).await;
        index.refresh(name).await.unwrap();
        if done.is_cancelled() {
            return version - 3;
        }
    }
    0
}

/// What a row is sorted by, smaller first.
fn place(sort: OrderSort, order: &OrderSummary) -> i64 {
    let time = |time: &Option<prost_types::Timestamp>| proto::time::to_nanos(&time.unwrap()).unwrap();
    let total = order.total.as_ref().unwrap().minor_units;
    match sort {
        OrderSort::Unspecified | OrderSort::PlacedTimeDesc => -time(&order.placed_time),
        OrderSort::PlacedTimeAsc => time(&order.placed_time),
        OrderSort::TotalDesc => -total,
        OrderSort::TotalAsc => total,
        OrderSort::UpdateTimeDesc => -time(&order.update_time),
    }
}

/// Reads page after page, and finds every order that did not change once, at its place.
async fn read(
    sort: OrderSort,
    first: Option<i64>,
    mut next: impl AsyncFnMut(String) -> (Vec<OrderSummary>, String),
) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut last = (i64::MIN, String::new());
    let mut page_token = String::new();
    loop {
        let (orders, next_page_token) = next(page_token).await;
        for order in orders {
            // The best matches have no place that callers see.
            let here = (first.unwrap_or_else(|| place(sort, &order)), order.order_id.clone());
            assert!(first.is_some() || last < here, "{sort:?}: {last:?} before {here:?}");
            last = here;
            *seen.entry(order.order_id).or_default() += 1;
        }
        if next_page_token.is_empty() {
            break;
        }
        page_token = next_page_token;
    }
    for number in (0..ORDERS).filter(|number| number % CHANGING != 0) {
        assert_eq!(seen.get(&id(number)), Some(&1), "{sort:?}: order {number}");
    }
}

async fn read_list(world: &World, sort: OrderSort) {
    let request = ListOrdersRequest { sort: sort.into(), page_size: 500, ..Default::default() };
    read(sort, None, async |page_token| {
        let page = world.list(ListOrdersRequest { page_token, ..request.clone() }).await.unwrap();
        assert!(!page.total_is_exact && page.total_size == 10_000);
        (page.orders, page.next_page_token)
    })
    .await;
}

async fn read_search(world: &World) {
    let request = SearchOrdersRequest { query: "heart".into(), page_size: 500, ..Default::default() };
    read(OrderSort::Unspecified, Some(0), async |page_token| {
        let page = world.search(SearchOrdersRequest { page_token, ..request.clone() }).await.unwrap();
        let orders = page.hits.into_iter().map(|hit| hit.order.unwrap()).collect();
        (orders, page.next_page_token)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_hundred_thousand_orders_hold_while_they_are_written() {
    let world = World::of("scale", &history([])).await;
    let name = format!("{}orders-v1-1", world.prefix);
    let template = history([&Sale::number(0)]).folded::<Orders>(&id(0));
    let numbers: Vec<_> = (0..ORDERS).collect();
    for lane in numbers.chunks(4_000) {
        let halves = lane.chunks(2_000).map(|numbers| {
            store(&world.index, &name, numbers.iter().map(|number| order(&template, *number, 3)))
        });
        join_all(halves).await;
    }
    world.index.refresh(&name).await.unwrap();

    hostile_texts_are_answered_within_a_second(&world).await;

    let done = CancellationToken::new();
    let readers = async {
        tokio::join!(
            read_list(&world, OrderSort::Unspecified),
            read_list(&world, OrderSort::PlacedTimeAsc),
            read_list(&world, OrderSort::TotalDesc),
            read_list(&world, OrderSort::TotalAsc),
            read_list(&world, OrderSort::UpdateTimeDesc),
            read_search(&world),
        );
        done.cancel();
    };
    let ((), rounds) = tokio::join!(readers, write(&world.index, &name, &template, &done));
    assert!(rounds > 10, "written {rounds} times meanwhile");
}

/// Every text is words or is refused; none is a program for the server.
async fn hostile_texts_are_answered_within_a_second(world: &World) {
    let words = |word: &str, count: usize| vec![word; count].join(" ");
    let different = |length: usize| {
        let mut words = (0..32_usize).map(|i| {
            format!(
                "{}{}",
                "abcdefgh".get(..length).unwrap(),
                char::from(b'a' + u8::try_from(i % 26).unwrap())
            )
        });
        let mut text = String::new();
        while let Some(word) = words.next().filter(|word| text.len() + word.len() < 200) {
            text = format!("{text} {word}");
        }
        text
    };
    let texts = [
        // As many words as there may be: of one letter, of five with typing errors, all of them found everywhere.
        "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5".to_owned(),
        different(4),
        different(5),
        "heart hearts haert white hanging light holder wicker small shaped regency cakestand tier jumbo"
            .to_owned(),
        "0 5 53 8 85 1 12 c h t p 00 000 0000 00000 000000 0000000".to_owned(),
        "東京都千代田区丸の内一丁目九番一号東京駅八重洲口地下街".to_owned(),
        "x".repeat(200),
        "a*b?c".to_owned(),
        "*".to_owned(),
        "/.*.*.*.*.*.*.*a{1000}{1000}/".to_owned(),
        "status:draft OR (total:[0 TO *] AND NOT _exists_:lines)^1000~2".to_owned(),
        r#"heart"}}]}},"query":{"match_all":{}},"x":{"#.to_owned(),
        r#"{"script":{"source":"while(true){}"}}"#.to_owned(),
        "heart' OR 1=1; --".to_owned(),
        "${jndi:ldap://localhost/a} #{7*7} %s%n".to_owned(),
        words("a", 100),
        words("(", 100),
        // Ten thousand words, and more than a query language would take.
        words("heart OR", 10_000),
        "(".repeat(100_000),
        "heart ".repeat(40_000),
    ];
    for text in texts {
        let shown: String = text.chars().take(60).collect();
        // Other tests use the machine too: one of three must be quick.
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let asked = Instant::now();
            let answer =
                world.search(SearchOrdersRequest { query: text.clone(), ..Default::default() }).await;
            quickest = quickest.min(asked.elapsed());
            match answer {
                Ok(answer) => {
                    // All of the words must be there: nothing of the text widens what is found.
                    let everywhere =
                        ["heart", "0 5"].iter().any(|word| text.starts_with(word) && text.len() < 80);
                    assert!(
                        answer.total_size == 0 || everywhere || !text.contains(['{', '*', '/']),
                        "{shown}: {}",
                        answer.total_size
                    );
                }
                Err(status) => assert_eq!(super::world::refusal::<()>(Err(status)).2, ["query"], "{shown}"),
            }
        }
        assert!(quickest < Duration::from_secs(1), "{shown}: {quickest:?}");
    }
}
