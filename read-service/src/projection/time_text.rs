//! Times in documents: nanoseconds since 1970 in Rust, RFC 3339 text in UTC in JSON, as `date_nanos` fields take it.
//!
//! The text has 0, 3, 6 or 9 digits of fraction, as few as the value allows: "2011-12-01T08:26:00Z",
//! "2011-12-01T08:26:00.123456Z". For `#[serde(with = "time_text")]`; [`option`] is the same for optional times.

use std::fmt;

use chrono::{DateTime, SecondsFormat};
use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;

/// The text of so many nanoseconds since 1970.
#[must_use]
pub fn format(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Nanoseconds since 1970 of an RFC 3339 text; `None` where it is none or lies outside 1677 to 2262.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

/// Writes the text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(nanos: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*nanos))
}

/// Reads the text.
///
/// # Errors
/// Where it is not an RFC 3339 time in range.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_str(TimeText)
}

struct TimeText;

impl Visitor<'_> for TimeText {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time between 1677 and 2262")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &self))
    }
}

/// Times that may be absent.
pub mod option {
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    /// Writes the text, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(nanos: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        match nanos {
            Some(nanos) => super::serialize(nanos, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the text, or null.
    ///
    /// # Errors
    /// Where it is neither null nor an RFC 3339 time in range.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
        #[derive(serde::Deserialize)]
        struct Time(#[serde(with = "super")] i64);
        Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(nanos)| nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_short_and_exact() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_322_727_960_123_456_789, "2011-12-01T08:26:00.123456789Z"),
            (1_322_727_960_123_456_000, "2011-12-01T08:26:00.123456Z"),
            (1_322_727_960_000_000_000, "2011-12-01T08:26:00Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(format(nanos), text);
            assert_eq!(parse(text), Some(nanos));
        }
        assert_eq!(parse("2011-12-01"), None);
    }
}
