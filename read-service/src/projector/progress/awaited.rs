//! Versions that readers wait for: what this copy stores of them need not be asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The streams that readers wait for, each with the newest version that is known to be stored since it is waited for; 0 where
/// none is.
#[derive(Debug, Default)]
pub(super) struct Awaited(Mutex<HashMap<String, i64>>);

impl Awaited {
    /// From now on exactly these are waited for.
    pub fn only<'a>(&self, keys: impl Iterator<Item = &'a str>) {
        let mut awaited = self.all();
        let known = std::mem::take(&mut *awaited);
        awaited.extend(keys.map(|key| (key.to_owned(), known.get(key).copied().unwrap_or(0))));
    }

    /// The newest version of this stream that was stored since it is waited for.
    pub fn stored(&self, key: &str) -> i64 {
        self.all().get(key).copied().unwrap_or(0)
    }

    /// Something was stored: `version` tells up to where a stream is, if it was among it.
    pub fn tell(&self, version: impl Fn(&str) -> Option<i64>) {
        for (key, known) in self.all().iter_mut() {
            *known = (*known).max(version(key).unwrap_or(0));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_remembered_as_long_as_it_is() {
        let awaited = Awaited::default();
        awaited.only(["a", "b"].into_iter());
        awaited.tell(|key| (key != "b").then_some(3));
        assert_eq!(["a", "b", "c"].map(|key| awaited.stored(key)), [3, 0, 0]);
        awaited.tell(|_| Some(2));
        awaited.only(["a", "c"].into_iter());
        assert_eq!(["a", "b", "c"].map(|key| awaited.stored(key)), [3, 0, 0]);
        awaited.only([].into_iter());
        awaited.only(["a"].into_iter());
        assert_eq!(awaited.stored("a"), 0, "it may have been dropped since");
    }
}
