//! Where the words of a search stand in an order that was found, by the rules of [`search`](super::search).
//!
//! Made from the document itself: the text is shown as it was written, accents and all, highlighting costs Elasticsearch
//! nothing and cannot fail a search.

use std::collections::HashSet;

use super::search::Term;
use crate::projection::OrderDocument;
use crate::text::{self, Word};

/// Stands before a marked word.
pub const MARK_START: char = '\u{E000}';
/// Stands behind a marked word.
pub const MARK_END: char = '\u{E001}';
/// Most fragments of one field: an order may hold thousands of lines with the same word.
const MAX_PER_FIELD: usize = 10;

/// A text of the order in which words were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Highlight {
    /// The document's field.
    pub field: &'static str,
    /// Its text, found words between [`MARK_START`] and [`MARK_END`].
    pub fragment: String,
}

/// The texts of `order` in which `terms` are found, each different text of a field once, at most ten a field, and behind the
/// first no more than `bytes` in all.
#[must_use]
pub fn highlights(terms: &[Term], order: &OrderDocument, bytes: usize) -> Vec<Highlight> {
    let mut found = Vec::new();
    found.extend(in_id(terms, "order_id", &order.order_id));
    found.extend(
        in_id(terms, "reference", &order.reference).or_else(|| in_text(terms, "reference", &order.reference)),
    );
    found.extend(in_id(terms, "customer_id", &order.customer_id));
    found.extend(in_text(terms, "customer_name", &order.customer_name));
    let ids = distinct(order.lines.iter().map(|line| line.product_id.as_str()));
    found.extend(ids.filter_map(|id| in_id(terms, "lines.product_id", id)).take(MAX_PER_FIELD));
    let names = distinct(order.lines.iter().map(|line| line.product_name.as_str()));
    found.extend(names.filter_map(|name| in_text(terms, "lines.product_name", name)).take(MAX_PER_FIELD));
    let mut left = bytes;
    let mut fits = |shown: &Highlight| {
        let room = left.checked_sub(shown.fragment.len());
        left = room.unwrap_or(0);
        room.is_some()
    };
    let kept = found.iter().take_while(|shown| fits(shown)).count().max(1);
    found.truncate(kept);
    found
}

fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut seen = HashSet::new();
    texts.filter(move |text| seen.insert(*text))
}

/// An id is marked whole where a word is all of it or its beginning.
fn in_id(terms: &[Term], field: &'static str, id: &str) -> Option<Highlight> {
    let begins = |term: &Term| {
        let head = id.get(..term.written.len());
        !term.written.is_empty() && head.is_some_and(|head| head.eq_ignore_ascii_case(&term.written))
    };
    terms.iter().any(begins).then(|| Highlight { field, fragment: marked(id, |_| true) })
}

fn in_text(terms: &[Term], field: &'static str, text: &str) -> Option<Highlight> {
    let words = text::words(text);
    let mut places = Vec::new();
    for term in terms {
        // A word of several parts counts where all of them are found, as in the query.
        let found: Vec<Vec<&Word>> = (0..term.parts.len())
            .map(|i| words.iter().filter(|word| matches(term, i, &word.folded)).collect())
            .collect();
        if found.iter().all(|words| !words.is_empty()) {
            places.extend(found.into_iter().flatten().map(|word| word.range.clone()));
        }
    }
    let hit = |byte: usize| places.iter().any(|place| place.contains(&byte));
    (!places.is_empty()).then(|| Highlight { field, fragment: marked(text, hit) })
}

fn matches(term: &Term, part: usize, word: &str) -> bool {
    let last = part + 1 == term.parts.len();
    let part = term.parts[part].as_str();
    word == part || (last && word.starts_with(part)) || (Term::forgives(part) && within_one_edit(part, word))
}

/// `text` with marks around what `hit` says of each character's first byte. Marks of the text itself are left out, so that
/// those in the fragment can be trusted.
fn marked(text: &str, hit: impl Fn(usize) -> bool) -> String {
    let mut out = String::with_capacity(text.len() + 12);
    let mut open = false;
    for (byte, c) in text.char_indices().filter(|(_, c)| !matches!(*c, MARK_START | MARK_END)) {
        if hit(byte) != open {
            out.push(if open { MARK_END } else { MARK_START });
            open = !open;
        }
        out.push(c);
    }
    if open {
        out.push(MARK_END);
    }
    out
}

/// Whether one letter wrong, missing, added or two neighbours swapped make `a` out of `b`.
pub(super) fn within_one_edit(a: &str, b: &str) -> bool {
    // A page of a search is thousands of pairs of words, nearly all of them ASCII.
    if a.is_ascii() && b.is_ascii() {
        return one_edit(a.as_bytes(), b.as_bytes());
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    one_edit(&a, &b)
}

fn one_edit<L: PartialEq>(a: &[L], b: &[L]) -> bool {
    let (a, b) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if b.len() - a.len() > 1 {
        return false;
    }
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[same..], &b[same..]);
    if a.len() < b.len() {
        return rest_a == &rest_b[1..];
    }
    match (rest_a, rest_b) {
        ([], []) => true,
        ([_, tail_a @ ..], [_, tail_b @ ..]) if tail_a == tail_b => true,
        ([x1, x2, tail_a @ ..], [y1, y2, tail_b @ ..]) => x1 == y2 && x2 == y1 && tail_a == tail_b,
        _ => false,
    }
}
