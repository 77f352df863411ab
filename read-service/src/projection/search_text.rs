//! The words by which an order is found: those of its reference, its customer's name and its products' names.
//!
//! The minimal distribution has no `asciifolding`, so words are cut and folded here, by [`text`](crate::text), as
//! those of a query are. Each word once: the field `search` knows neither how often nor where a word stands, as
//! queries ask for single words only and highlights are made from the document. Ids are found through their own
//! fields. Analysed text is the dearest part of a write, so there is no other. The field stays in `_source`: leaving
//! it out made the server index a quarter fewer orders of 3 lines a second, and a sixth fewer of 21, on more disk, as
//! it then keeps the whole source a second time for recovery.

use std::collections::HashSet;

use super::OrderDocument;
use crate::text;

/// Bytes of a word with its space, rather too few: so the set of words does not have to grow.
const WORD: usize = 4;

/// The field `search` of this order: folded words, separated by single spaces.
#[must_use]
pub fn of_order(order: &OrderDocument) -> String {
    let mut folded = String::new();
    let lines = order.lines.iter().map(|line| line.product_name.as_str());
    for text in [order.reference.as_str(), order.customer_name.as_str()].into_iter().chain(lines) {
        text::fold_onto(&mut folded, text);
    }
    let mut words = HashSet::with_capacity(folded.len() / WORD);
    let mut search = String::with_capacity(folded.len());
    for word in folded.split(' ').filter(|word| words.insert(*word)) {
        if !search.is_empty() {
            search.push(' ');
        }
        search.push_str(word);
    }
    search
}
