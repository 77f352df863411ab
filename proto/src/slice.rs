//! The slice of a stream: a fixed hash of its category and key, by which streams are shared out.

use crate::v1::StreamCategory;

/// Number of slices; a slice is 0 to `COUNT - 1`. Never changes: stored rows and checkpoints hold slices.
pub const COUNT: u16 = 1024;

/// The slice of the stream with this category and key.
///
/// FNV-1a, 64 bits (draft-eastlake-fnv), over the category's number as one byte and the key's bytes, its upper half
/// folded onto the lower, modulo [`COUNT`]. Never changes.
#[must_use]
pub fn of(category: StreamCategory, key: &str) -> u16 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let category = u8::try_from(category as i32).unwrap_or(0);
    let hash = std::iter::once(category)
        .chain(key.bytes())
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let folded = (hash ^ (hash >> 32)) % u64::from(COUNT);
    u16::try_from(folded).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_slices_never_move() {
        let kept = [
            (StreamCategory::Order, "0190b6a0-0000-7000-8000-000000000001"),
            (StreamCategory::Customer, "17850"),
            (StreamCategory::Product, "85123A"),
        ]
        .map(|(category, key)| of(category, key));
        assert_eq!(kept, [458, 788, 752]);
    }

    #[test]
    fn keys_spread_over_all_slices() {
        let mut counts = vec![0_u32; usize::from(COUNT)];
        for i in 0..102_400 {
            counts[usize::from(of(StreamCategory::Order, &format!("order-{i}")))] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }
}
