//! The consistency token: names the stream and the version that a read must show.
//!
//! Text form: base64url, without padding, of a format byte (1), the category as one byte, the version as eight bytes big
//! endian, and the key. Opaque to callers; it grants nothing, so it is not authenticated.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::v1::StreamCategory;

const FORMAT: u8 = 1;
const HEADER: usize = 10;
/// Longest key of any stream, in bytes.
const MAX_KEY: usize = 64;

/// What a consistency token says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsistencyToken {
    /// Category of the stream.
    pub category: StreamCategory,
    /// Key of the stream: the `order_id`, `customer_id` or `product_id`.
    pub key: String,
    /// Version that must be visible, from 1.
    pub version: i64,
}

/// The text is not a consistency token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a consistency token")]
pub struct NotAToken;

impl ConsistencyToken {
    /// The text form.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEADER + self.key.len());
        bytes.push(FORMAT);
        bytes.push(u8::try_from(self.category as i32).unwrap_or(0));
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`NotAToken`] where the text was not made by [`Self::encode`] for a stream that can exist.
    pub fn decode(text: &str) -> Result<Self, NotAToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotAToken)?;
        let (header, key) = bytes.split_at_checked(HEADER).ok_or(NotAToken)?;
        let [format, category, version @ ..] = header else {
            return Err(NotAToken);
        };
        let category = StreamCategory::try_from(i32::from(*category)).map_err(|_| NotAToken)?;
        let version = i64::from_be_bytes(version.try_into().map_err(|_| NotAToken)?);
        let known = *format == FORMAT && category != StreamCategory::Unspecified;
        if !known || version < 1 || key.is_empty() || key.len() > MAX_KEY {
            return Err(NotAToken);
        }
        let key = String::from_utf8(key.to_vec()).map_err(|_| NotAToken)?;
        Ok(Self { category, key, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_form() {
        let token = ConsistencyToken { category: StreamCategory::Customer, key: "17850".into(), version: 7 };
        assert_eq!(ConsistencyToken::decode(&token.encode()), Ok(token));
    }

    #[test]
    fn other_texts_are_refused() {
        let good = ConsistencyToken { category: StreamCategory::Order, key: "k".into(), version: 1 }.encode();
        let zero = ConsistencyToken { category: StreamCategory::Order, key: "k".into(), version: 0 }.encode();
        let long =
            ConsistencyToken { category: StreamCategory::Order, key: "k".repeat(65), version: 1 }.encode();
        for text in ["", "x", "AAAA", "not base64!", &good[1..], &zero, &long, &format!("{good}=")] {
            assert_eq!(ConsistencyToken::decode(text), Err(NotAToken), "{text}");
        }
    }
}
