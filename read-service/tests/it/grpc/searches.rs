//! Searches: words are found as callers write them, best first, and marked as the order has them.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use prost::Message as _;
use proto::v1::*;
use read_service::index::{Bulk, ItemOutcome};
use read_service::projection::{LineDocument, Orders, Projection as _};
use read_service::text;
use unicode_normalization::UnicodeNormalization as _;

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

/// Orders with these product names, stored straight into the index.
async fn named(world: &World, names: impl IntoIterator<Item = String>) {
    let mut order = history([&Sale::number(0)]).folded::<Orders>(&id(0));
    let mut bulk = Bulk::default();
    for (number, name) in (1..).zip(names) {
        order.order_id = id(number);
        order.reference.clear();
        order.customer_name.clear();
        order.lines[0].product_name = name;
        bulk.index(&order.order_id, order.version, &order, &Orders::search(&order));
    }
    let index = format!("{}orders-v1-1", world.prefix);
    let outcomes = world.index.bulk(&index, &bulk.seal()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == ItemOutcome::Applied), "{outcomes:?}");
    world.index.refresh(&index).await.unwrap();
}

#[tokio::test]
async fn one_error_of_any_kind_is_forgiven_however_many_words_are_near() {
    let world = World::of("errors", &history([])).await;
    let letters = 'a'..='z';
    let wrong = |word: &str| {
        let mut near = BTreeSet::from([word.to_owned()]);
        for i in 0..=word.len() {
            let (head, tail) = word.split_at(i);
            near.extend(letters.clone().map(|c| format!("{head}{c}{tail}")));
            if let Some(rest) = tail.get(1..) {
                near.insert(format!("{head}{rest}"));
                near.extend(letters.clone().map(|c| format!("{head}{c}{rest}")));
            }
            if let (Some(pair), Some(rest)) = (tail.get(..2), tail.get(2..)) {
                near.insert(format!("{head}{}{}{rest}", &pair[1..], &pair[..1]));
            }
        }
        near
    };
    let near = wrong("heart");
    assert!(near.len() > 250, "more than the 50 that Elasticsearch looks at unless told");
    // Two errors; and words of four letters, of which none is forgiven.
    let far = ["heat", "hert", "earth", "hxaxt", "gift", "gfit", "gifts"].map(str::to_owned);
    let far: Vec<_> = far.into_iter().filter(|word| !near.contains(word)).collect();
    named(&world, near.iter().cloned().chain(far)).await;

    let mut request = SearchOrdersRequest { page_size: 500, ..query("heart") };
    let answer = world.search(request.clone()).await.unwrap();
    let mut found = hits_of(&answer);
    found.sort_unstable();
    assert_eq!(found, (1..=near.len()).map(id).collect::<Vec<_>>());
    assert!(answer.hits.iter().all(|hit| hit.highlights.len() == 1), "each is marked");
    request.query = "gift".into();
    let found = world.search(request).await.unwrap();
    let texts: Vec<_> = found.hits.iter().map(|hit| brackets(&hit.highlights[0].fragment)).collect();
    assert_eq!(texts, ["[gift]", "[gifts]"]);
}

