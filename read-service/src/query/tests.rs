//! Bodies as they are sent, kept as snapshots, and what is read out of answers.

use std::collections::HashSet;
use std::ops::Range;

use insta::assert_json_snapshot;
use proptest::prelude::*;
use serde_json::json;
use unicode_normalization::UnicodeNormalization as _;

use super::highlight::{MARK_END, MARK_START, highlights, within_one_edit};
use super::report::GroupBy;
use super::*;
use crate::projection::{LineDocument, OrderDocument, Orders, Projection as _};
use crate::text;

fn first(size: u32) -> Page {
    Page { size, start: Start::Offset(0) }
}

fn everything() -> Filter {
    Filter {
        customer_id: "17850".into(),
        statuses: vec![Status::Submitted, Status::Shipped],
        delivery_country: "United Kingdom".into(),
        product_id: "85123A".into(),
        currency: "GBP".into(),
        placed_from: Some(1_322_524_800_000_000_000),
        placed_to: Some(1_322_611_200_000_000_001),
        min_total: Some(100),
        max_total: Some(-1),
    }
}

#[test]
fn a_list_of_all() {
    assert_json_snapshot!(list::body(&Filter::default(), Sort::PlacedDescending, &first(50)));
}

#[test]
fn a_list_with_every_filter_after_a_row() {
    let after = vec![SortValue::Number(1_322_524_800_000_000_000), SortValue::Text("0190b6a0".into())];
    let page = Page { size: 2, start: Start::After(after) };
    assert_json_snapshot!(list::body(&everything(), Sort::UpdatedDescending, &page));
}

#[test]
fn times_before_1970_move_to_1970() {
    let filter = Filter { placed_from: Some(-1), placed_to: Some(-1), ..Filter::default() };
    assert_eq!(
        filter.clauses(),
        [
            json!({ "range": { "placed_at": { "gte": "1970-01-01T00:00:00Z", "lt": "1970-01-01T00:00:00Z" } } })
        ]
    );
}

#[test]
fn the_row_that_tells_whether_more_follow_stays_in_the_window() {
    let page = Page { size: 500, start: Start::Offset(9_500) };
    let body = list::body(&Filter::default(), Sort::TotalAscending, &page);
    assert_eq!((&body["from"], &body["size"]), (&json!(9_500), &json!(500)));
    assert!(page.has_next(500, 10_000, false));
    assert!(!page.has_next(500, 10_000, true));
    assert!(first(10).has_next(11, 11, true));
    assert!(!first(10).has_next(10, 10, true));
}

#[test]
fn a_search_for_two_words() {
    let terms = search::terms("  Müller, R-100 & müller ");
    assert_json_snapshot!(search::body(&terms, &Filter::default(), Sort::BestMatch, &first(50), true));
}

