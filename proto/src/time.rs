//! Timestamps of the contract as nanoseconds since 1970-01-01T00:00:00Z, and back.

use prost_types::Timestamp;

const NANOS: i64 = 1_000_000_000;

/// Nanoseconds since 1970; `None` where the timestamp is malformed (nanos outside 0 to 999,999,999) or lies outside
/// 1677-09-21 to 2262-04-11, the range of 64 bits.
#[must_use]
pub fn to_nanos(time: &Timestamp) -> Option<i64> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    time.seconds.checked_mul(NANOS)?.checked_add(i64::from(time.nanos))
}

/// The timestamp of so many nanoseconds since 1970.
#[must_use]
pub fn from_nanos(nanos: i64) -> Timestamp {
    Timestamp { seconds: nanos.div_euclid(NANOS), nanos: i32::try_from(nanos.rem_euclid(NANOS)).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for nanos in [0, 1, -1, 1_322_586_000_123_456_789, i64::MAX, -62_135_596_800] {
            assert_eq!(to_nanos(&from_nanos(nanos)), Some(nanos));
        }
    }

    #[test]
    fn malformed_or_far_away() {
        assert_eq!(to_nanos(&Timestamp { seconds: 0, nanos: -1 }), None);
        assert_eq!(to_nanos(&Timestamp { seconds: 0, nanos: 1_000_000_000 }), None);
        assert_eq!(to_nanos(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
    }
}
