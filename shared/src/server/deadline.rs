//! When a call must be answered: by the caller's `grpc-timeout`, and for a call with one answer by the server's limit too.
//!
//! tonic reads `grpc-timeout` as well, outside of every layer: it answers CANCELLED and only up to the head of the response.
//! The deadline here is taken before tonic takes its own and looked at whenever the call is looked at, so it comes first.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::methods::Method;

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// When a call must be answered; in the extensions of every request that has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline of a call that begins now.
    pub(super) fn of(method: &Method, headers: &HeaderMap, limit: Duration) -> Option<Self> {
        let asked = headers.get(GRPC_TIMEOUT).and_then(|value| parse(value.as_bytes()));
        let timeout = if method.streams { asked? } else { asked.map_or(limit, |asked| asked.min(limit)) };
        Instant::now().checked_add(timeout).map(Self)
    }

    /// The moment it passes.
    #[must_use]
    pub fn at(self) -> Instant {
        self.0
    }

    /// The time left; zero once passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(super) fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }
}

/// One to eight digits and a unit, as gRPC over HTTP/2 says; anything else counts as no deadline, as in tonic.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_every_unit() {
        let read = |text: &str| parse(text.as_bytes()).map(|duration| duration.as_nanos());
        assert_eq!(read("2H"), Some(7_200_000_000_000));
        assert_eq!(read("3M"), Some(180_000_000_000));
        assert_eq!(read("42S"), Some(42_000_000_000));
        assert_eq!(read("13m"), Some(13_000_000));
        assert_eq!(read("2u"), Some(2_000));
        assert_eq!(read("0n"), Some(0));
        assert_eq!(read("99999999H"), Some(359_999_996_400_000_000_000));
    }

    #[test]
    fn what_is_no_timeout_counts_as_none() {
        for text in ["", "S", "1", "-1S", "+1S", "1.5S", "123456789S", "1s", "1 S", "1SS", "\u{661}S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