#[test]
fn query_syntax_is_text() {
    let terms =
        search::terms(r#"status:draft OR * "quoted" lines.product_id:(a|b) {"match_all":{}} /.*/ ~2"#);
    let parts: Vec<_> = terms.iter().map(|term| term.parts.join(" ")).collect();
    assert_eq!(parts, ["status draft", "or", "quoted", "lines product id a b", "match all", "2"]);
}

#[test]
fn a_report_of_each_kind() {
    let filter = Filter { currency: "GBP".into(), ..Filter::default() };
    assert_json_snapshot!("by_month", report::body(GroupBy::Month, &filter, 20, "Europe/London"));
    assert_json_snapshot!("by_customer", report::body(GroupBy::Customer, &filter, 20, "UTC"));
    assert_json_snapshot!("by_product", report::body(GroupBy::Product, &filter, 1_000, "UTC"));
}

#[test]
fn rows_of_a_report() {
    let sums =
        |revenue: f64, units: f64| json!({ "revenue": { "value": revenue }, "units": { "value": units } });
    let bucket = |key: serde_json::Value, mut sums: serde_json::Value| {
        sums["key"] = key;
        sums["doc_count"] = json!(3);
        sums
    };
    let mut by_day = sums(250.0, 7.0);
    let mut day = bucket(json!(1_322_524_800_000_i64), sums(250.0, 7.0));
    day["key_as_string"] = json!("2011-11-29");
    by_day["rows"] = json!({ "buckets": [day] });
    let row = |key: &str, orders| report::Row { key: key.into(), revenue: 250, orders, units: 7 };
    assert_eq!(report::rows(by_day, 3).unwrap(), (vec![row("2011-11-29", 3)], row("", 3)));

    let mut by_product = sums(250.0, 7.0);
    let mut product = bucket(json!("85123A"), sums(250.0, 7.0));
    product["orders"] = json!({ "doc_count": 2 });
    by_product["rows"] = json!({ "doc_count": 9, "rows": { "buckets": [product] } });
    assert_eq!(report::rows(by_product, 2).unwrap(), (vec![row("85123A", 2)], row("", 2)));

    assert!(matches!(report::rows(json!({}), 0), Err(report::ReportError::Malformed(_))));
    for (revenue, units) in [(2_f64.powi(53), 1.0), (1.0, 2_f64.powi(53)), (2_f64.powi(63), 1.0)] {
        let mut large = sums(revenue, units);
        large["rows"] = json!({ "buckets": [] });
        assert!(matches!(report::rows(large, 1), Err(report::ReportError::TooLarge)));
    }
}

fn order() -> OrderDocument {
    let line = |line, product_id: &str, product_name: &str| LineDocument {
        line,
        product_id: product_id.into(),
        product_name: product_name.into(),
        quantity: 1,
        unit_price: 1,
        subtotal: 1,
    };
    OrderDocument {
        order_id: "0190b6a0-0000-7000-8000-000000000001".into(),
        version: 1,
        reference: "R-100".into(),
        customer_id: "C7".into(),
        customer_name: "Jürgen O'Neill".into(),
        status: Status::Draft,
        currency: "GBP".into(),
        total: 2,
        item_count: 2,
        unit_count: 2,
        delivery_country: String::new(),
        placed_at: 0,
        updated_at: 0,
        submitted_at: None,
        confirmed_at: None,
        shipped_at: None,
        delivered_at: None,
        cancelled_at: None,
        carrier: String::new(),
        tracking_number: String::new(),
        cancel_reason: String::new(),
        lines: vec![line(1, "85123A", "WHITE T-LIGHT HOLDER"), line(2, "85123A", "WHITE T-LIGHT HOLDER")],
    }
}

/// Highlights as "field: text", marks shown as brackets.
fn found(query: &str) -> Vec<String> {
    let shown = highlights(&search::terms(query), &order(), usize::MAX);
    shown
        .iter()
        .map(|h| format!("{}: {}", h.field, h.fragment.replace('\u{E000}', "[").replace('\u{E001}', "]")))
        .collect()
}

#[test]
fn highlights_follow_the_rules_of_the_search() {
    for (query, expected) in [
        ("jurgen", vec!["customer_name: [Jürgen] O'Neill"]),
        ("JÜRGNE", vec!["customer_name: [Jürgen] O'Neill"]),
        ("ürgen", vec!["customer_name: [Jürgen] O'Neill"]),
        ("neil", vec!["customer_name: Jürgen O'[Neill]"]),
        ("o'neill", vec!["customer_name: Jürgen [O]'[Neill]"]),
        ("r-100", vec!["reference: [R-100]"]),
        ("100", vec!["reference: R-[100]"]),
        ("R-101", vec![]),
        ("85123a", vec!["lines.product_id: [85123A]"]),
        ("0190B6A0", vec!["order_id: [0190b6a0-0000-7000-8000-000000000001]"]),
        ("hol light-t", vec!["lines.product_name: WHITE [T]-[LIGHT] [HOLDER]"]),
        ("whit c7", vec!["customer_id: [C7]", "lines.product_name: [WHITE] T-LIGHT HOLDER"]),
        ("t-lihgt", vec!["lines.product_name: WHITE [T]-[LIGHT] HOLDER"]),
        ("wite", vec![]),
        ("xyz", vec![]),
    ] {
        assert_eq!(found(query), expected, "{query}");
    }
}

#[test]
fn marks_in_a_text_are_left_out() {
    let mut order = order();
    order.customer_name = "\u{E000}Jürgen\u{E001}".into();
    let shown = highlights(&search::terms("jurgen"), &order, usize::MAX);
    assert_eq!(shown[0].fragment, "\u{E000}Jürgen\u{E001}");
}

#[test]
fn a_word_of_symbols_is_compared_with_no_id() {
    let terms = search::terms("℡");
    assert_eq!((terms[0].written.as_str(), &terms[0].parts[..]), ("", &["tel".to_owned()][..]));
    let body = search::body(&terms, &Filter::default(), Sort::BestMatch, &first(50), true).to_string();
    assert!(!body.contains(r#""value":"""#), "an empty text is the beginning of every id: {body}");
}

#[test]
fn fragments_fill_the_room_there_is() {
    let mut order = order();
    order.lines = (0..20)
        .map(|i| LineDocument { product_name: format!("HEART {i:02}"), ..order.lines[0].clone() })
        .collect();
    let shown = |bytes| highlights(&search::terms("heart"), &order, bytes).len();
    assert_eq!([0, 1, 14, 28, 41, 42, usize::MAX].map(shown), [1, 1, 1, 2, 2, 3, 10]);
}

/// Texts of every script, with what is hard in them: marks, joiners, directions, control characters, our own marks.
fn texts() -> impl Strategy<Value = String> {
    let hard = "\0\u{1b}\u{300}\u{323}\u{94d}\u{93c}\u{5b8}\u{64b}\u{200b}\u{200d}\u{202e}\u{2066}\u{e000}\u{e001}\u{fe0f}\u{feff}ßıİςſ℡½ǅﬁ👩🏽";
    let hard: Vec<char> = hard.chars().collect();
    let scripts = [
        'a'..='z',
        'À'..='ž',
        'Α'..='ώ',
        'Ѐ'..='ӿ',
        'א'..='ת',
        'ء'..='ي',
        'ऀ'..='ॣ',
        'ก'..='ฺ',
        'ぁ'..='ヶ',
        '一'..='鿿',
        '가'..='힣',
        'Ა'..='Ჿ',
        'Ꭰ'..='Ᏽ',
        '𐐀'..='𐑏',
    ];
    let script = proptest::char::ranges(scripts.to_vec().into());
    let c = prop_oneof![6 => script, 2 => proptest::sample::select(hard), 1 => any::<char>(), 1 => Just(' ')];
    proptest::collection::vec(c, 0..60).prop_map(|chars| chars.into_iter().collect())
}

/// Where the words of a text stand; those that share a character, such as a fraction, are one.
fn places(text: &str) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> = Vec::new();
    for word in text::words(text) {
        match places.last_mut().filter(|last| last.end > word.range.start) {
            Some(last) => last.end = word.range.end,
            None => places.push(word.range),
        }
    }
    places
}

proptest! {
    #[test]
    fn every_word_is_found_and_marked_however_it_is_written(text in texts()) {
        let mut order = order();
        order.customer_name.clone_from(&text);
        let indexed = Orders::search(&order);
        let indexed: HashSet<_> = indexed.split(' ').collect();
        let plain: String = text.chars().filter(|c| !matches!(*c, MARK_START | MARK_END)).collect();
        for place in places(&text) {
            let written = &text[place];
            let forms: [String; 5] = [
                written.to_owned(),
                written.to_uppercase(),
                written.to_lowercase(),
                written.nfc().collect(),
                written.nfkd().collect(),
            ];
            for form in forms {
                let terms = search::terms(&form);
                prop_assert!(!terms.is_empty());
                for part in terms.iter().flat_map(|term| &term.parts) {
                    prop_assert!(indexed.contains(part.as_str()), "{form:?}: {part:?} of {indexed:?}");
                }
                let shown = highlights(&terms, &order, usize::MAX);
                let shown = shown.iter().find(|shown| shown.field == "customer_name");
                let unmarked = shown.map(|shown| shown.fragment.replace([MARK_START, MARK_END], ""));
                prop_assert_eq!(unmarked.as_ref(), Some(&plain), "{:?}", form);
            }
        }
    }

    #[test]
    fn one_error_is_one_letter_wrong_missing_added_or_swapped(
        word in "[abc]{0,6}", at in 0_usize..7, letter in "[abc]", other in "[abc]{0,6}"
    ) {
        let word: Vec<char> = word.chars().collect();
        let of = |chars: &[char]| chars.iter().collect::<String>();
        let mut near = HashSet::from([of(&word)]);
        let mut added = word.clone();
        added.insert(at.min(word.len()), letter.chars().next().unwrap());
        near.insert(of(&added));
        for i in 0..word.len() {
            let mut wrong = word.clone();
            wrong.remove(i);
            near.insert(of(&wrong));
            for c in 'a'..='c' {
                let mut wrong = word.clone();
                wrong[i] = c;
                near.insert(of(&wrong));
                let mut longer = word.clone();
                longer.insert(i, c);
                near.insert(of(&longer));
                longer = word.clone();
                longer.push(c);
                near.insert(of(&longer));
            }
            let mut swapped = word.clone();
            swapped.swap(i, (i + 1).min(word.len() - 1));
            near.insert(of(&swapped));
        }
        if word.is_empty() {
            near.extend(["a", "b", "c"].map(str::to_owned));
        }
        for near in &near {
            prop_assert!(within_one_edit(&of(&word), near) && within_one_edit(near, &of(&word)), "{near}");
        }
        prop_assert_eq!(within_one_edit(&of(&word), &other), near.contains(&other));
    }
}
