//! Which streams there are, in little memory, and which of them have been met among the documents.

use std::hash::{BuildHasher as _, RandomState};

/// Keys kept in memory at a time, 12 bytes each.
const KEYS: usize = 1_000_000;

/// Keys of streams, as hashes of 8 bytes each, and the versions that their documents should have. Where they are too many for the
/// memory they are taken in parts, one after the other.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Drawn anew each time, so that no key is safe from a twin.
    draw: RandomState,
    part: u64,
    parts: u64,
    entries: Vec<Entry>,
    most: usize,
    /// Entries with a version whose document has not been met.
    unmet: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(4))]
struct Entry {
    hash: u64,
    /// 0: any will do.
    version: u32,
}

/// What is known of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// A stream has its key; of which version it is, was not asked.
    Known,
    /// It is the document of a stream, at the version that it should have.
    AtVersion,
    /// It is that of a stream, at another version.
    AtOther,
    /// None of the streams has its key.
    Stranger,
    /// Its key belongs to another part.
    Elsewhere,
}

impl Keys {
    /// The first part, without a key yet; it is as large as it may be.
    pub fn new() -> Self {
        Self::at_most(KEYS)
    }

    fn at_most(most: usize) -> Self {
        Self { draw: RandomState::new(), part: 0, parts: 1, entries: Vec::new(), most, unmet: 0 }
    }

    /// The next part, without a key yet; `None` after the last.
    pub fn next(self) -> Option<Self> {
        let part = self.part + 1;
        (part < self.parts).then(|| Self { part, entries: Vec::new(), unmet: 0, ..self })
    }

    /// Takes keys, each with the version that its document should have; 0 where any will do.
    pub fn take<'a>(&mut self, keys: impl IntoIterator<Item = (&'a str, i64)>) {
        for (key, version) in keys {
            let hash = self.draw.hash_one(key);
            if hash % self.parts == self.part {
                self.entries.push(Entry { hash, version: short(version) });
            }
        }
        // Half of it is then in another part.
        while self.part == 0 && self.entries.len() > self.most {
            self.parts *= 2;
            self.entries.retain(|entry| entry.hash % self.parts == 0);
        }
    }

    /// To be called once all are taken.
    pub fn sort(&mut self) {
        self.entries.sort_unstable_by_key(|entry| entry.hash);
        self.unmet = self.entries.iter().filter(|entry| entry.version > 0).count();
    }

    /// A document with this key and version: it has been met.
    pub fn meet(&mut self, key: &str, version: i64) -> Met {
        let Some(hash) = self.here(key) else { return Met::Elsewhere };
        let Some(entry) = self.find(hash).and_then(|place| self.entries.get_mut(place)) else {
            return Met::Stranger;
        };
        let expected = std::mem::take(&mut entry.version);
        if expected == 0 {
            return Met::Known;
        }
        self.unmet -= 1;
        if expected == short(version) { Met::AtVersion } else { Met::AtOther }
    }

    /// Whether a key belongs to this part.
    pub fn has_part(&self, key: &str) -> bool {
        self.here(key).is_some()
    }

    /// How much of all parts is done, where so much of this one is, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn share(&self, done: f64) -> f64 {
        (self.part as f64 + done) / self.parts as f64
    }

    /// How many keys with a version were not met.
    pub fn unmet(&self) -> usize {
        self.unmet
    }

    /// Whether this is one of them.
    pub fn is_unmet(&self, key: &str) -> bool {
        let place = self.here(key).and_then(|hash| self.find(hash));
        place.is_some_and(|place| self.entries[place].version > 0)
    }

    /// Whether a key is among them, or in another part.
    pub fn may_have(&self, key: &str) -> bool {
        self.here(key).is_none_or(|hash| self.find(hash).is_some())
    }

    /// Its hash; `None` where it belongs to another part.
    fn here(&self, key: &str) -> Option<u64> {
        Some(self.draw.hash_one(key)).filter(|hash| hash % self.parts == self.part)
    }

    fn find(&self, hash: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&hash, |entry| entry.hash).ok()
    }
}

/// A version in four bytes; those beyond are taken for one.
fn short(version: i64) -> u32 {
    u32::try_from(version).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(keys: &mut Keys, names: &[String]) {
        keys.take(names.iter().map(|name| (name.as_str(), 3)));
    }

    #[test]
    fn every_key_is_in_one_part() {
        let names: Vec<_> = (0..100).map(|n| format!("key {n}")).collect();
        let (mut next, mut parts, mut strangers, mut met) = (Some(Keys::at_most(30)), 0, 0, 0);
        while let Some(mut keys) = next {
            take(&mut keys, &names[..60]);
            take(&mut keys, &names[60..]);
            keys.sort();
            assert!(names.iter().all(|name| keys.may_have(name)));
            assert!(keys.entries.len() < 60, "memory is bounded: {}", keys.entries.len());
            strangers += (0..100).filter(|n| !keys.may_have(&format!("stranger {n}"))).count();
            met += names.iter().filter(|name| keys.meet(name, 3) == Met::AtVersion).count();
            assert_eq!(keys.unmet(), 0);
            parts += 1;
            next = keys.next();
        }
        assert!(parts >= 4, "{parts}");
        assert_eq!((strangers, met), (100, 100), "each is seen in one part");
    }

    #[test]
    fn what_was_not_met_is_known() {
        let mut keys = Keys::new();
        keys.take([("a", 3), ("b", 4), ("c", 0), ("d", 5)]);
        keys.sort();
        assert_eq!(keys.meet("a", 3), Met::AtVersion);
        assert_eq!(keys.meet("b", 5), Met::AtOther);
        assert_eq!(keys.meet("c", 9), Met::Known);
        assert_eq!(keys.meet("e", 1), Met::Stranger);
        assert_eq!(keys.unmet(), 1);
        let unmet: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().filter(|key| keys.is_unmet(key)).collect();
        assert_eq!(unmet, ["d"]);
    }
}
