//! The body of `SearchOrders`: orders in which all words of a text are found.
//!
//! A word is found, best first: as an id or reference (8), in the folded words of the order (4), as the beginning of an id,
//! a reference (3) or a word (2), or with one typing error (1). Scores are sums of these constants: they do not depend on the
//! other orders, so pages hold while orders are written and across a rebuild.
//!
//! A typing error is one letter wrong, missing, added or two swapped. It is forgiven in words of five letters and more; not
//! in words with a digit: a number or id with another digit is another number.

use serde_json::{Value, json};

use super::{COUNTED, Filter, Page, Sort};
use crate::text;

/// Fewest letters of a word in which a typing error is forgiven.
const FORGIVEN_FROM: usize = 5;

/// Keyword fields that are found whole or by their beginning, at the root of the document.
const IDS: [&str; 3] = ["order_id", "reference", "customer_id"];

/// A word as the caller wrote it, between spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// As written, in ASCII lower case, without punctuation around it; what ids and references are compared with. Empty where
    /// no letter or digit was written.
    pub written: String,
    /// Its folded parts, at least one: "T-Light" has two.
    pub parts: Vec<String>,
}

impl Term {
    /// Whether one typing error is forgiven in this part of a word.
    #[must_use]
    pub fn forgives(part: &str) -> bool {
        part.chars().nth(FORGIVEN_FROM - 1).is_some() && !part.chars().any(char::is_numeric)
    }

    fn clause(&self) -> Value {
        let mut queries = vec![
            constant(4, &self.in_words(|_, part| term(part))),
            constant(2, &self.in_words(|last, part| if last { prefix(part) } else { term(part) })),
        ];
        // Nothing is the beginning of every id: a word of symbols such as "℡", which folds to "tel", is no id.
        if !self.written.is_empty() {
            queries.push(constant(8, &self.as_id("term")));
            queries.push(constant(3, &self.as_id("prefix")));
        }
        if self.parts.iter().any(|part| Self::forgives(part)) {
            let forgiving = |_, part: &str| if Self::forgives(part) { fuzzy(part) } else { term(part) };
            queries.push(constant(1, &self.in_words(forgiving)));
        }
        json!({ "dis_max": { "queries": queries } })
    }

    /// The written word against ids and references, by `query`: "term" or "prefix".
    fn as_id(&self, query: &str) -> Value {
        let ask =
            |field: &str| json!({ query: { field: { "value": self.written, "case_insensitive": true } } });
        let mut should: Vec<_> = IDS.iter().map(|field| ask(field)).collect();
        should.push(json!({ "nested": { "path": "lines", "query": ask("lines.product_id") } }));
        json!({ "bool": { "should": should } })
    }

    /// All parts, each by `query`, which is told whether the part is the last.
    fn in_words(&self, query: impl Fn(bool, &str) -> Value) -> Value {
        let last = self.parts.len() - 1;
        let mut clauses: Vec<_> =
            self.parts.iter().enumerate().map(|(i, part)| query(i == last, part)).collect();
        if clauses.len() == 1 { clauses.remove(0) } else { json!({ "bool": { "filter": clauses } }) }
    }
}

fn constant(score: u8, filter: &Value) -> Value {
    json!({ "constant_score": { "boost": score, "filter": filter } })
}

fn term(part: &str) -> Value {
    json!({ "term": { "search": part } })
}

fn prefix(part: &str) -> Value {
    json!({ "prefix": { "search": part } })
}

fn fuzzy(part: &str) -> Value {
    // The first letter need not agree: a typing error there is one like any other. Asking for it saved 11 % of the time
    // over 100,000 orders. Unless told how to rewrite it, Elasticsearch looks at 50 words only, however many are as near.
    let fuzzy = json!({ "value": part, "fuzziness": 1, "prefix_length": 0, "rewrite": "constant_score" });
    json!({ "fuzzy": { "search": fuzzy } })
}

/// The words of a caller's text, each once; those without a letter or digit, such as "&", are no words.
#[must_use]
pub fn terms(query: &str) -> Vec<Term> {
    let mut terms = Vec::new();
    for written in query.split_whitespace() {
        let parts: Vec<_> = text::words(written).into_iter().map(|word| word.folded).collect();
        let written = written.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
        let term = Term { written, parts };
        if !term.parts.is_empty() && !terms.contains(&term) {
            terms.push(term);
        }
    }
    terms
}

/// Orders that pass `filter` and in which each of `terms` is found, with their lines or without.
#[must_use]
pub fn body(terms: &[Term], filter: &Filter, sort: Sort, page: &Page, with_lines: bool) -> Value {
    let words: Vec<_> = terms.iter().map(Term::clause).collect();
    let mut body = json!({
        "query": { "bool": { "must": words, "filter": filter.clauses() } },
        "sort": sort.to_json(),
        "track_total_hits": COUNTED,
        "_source": { "excludes": if with_lines { &["search"][..] } else { &["lines", "search"] } },
    });
    page.put_into(&mut body);
    body
}