#[tokio::test]
async fn words_of_every_script_are_found_in_every_case_and_form() {
    let world = World::of("scripts", &history([])).await;
    let texts = [
        "naïve CAFÉ Ångström",
        "ẞtraße Ĳsselmeer Łódź",
        "ΌΔΥΣΣΕΎΣ ᾳδης ΐ",
        "ЁЛКА й Їжак",
        "İstanbul ılık DİYARBAKIR",
        "Việt Nam Thạnh",
        "שָׁלוֹם עוֹלָם",
        "مُحَمَّد ــ كتاب",
        "हिन्दी क्षत्रिय ज़मीन",
        "ภาษาไทย",
        "தமிழ் நிகண்டு",
        "한국어 서울",
        "東京タワー ｶﾞﾗｽ",
        "Ქართული ქართული",
        "ᏣᎳᎩ ꮳꮃꭹ",
        "𐐔𐐇𐐝𐐀𐐡𐐇𐐓",
        "Հայերեն և ﬓ",
        "ǆungla ǅ ŉ ﬃ",
        "℡ № ½ ①",
        "a\u{202e}bc\u{2066}de",
        "zero\u{200b}width\u{200d}joined",
        "so\u{ad}ft he\u{301}art",
        "\u{e000}marked\u{e001}",
        "tab\tnul\0end",
        "👩🏽‍🚀astronaut🚀",
        "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞A̴̵̜̰͔ͫ͗͢LG̶͎̪̱͍̹̪Oͯ̂ͤ",
        "{\"match_all\":{}} */.*\\ ~2 \"x",
        "<script>alert(1)</script>",
        "O'Brien&Co.",
        "x".repeat(200).leak(),
    ];
    named(&world, texts.map(str::to_owned)).await;
    let asked = (1..).zip(texts).flat_map(|(number, text)| {
        let words = text::words(text).into_iter().map(move |word| &text[word.range]);
        let forms = words.flat_map(|word| {
            [
                word.to_owned(),
                word.to_uppercase(),
                word.to_lowercase(),
                word.nfc().collect(),
                word.nfkd().collect(),
            ]
        });
        forms.map(move |form: String| (number, form)).collect::<BTreeSet<_>>()
    });
    let asked: Vec<_> = asked.collect();
    assert!(asked.len() > 150);
    for some in asked.chunks(50) {
        let answers = join_all(some.iter().map(|(_, form)| world.search(query(form)))).await;
        for ((number, form), answer) in some.iter().zip(answers) {
            let answer = answer.unwrap_or_else(|status| panic!("{form:?}: {status:?}"));
            let hit = answer.hits.iter().find(|hit| hit.order.as_ref().unwrap().order_id == id(*number));
            let marked =
                |hit: &SearchHit| hit.highlights.iter().any(|shown| shown.fragment.contains('\u{e000}'));
            assert!(hit.is_some_and(marked), "{form:?}: {:?}", hits_of(&answer));
        }
    }
    // Symbols alone are no word, and the one that stands for a word is not the beginning of every id.
    assert_eq!(hits_of(&world.search(query("℡")).await.unwrap()), [id(19)]);
}

#[tokio::test]
async fn large_orders_and_pages_do_not_fail_a_search() {
    let world = World::of("huge", &history([])).await;
    let mut order = history([&Sale::number(0)]).folded::<Orders>(&id(0));
    let line = order.lines.remove(0);
    // As many lines as an order may have, and names as long as they may be; all different, all of them found.
    let long = "ẞ\u{e000}𐐔\u{301}".repeat(47);
    order.lines = (0..2_000)
        .map(|i| LineDocument { product_name: format!("HEART {i:04} {long}"), ..line.clone() })
        .collect();
    order.item_count = 2_000;
    let index = format!("{}orders-v1-1", world.prefix);
    for numbers in [0..12, 12..24] {
        let mut bulk = Bulk::default();
        for number in numbers {
            order.order_id = id(number);
            bulk.index(&order.order_id, order.version, &order, "heart 0001");
        }
        world.index.bulk(&index, &bulk.seal()).await.unwrap();
    }
    let mut bulk = Bulk::default();
    order.lines.truncate(20);
    order.item_count = 20;
    for number in 24..500 {
        order.order_id = id(number);
        bulk.index(&order.order_id, order.version, &order, "heart 0001");
    }
    world.index.bulk(&index, &bulk.seal()).await.unwrap();
    world.index.refresh(&index).await.unwrap();
    for page_size in [10, 500] {
        let answer = world.search(SearchOrdersRequest { page_size, ..query("heart 0001") }).await.unwrap();
        assert_eq!(answer.hits.len(), usize::try_from(page_size).unwrap());
        assert!(answer.encoded_len() < 4 * 1024 * 1024, "what a client takes");
        for hit in answer.hits {
            assert!((1..=10).contains(&hit.highlights.len()));
            for shown in hit.highlights {
                assert!(shown.fragment.starts_with("\u{e000}HEART\u{e001} "), "{shown:?}");
                assert_eq!(
                    shown.fragment.matches('\u{e000}').count(),
                    shown.fragment.matches('\u{e001}').count()
                );
            }
        }
    }
}
