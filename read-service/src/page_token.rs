//! Page tokens: where the next page starts, in a form that callers can only hand back.
//!
//! A token holds a format byte, when it was issued, and the sort values of the last row shown; nothing of the index, so it
//! survives a rebuild. It is authenticated by HMAC-SHA256 together with the method and the request's fields, so it opens the
//! next page of the list it came from and no other. `page_size` and `consistency` are not bound: they do not change which
//! rows there are. Copies of the service that share the key understand each other's tokens.
//!
//! Text form: base64url without padding of payload and 16 bytes of the authentication code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use shared::clock::Clock;
use thiserror::Error;

use crate::query::SortValue;

/// Format of the payload; another one is another service's.
const FORMAT: u8 = 1;
/// How long a token opens its page, in nanoseconds: 24 hours.
const LIFETIME: i64 = 24 * 3_600 * 1_000_000_000;
/// Bytes of the authentication code.
const CODE: usize = 16;
/// Longest token that is looked at, in bytes.
const MAX_TEXT: usize = 1_024;

/// A token that opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageTokenError {
    /// Altered, of another request, or no token at all.
    #[error("the page token is not one of this request")]
    Foreign,
    /// Too old.
    #[error("the page token has expired")]
    Expired,
}

/// Makes and reads page tokens.
#[derive(Clone)]
pub struct PageTokens {
    mac: Hmac<Sha256>,
    clock: Clock,
}

impl std::fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageTokens").finish_non_exhaustive()
    }
}

/// The list that a token belongs to: its method and the bytes of the request's fields that choose rows and their order.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Name of the method.
    pub method: &'a str,
    /// The fields, in any form that is equal for equal fields only.
    pub fields: &'a [u8],
}

impl PageTokens {
    /// Tokens under `key`.
    #[must_use]
    pub fn new(key: &[u8; 32], clock: Clock) -> Self {
        // A key shorter than a block of the hash is filled up with zeros: HMAC says so itself.
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        Self { mac: Hmac::new(&block.into()), clock }
    }

    /// The token of the page after the row with these sort values.
    #[must_use]
    pub fn issue(&self, bound: Bound<'_>, after: &[SortValue]) -> String {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.clock.now_nanos().to_be_bytes());
        for value in after {
            put(&mut bytes, value);
        }
        let code = self.code(bound, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&code[..CODE]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The sort values in a token that was issued for the same list.
    ///
    /// # Errors
    /// [`PageTokenError`].
    pub fn open(&self, bound: Bound<'_>, text: &str) -> Result<Vec<SortValue>, PageTokenError> {
        if text.len() > MAX_TEXT {
            return Err(PageTokenError::Foreign);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PageTokenError::Foreign)?;
        let at = bytes.len().checked_sub(CODE).ok_or(PageTokenError::Foreign)?;
        let (payload, code) = bytes.split_at(at);
        self.code(bound, payload).verify_truncated_left(code).map_err(|_| PageTokenError::Foreign)?;
        let (issued_at, values) = read(payload).ok_or(PageTokenError::Foreign)?;
        if self.clock.now_nanos().saturating_sub(issued_at) > LIFETIME {
            return Err(PageTokenError::Expired);
        }
        Ok(values)
    }

    fn code(&self, bound: Bound<'_>, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        // Lengths first, so that no two lists yield the same bytes.
        for part in [bound.method.as_bytes(), bound.fields, payload] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

const NUMBER: u8 = 1;
const SCORE: u8 = 2;
const TEXT: u8 = 3;

fn put(bytes: &mut Vec<u8>, value: &SortValue) {
    match value {
        SortValue::Number(number) => {
            bytes.push(NUMBER);
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        SortValue::Score(score) => {
            bytes.push(SCORE);
            bytes.extend_from_slice(&score.to_be_bytes());
        }
        SortValue::Text(text) => {
            // Only ids are sorted by; the length is written in full all the same.
            bytes.push(TEXT);
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
}

fn read(payload: &[u8]) -> Option<(i64, Vec<SortValue>)> {
    let (&format, rest) = payload.split_first()?;
    let (issued_at, mut rest) = rest.split_first_chunk::<8>()?;
    let mut values = Vec::new();
    while let Some((&kind, after)) = rest.split_first() {
        let (eight, after) = after.split_first_chunk::<8>()?;
        rest = after;
        values.push(match kind {
            NUMBER => SortValue::Number(i64::from_be_bytes(*eight)),
            SCORE => SortValue::Score(f64::from_be_bytes(*eight)),
            TEXT => {
                let (text, after) =
                    rest.split_at_checked(usize::try_from(u64::from_be_bytes(*eight)).ok()?)?;
                rest = after;
                SortValue::Text(String::from_utf8(text.to_vec()).ok()?)
            }
            _ => return None,
        });
    }
    (format == FORMAT).then(|| (i64::from_be_bytes(*issued_at), values))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIST: Bound<'static> = Bound { method: "ListOrders", fields: b"customer 17850" };

    fn tokens() -> PageTokens {
        PageTokens::new(&[7; 32], Clock::fixed(1_700_000_000_000_000_000))
    }

    fn row() -> Vec<SortValue> {
        vec![SortValue::Number(-5), SortValue::Score(6.0), SortValue::Text("0190b6a0".into())]
    }

    #[test]
    fn a_token_opens_its_own_list_only() {
        let tokens = tokens();
        let token = tokens.issue(LIST, &row());
        assert_eq!(tokens.open(LIST, &token), Ok(row()));
        for other in [
            Bound { method: "SearchOrders", ..LIST },
            Bound { fields: b"customer 17851", ..LIST },
            Bound { method: "ListOrdersc", fields: b"ustomer 17850" },
        ] {
            assert_eq!(tokens.open(other, &token), Err(PageTokenError::Foreign));
        }
        let elsewhere = PageTokens::new(&[8; 32], Clock::fixed(1_700_000_000_000_000_000));
        assert_eq!(elsewhere.open(LIST, &token), Err(PageTokenError::Foreign));
    }

    #[test]
    fn a_token_grows_old() {
        let tokens = tokens();
        let token = tokens.issue(LIST, &row());
        tokens.clock.advance(Duration::from_hours(24));
        assert_eq!(tokens.open(LIST, &token), Ok(row()));
        tokens.clock.advance(Duration::from_nanos(1));
        assert_eq!(tokens.open(LIST, &token), Err(PageTokenError::Expired));
    }

    proptest! {
        #[test]
        fn no_changed_character_passes(at in 0_usize..200, with in "[A-Za-z0-9_-]") {
            let token = tokens().issue(LIST, &row());
            let at = at % token.len();
            let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
            prop_assume!(changed != token);
            prop_assert_eq!(tokens().open(LIST, &changed), Err(PageTokenError::Foreign));
        }

        #[test]
        fn no_other_text_passes(text in any::<String>()) {
            prop_assert_eq!(tokens().open(LIST, &text), Err(PageTokenError::Foreign));
        }
    }
}
