//! Checks of single fields. Each malformed one is kept with its path; a request is refused with all of them at once.

use proto::reason::Error;
use proto::v1::Money;
use uuid::Uuid;

use crate::order;

/// Most units of a product on a line.
const MAX_QUANTITY: i32 = 1_000_000;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Vec<(String, String)>,
}

impl Check {
    /// Notes that the field at `path` is malformed.
    pub fn refuse(&mut self, path: &str, description: impl Into<String>) {
        self.violations.push((path.to_owned(), description.into()));
    }

    /// `value` where every field was well formed.
    ///
    /// # Errors
    /// `INVALID_FIELD` with all violations.
    pub fn finish<T>(self, value: T) -> Result<T, Error> {
        if self.violations.is_empty() { Ok(value) } else { Err(Error::invalid_fields(self.violations)) }
    }

    /// A UUID that must be there. The nil UUID is what an unset variable looks like, so it is refused.
    pub fn uuid(&mut self, path: &str, text: &str) -> Uuid {
        if text.is_empty() {
            self.refuse(path, "is required");
            return Uuid::nil();
        }
        self.optional_uuid(path, text).unwrap_or_default()
    }

    /// A UUID that may be left out.
    pub fn optional_uuid(&mut self, path: &str, text: &str) -> Option<Uuid> {
        if text.is_empty() {
            return None;
        }
        // Only the form with hyphens: one text per id, so that ids can be compared as they are.
        let parsed = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
        match parsed {
            Some(id) if !id.is_nil() => return Some(id),
            Some(_) => self.refuse(path, "must not be the nil UUID"),
            None => self.refuse(path, "must be a UUID of 36 characters"),
        }
        None
    }

    /// Text of `min` to `max` characters without control characters.
    pub fn text(&mut self, path: &str, text: String, min: usize, max: usize) -> String {
        let length = text.chars().take(max + 1).count();
        if length < min {
            self.refuse(
                path,
                if min == 1 {
                    "is required".to_owned()
                } else {
                    format!("must have at least {min} characters")
                },
            );
        } else if length > max {
            self.refuse(path, format!("must have at most {max} characters"));
        } else if text.chars().any(char::is_control) {
            self.refuse(path, "must not contain control characters");
        }
        text
    }

    /// The id of a customer or product.
    pub fn key(&mut self, path: &str, text: String) -> String {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() {
            self.refuse(path, "is required");
        } else if text.len() > 64 || !text.chars().all(legal) {
            self.refuse(path, "must be 1 to 64 of letters, digits, '-', '_', '.'");
        }
        text
    }

    /// An ISO 4217 alphabetic code, by its form.
    pub fn currency(&mut self, path: &str, text: String) -> String {
        if text.is_empty() {
            self.refuse(path, "is required");
        } else if text.len() != 3 || !text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            self.refuse(path, "must be three upper-case letters, as in ISO 4217");
        }
        text
    }

    /// An amount that is not negative.
    pub fn price(&mut self, path: &str, money: Option<Money>) -> order::Money {
        let Some(Money { currency_code, minor_units }) = money else {
            self.refuse(path, "is required");
            return order::Money { currency: String::new(), minor_units: 0 };
        };
        let currency = self.currency(&format!("{path}.currency_code"), currency_code);
        if minor_units < 0 {
            self.refuse(&format!("{path}.minor_units"), "must not be negative");
        }
        order::Money { currency, minor_units }
    }

    /// Units of a product on a line.
    pub fn quantity(&mut self, path: &str, quantity: i32) -> i32 {
        if !(1..=MAX_QUANTITY).contains(&quantity) {
            self.refuse(path, "must be 1 to 1,000,000");
        }
        quantity
    }

    /// The number of a line.
    pub fn line(&mut self, path: &str, line: i32) -> i32 {
        if line < 1 {
            self.refuse(path, "must be at least 1");
        }
        line
    }

    /// A version that the caller expects an existing order to have.
    pub fn expected_version(&mut self, path: &str, version: Option<i64>) -> Option<i64> {
        if version.is_some_and(|version| version < 1) {
            self.refuse(path, "must be at least 1");
        }
        version
    }
}
