//! Folding of text for search: the same for what is indexed, for what is asked and for what is highlighted.
//!
//! A text enters, its words leave: runs of letters and digits, lower-cased, without accents (NFKD), each with its place in
//! the text. Everything else separates words, so that "O'Neill" is found by "neill" and "tea & cake" by its words. Kana and
//! ideographs, which are written without spaces, are a word each. Folding is total, keeps no state and is idempotent.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};

/// Most bytes of a word; a longer run is several words. Elasticsearch cuts at 255 characters, and not where we would.
const MAX_WORD: usize = 200;

/// A word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The folded word, never empty.
    pub folded: String,
    /// Where it stands in the text, in bytes.
    pub range: Range<usize>,
}

/// The folded words of `text`, separated by single spaces; empty where it holds no letter and no digit.
#[must_use]
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    fold_onto(&mut folded, text);
    folded
}

/// Adds the folded words of `text` to those that are there.
pub fn fold_onto(folded: &mut String, text: &str) {
    let start = folded.len();
    let mut add = |word: &str| {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    };
    // Most texts: nothing is made for each word then.
    if text.is_ascii() {
        for place in ascii_words(text) {
            add(&text[place]);
        }
        folded[start..].make_ascii_lowercase();
    } else {
        for word in words(text) {
            add(&word.folded);
        }
    }
}

/// The words of `text` in order.
#[must_use]
pub fn words(text: &str) -> Vec<Word> {
    if text.is_ascii() {
        let word = |range: Range<usize>| Word { folded: text[range.clone()].to_ascii_lowercase(), range };
        return ascii_words(text).map(word).collect();
    }
    let mut cut = Cut::default();
    let mut chars = text.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        let mut end = start + first.len_utf8();
        if first.is_ascii() && chars.peek().is_none_or(|(_, next)| next.is_ascii()) {
            cut.take(first.to_ascii_lowercase(), start..end);
            continue;
        }
        // A letter with its marks is folded at once: their order is not always that in which they were typed.
        while let Some((at, mark)) = chars.next_if(|(_, next)| canonical_combining_class(*next) != 0) {
            end = at + mark.len_utf8();
        }
        // Upper case first: some letters, as sigma, have several lower-case forms of one upper-case form.
        for c in text[start..end].nfkd().flat_map(char::to_uppercase).flat_map(char::to_lowercase) {
            cut.take(c, start..end);
        }
    }
    cut.close();
    cut.words
}

/// Places of the words of a text that is ASCII: there every character is one byte and folds by itself.
fn ascii_words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.as_bytes().get(at..)?;
        let start = at + rest.iter().position(u8::is_ascii_alphanumeric)?;
        let run = text.as_bytes()[start..].iter().take(MAX_WORD);
        at = start + run.take_while(|byte| byte.is_ascii_alphanumeric()).count();
        Some(start..at)
    })
}

/// Cuts folded characters into words.
#[derive(Default)]
struct Cut {
    words: Vec<Word>,
    open: Option<Word>,
}

impl Cut {
    /// Takes the next folded character, which stands at `place` in the text.
    fn take(&mut self, c: char, place: Range<usize>) {
        if !c.is_ascii() && (is_accent(c) || is_invisible(c)) {
            // Dropped, but its place belongs to the word that it stands in.
            if let Some(word) = &mut self.open {
                word.range.end = place.end;
            }
        } else if stands_alone(c) {
            self.close();
            self.words.push(Word { folded: c.to_string(), range: place });
        } else if c.is_alphanumeric() || (self.open.is_some() && is_combining_mark(c)) {
            let word = self
                .open
                .get_or_insert_with(|| Word { folded: String::new(), range: place.start..place.end });
            push_plain(&mut word.folded, c);
            word.range.end = place.end;
            if word.folded.len() >= MAX_WORD {
                self.close();
            }
        } else {
            self.close();
        }
    }

    fn close(&mut self) {
        self.words.extend(self.open.take());
    }
}

/// Appends a lower-case letter or digit; letters that Unicode does not decompose are written as people type them.
fn push_plain(folded: &mut String, c: char) {
    match c {
        'ß' => folded.push_str("ss"),
        'æ' => folded.push_str("ae"),
        'œ' => folded.push_str("oe"),
        'þ' => folded.push_str("th"),
        'ø' => folded.push('o'),
        'ł' => folded.push('l'),
        'đ' | 'ð' => folded.push('d'),
        'ħ' => folded.push('h'),
        'ŧ' => folded.push('t'),
        _ => folded.push(c),
    }
}

