//! What was used of late, as much as fits into so many bytes.
//!
//! Two generations: what is kept goes into the young one; once that has half of the bytes it becomes the old one, and what had
//! been old is dropped whole. No order is kept between two uses, so keeping and taking out cost one look into a table each.

use std::collections::HashMap;
use std::sync::Arc;

/// Values by key.
#[derive(Debug)]
pub struct Recent<D> {
    young: HashMap<Arc<str>, D>,
    old: HashMap<Arc<str>, D>,
    /// Bytes of the young ones, about.
    bytes: usize,
    /// Bytes of a generation.
    most: usize,
    weight: fn(&D) -> usize,
}

impl<D> Recent<D> {
    /// Nothing yet, and never much more than so many bytes; `weight` tells those of a value.
    #[must_use]
    pub fn new(bytes: usize, weight: fn(&D) -> usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), bytes: 0, most: bytes / 2, weight }
    }

    /// Takes a value out.
    pub fn take(&mut self, key: &str) -> Option<D> {
        let Some(value) = self.young.remove(key) else { return self.old.remove(key) };
        self.bytes = self.bytes.saturating_sub(self.weigh(key, &value));
        Some(value)
    }

    /// Keeps a value that is not in it.
    pub fn keep(&mut self, key: Arc<str>, value: D) {
        self.bytes += self.weigh(&key, &value);
        self.young.insert(key, value);
        if self.bytes > self.most {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }

    /// Drops everything.
    pub fn forget_all(&mut self) {
        (self.young, self.old, self.bytes) = (HashMap::new(), HashMap::new(), 0);
    }

    fn weigh(&self, key: &str, value: &D) -> usize {
        // The entry itself: the pointer to the key, its counts, and a byte for the table.
        (self.weight)(value) + key.len() + 4 * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(values: usize) -> Recent<String> {
        let bytes = 2 * values * (10 + 2 + 4 * size_of::<usize>());
        Recent::new(bytes, String::len)
    }

    fn key(number: usize) -> Arc<str> {
        format!("{number:02}").into()
    }

    #[test]
    fn what_was_kept_last_is_there_and_bytes_are_bounded() {
        let mut recent = recent(5);
        for number in 0..100 {
            recent.keep(key(number), "x".repeat(10));
            assert!(recent.young.len() + recent.old.len() <= 11);
        }
        for number in 95..100 {
            assert!(recent.take(&key(number)).is_some(), "{number}");
        }
        assert_eq!(recent.take(&key(99)), None, "it was taken out");
        assert_eq!(recent.take(&key(1)), None);
    }

    #[test]
    fn what_is_used_again_and_again_stays() {
        let mut recent = recent(5);
        for number in 1..100 {
            let value = recent.take("00").unwrap_or_else(|| "x".repeat(10));
            recent.keep(key(0), value);
            recent.keep(key(number), "x".repeat(10));
            assert!(recent.young.contains_key("00") || recent.old.contains_key("00"));
        }
    }

    #[test]
    fn what_was_forgotten_is_not_given_out() {
        let mut recent = recent(5);
        (0..8).for_each(|number| recent.keep(key(number), number.to_string()));
        recent.forget_all();
        assert!((0..8).all(|number| recent.take(&key(number)).is_none()));
        recent.keep(key(1), "again".to_owned());
        assert_eq!(recent.take(&key(1)).as_deref(), Some("again"));
    }
}
