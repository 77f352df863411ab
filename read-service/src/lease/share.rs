//! Who projects what, decided by each copy for itself from what all of them see: pure, without any clock or server.
//!
//! Ranges that nobody owns are taken, up to an even share; what is missing to an even share is asked of the copy that has most.
//! An owner hands over what it is asked for. So each range moves at most once when a copy joins, and copies that decide
//! from the same view do not reach for the same ranges.

use std::collections::{BTreeMap, BTreeSet};

use super::RANGES;

/// What is known about a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View<'a> {
    /// Who owns it; empty where nobody does, or the owner is gone.
    pub owner: &'a str,
    /// Who has asked for it; empty where nobody has.
    pub heir: &'a str,
    /// Nobody has owned it for so long that any copy should take it, even beyond its share: one that still counts may be gone.
    pub abandoned: bool,
}

impl<'a> View<'a> {
    /// Who will own it, as far as is known.
    fn holder(&self) -> &'a str {
        if self.owner.is_empty() || self.heir.is_empty() { self.owner } else { self.heir }
    }
}

/// What a copy should do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ranges without an owner to make one's own.
    pub take: Vec<usize>,
    /// Ranges to ask of their owners.
    pub ask: Vec<usize>,
}

/// What the copy `me` should do.
#[must_use]
pub fn plan(me: &str, ranges: &[View<'_>; RANGES]) -> Plan {
    let known = ranges.iter().flat_map(|range| [range.owner, range.holder()]).filter(|name| !name.is_empty());
    let copies: BTreeSet<&str> = known.chain([me]).collect();
    let rank = copies.iter().position(|copy| *copy == me).unwrap_or(0);
    // Where this copy's ranges begin if all are shared out in the order of the copies' names.
    let begin = RANGES * rank / copies.len();
    let distance = |range: &usize| (range + RANGES - begin) % RANGES;

    let mut counts: BTreeMap<&str, usize> = copies.iter().map(|copy| (*copy, 0)).collect();
    for holder in ranges.iter().map(View::holder).filter(|holder| !holder.is_empty()) {
        *counts.entry(holder).or_default() += 1;
    }
    let mut mine = counts.remove(me).unwrap_or(0);
    let mut plan = Plan::default();

    let mut free: Vec<usize> = (0..RANGES).filter(|range| ranges[*range].owner.is_empty()).collect();
    free.sort_by_key(distance);
    for range in free {
        if mine < RANGES.div_ceil(copies.len()) || ranges[range].abandoned {
            mine += 1;
            plan.take.push(range);
        }
    }

    // Only what a copy owns and nobody else has asked for can be asked of it.
    let mut askable: Vec<usize> = (0..RANGES).filter(|range| !ranges[*range].owner.is_empty()).collect();
    askable.retain(|range| ranges[*range].heir.is_empty() && ranges[*range].owner != me);
    askable.sort_by_key(distance);
    loop {
        let donors = counts.iter().filter(|(_, count)| **count > mine + 1);
        let able = donors.filter(|(donor, _)| askable.iter().any(|range| ranges[*range].owner == **donor));
        let Some(donor) = able.max_by_key(|(_, count)| **count).map(|(donor, _)| *donor) else { break };
        let Some(place) = askable.iter().position(|range| ranges[*range].owner == donor) else { break };
        plan.ask.push(askable.remove(place));
        *counts.entry(donor).or_default() -= 1;
        mine += 1;
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Owner and heir of each range, by name.
    #[derive(Clone, Debug)]
    struct Table(Vec<(String, String)>);

    impl Table {
        fn free() -> Self {
            Self(vec![Default::default(); RANGES])
        }

        fn plan(&self, me: &str) -> Plan {
            let views: Vec<_> =
                self.0.iter().map(|(owner, heir)| View { owner, heir, abandoned: false }).collect();
            plan(me, &views.try_into().unwrap())
        }

        /// One copy's round: owners hand over what they were asked for, then the plan is done, as long as nobody was quicker.
        fn round(&mut self, me: &str) {
            let Plan { take, ask } = self.plan(me);
            for (owner, heir) in &mut self.0 {
                if owner == me && !heir.is_empty() {
                    *owner = std::mem::take(heir);
                }
            }
            for range in take {
                self.0[range] = (me.to_owned(), String::new());
            }
            for range in ask {
                if self.0[range].1.is_empty() {
                    me.clone_into(&mut self.0[range].1);
                }
            }
        }

        fn lose(&mut self, gone: &str) {
            for (owner, heir) in &mut self.0 {
                if owner == gone {
                    *owner = String::new();
                }
                if heir == gone {
                    heir.clear();
                }
            }
        }

        fn counts(&self) -> HashMap<&str, usize> {
            let mut counts = HashMap::new();
            self.0.iter().for_each(|(owner, _)| *counts.entry(owner.as_str()).or_default() += 1);
            counts
        }

        fn assert_even(&self, copies: &[String]) {
            let counts = self.counts();
            let of = |copy: &String| counts.get(copy.as_str()).copied().unwrap_or(0);
            let most = copies.iter().map(of).max().unwrap();
            let least = copies.iter().map(of).min().unwrap();
            assert_eq!(copies.iter().map(of).sum::<usize>(), RANGES, "{self:?}");
            assert!(most - least <= 1, "{self:?}");
        }
    }

    fn copies(count: usize) -> Vec<String> {
        (0..count).map(|copy| format!("copy-{copy:02}")).collect()
    }

    #[test]
    fn a_lone_copy_takes_all_and_asks_nobody() {
        let mut table = Table::free();
        assert_eq!(table.plan("a"), Plan { take: (0..RANGES).collect(), ask: vec![] });
        table.round("a");
        assert_eq!(table.plan("a"), Plan::default());
    }

    #[test]
    fn copies_that_start_together_reach_for_different_ranges() {
        let mut table = Table::free();
        table.0[0].0 = "a".to_owned();
        table.0[8].0 = "b".to_owned();
        assert_eq!(table.plan("a").take, (1..8).collect::<Vec<_>>());
        assert_eq!(table.plan("b").take, (9..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_second_copy_asks_for_one_half_in_one_piece() {
        let mut table = Table::free();
        table.round("a");
        assert_eq!(table.plan("b"), Plan { take: vec![], ask: (8..16).collect() });
        table.round("b");
        assert_eq!(table.plan("b"), Plan::default(), "it does not ask twice");
        table.round("a");
        assert_eq!(table.counts(), HashMap::from([("a", 8), ("b", 8)]));
        assert_eq!(table.plan("a"), Plan::default(), "nothing goes back");
    }

    #[test]
    fn what_a_copy_leaves_is_shared_by_all_others() {
        let copies = copies(3);
        let mut table = Table::free();
        for _ in 0..4 {
            for copy in &copies {
                table.round(copy);
            }
        }
        table.assert_even(&copies);
        table.lose("copy-01");
        let left = [copies[0].clone(), copies[2].clone()];
        for copy in &left {
            table.round(copy);
        }
        table.assert_even(&left);
    }

    #[test]
    fn what_nobody_takes_is_taken_beyond_an_even_share() {
        let mut views = [View { owner: "gone-but-not-known-to-be", ..View::default() }; RANGES];
        views[..8].fill(View::default());
        assert_eq!(plan("a", &views), Plan { take: (0..8).collect(), ask: vec![] });
        views[8..].fill(View { owner: "b", ..View::default() });
        views[..8].fill(View { owner: "a", ..View::default() });
        views[12] = View::default();
        assert_eq!(plan("a", &views), Plan::default());
        views[12].abandoned = true;
        assert_eq!(plan("a", &views), Plan { take: vec![12], ask: vec![] });
    }

    proptest! {
        #[test]
        fn whoever_comes_and_goes_all_ranges_end_up_evenly_owned(
            count in 1_usize..20,
            moves in proptest::collection::vec((0_usize..20, any::<bool>()), 0..60),
        ) {
            let copies = copies(count);
            let mut table = Table::free();
            let mut left: BTreeSet<usize> = (0..count).collect();
            for (copy, stays) in moves {
                let copy = copy % count;
                if stays || left.len() == 1 {
                    left.insert(copy);
                    table.round(&copies[copy]);
                } else {
                    left.remove(&copy);
                    table.lose(&copies[copy]);
                }
            }
            let left: Vec<_> = left.into_iter().map(|copy| copies[copy].clone()).collect();
            for _ in 0..2 * RANGES {
                for copy in &left {
                table.round(copy);
            }
            }
            table.assert_even(&left);
            for copy in &left {
                assert_eq!(table.plan(copy), Plan::default());
            }
        }
    }
}