/// Marks above or below a letter (classes 200 and up) and points of Hebrew and Arabic (10 to 35). Vowel signs of Indic
/// scripts have other classes: they are no accents and stay.
fn is_accent(c: char) -> bool {
    matches!(canonical_combining_class(c), 10..=35 | 200..)
}

/// Characters inside words that nobody sees, as Unicode lists them: soft hyphen, joiners, directions, fillers, variation
/// selectors, tags. The zero-width space is none of them: it separates words.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether this character is written without spaces around words: kana and ideographs.
fn stands_alone(c: char) -> bool {
    let range = matches!(c, '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}');
    range && c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_accents_and_punctuation_are_folded() {
        for (text, folded) in [
            ("José MÜLLER", "jose muller"),
            ("MU\u{308}LLER", "muller"),
            ("  Crème--Brûlée, 2 Stück ", "creme brulee 2 stuck"),
            ("Straße / STRASSE", "strasse strasse"),
            ("Søren Łódź Æther", "soren lodz aether"),
            ("O'Neill", "o neill"),
            ("T-LIGHT_85123A", "t light 85123a"),
            ("İstanbul ıssız", "istanbul issiz"),
            ("ΣΟΦΟΣ σοφος σοφός", "σοφοσ σοφοσ σοφοσ"),
            ("ﬁne ① ½", "fine 1 1 2"),
            ("हिन्दी", "हिन्दी"),
            ("co\u{ad}operate", "cooperate"),
            ("ᾳ ΑΙ", "αι αι"),
            ("he\u{202e}art\u{e0041}", "heart"),
            ("Tha\u{301}\u{323}nh tha\u{323}\u{301}nh", "thanh thanh"),
            ("東京タワー", "東 京 タ ワ ー"),
            ("🎁 & \u{200f}", ""),
            ("", ""),
        ] {
            assert_eq!(fold(text), folded, "{text}");
        }
    }

    /// The text in every case and normal form.
    fn written(text: &str) -> [String; 6] {
        [
            text.to_uppercase(),
            text.to_lowercase(),
            text.nfc().collect(),
            text.nfd().collect(),
            text.nfkc().collect(),
            text.nfkd().collect(),
        ]
    }

    #[test]
    fn every_character_folds_alike_in_every_case_and_form() {
        for c in '\0'..=char::MAX {
            let text = format!("a{c}b");
            let folded = fold(&text);
            assert_eq!(fold(&folded), folded, "{c:?}");
            for form in written(&text) {
                assert_eq!(fold(&form), folded, "{c:?} as {form:?}");
            }
        }
    }

    #[test]
    fn a_word_ends_somewhere() {
        let lengths: Vec<_> = words(&"x".repeat(450)).into_iter().map(|word| word.range.len()).collect();
        assert_eq!(lengths, [200, 200, 50]);
    }

    #[test]
    fn a_word_knows_its_place() {
        let text = "Große Mu\u{308}he!";
        let places: Vec<_> = words(text).into_iter().map(|word| &text[word.range]).collect();
        assert_eq!(places, ["Große", "Mu\u{308}he"]);
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in any::<String>()) {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn ascii_is_folded_as_any_other_text(text in "[ -~\\t\\n]{0,300}|[a-z]{190,210}( [A-Z0-9]{390,420})?") {
            // Invisible, it makes the text one of many scripts.
            let slowly = words(&format!("{text} \u{200c}"));
            prop_assert_eq!(&words(&text), &slowly);
            let folded: Vec<_> = slowly.into_iter().map(|word| word.folded).collect();
            prop_assert_eq!(fold(&text), folded.join(" "));
        }

        #[test]
        fn case_and_form_change_nothing(text in any::<String>()) {
            // An iota below a letter is a mark in lower case and a letter in upper case: further marks then change sides.
            prop_assume!(!text.nfd().any(|c| c == '\u{345}'));
            for form in written(&text) {
                prop_assert_eq!(fold(&form), fold(&text), "{:?}", form);
            }
        }

        #[test]
        fn a_word_alone_is_the_same_word(text in any::<String>()) {
            for word in words(&text) {
                let alone = fold(&text[word.range.clone()]);
                // A ligature or fraction, which is one character, may hold parts of two words.
                prop_assert!(alone.split(' ').any(|part| part == word.folded), "{:?} {:?}", word, alone);
            }
        }

        #[test]
        fn places_are_in_order_and_inside(text in any::<String>()) {
            let mut last = 0;
            for word in words(&text) {
                prop_assert!(!word.folded.is_empty() && !word.folded.contains(' '));
                prop_assert!(text.get(word.range.clone()).is_some());
                // Not behind the end of the last: one character, such as a fraction, may hold parts of two words.
                prop_assert!(word.range.start >= last);
                last = word.range.start;
            }
        }
    }
}
