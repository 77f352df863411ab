//! Which streams there are, in little memory.

use std::hash::{BuildHasher as _, RandomState};

use crate::subscription::{FeedError, Scan, WholeStream};

/// Keys kept in memory at a time, 8 bytes each.
const KEYS: usize = 2_000_000;

/// Keys of streams, as hashes of 8 bytes each. Where they are too many for the memory they are taken in parts, one after the other.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Drawn anew each time, so that no key is safe from a twin.
    draw: RandomState,
    part: u64,
    parts: u64,
    hashes: Vec<u64>,
    most: usize,
}

impl Keys {
    /// The first part, without a key yet; it is as large as it may be.
    pub fn new() -> Self {
        Self::at_most(KEYS)
    }

    fn at_most(most: usize) -> Self {
        Self { draw: RandomState::new(), part: 0, parts: 1, hashes: Vec::new(), most }
    }

    /// The next part, without a key yet; `None` after the last.
    pub fn next(self) -> Option<Self> {
        let part = self.part + 1;
        (part < self.parts).then(|| Self { part, hashes: Vec::new(), ..self })
    }

    /// Takes the keys of these streams.
    pub fn take(&mut self, streams: &[WholeStream]) {
        for stream in streams {
            let hash = self.draw.hash_one(stream.key.as_str());
            if hash % self.parts == self.part {
                self.hashes.push(hash);
            }
        }
        // Half of it is then in another part.
        while self.part == 0 && self.hashes.len() > self.most {
            self.parts *= 2;
            self.hashes.retain(|hash| hash % self.parts == 0);
        }
    }

    /// Takes the keys of all streams of a scan.
    ///
    /// # Errors
    /// Where the feed fails.
    pub async fn take_all(&mut self, mut scan: Scan) -> Result<(), FeedError> {
        while let Some(page) = scan.next().await? {
            self.take(&page.streams);
        }
        self.sort();
        Ok(())
    }

    /// To be called once all are taken.
    pub fn sort(&mut self) {
        self.hashes.sort_unstable();
    }

    /// Whether a key is among them, or in another part.
    pub(super) fn may_have(&self, key: &str) -> bool {
        let hash = self.draw.hash_one(key);
        hash % self.parts != self.part || self.hashes.binary_search(&hash).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_part() {
        let streams: Vec<_> =
            (0..100).map(|n| WholeStream { key: format!("key {n}"), events: Vec::new() }).collect();
        let (mut next, mut parts, mut strangers) = (Some(Keys::at_most(30)), 0, 0);
        while let Some(mut keys) = next {
            keys.take(&streams[..60]);
            keys.take(&streams[60..]);
            keys.sort();
            assert!(streams.iter().all(|stream| keys.may_have(&stream.key)));
            assert!(keys.hashes.len() < 60, "memory is bounded: {}", keys.hashes.len());
            strangers += (0..100).filter(|n| !keys.may_have(&format!("stranger {n}"))).count();
            parts += 1;
            next = keys.next();
        }
        assert!(parts >= 4, "{parts}");
        assert_eq!(strangers, 100, "each is seen in one part");
    }
}
