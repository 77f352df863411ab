//! What one row says: an order line that is clean, one that is left out for a known reason, or one that is malformed.

use chrono::{DateTime, NaiveDateTime};
use csv::StringRecord;

/// Largest quantity that the contract takes.
const MAX_QUANTITY: i64 = 1_000_000;
/// Longest key and longest short text of the contract, in characters.
const MAX_KEY: usize = 64;
const NAMES: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];

/// Where the eight columns stand.
#[derive(Clone, Debug)]
pub struct Columns {
    positions: [usize; NAMES.len()],
    count: usize,
}

/// A clean order line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'r> {
    /// Invoice number.
    pub invoice: &'r str,
    /// Stock code as it stands in the file.
    pub stock_code: &'r str,
    /// Name of the product, possibly empty.
    pub description: &'r str,
    /// 1 to 1,000,000.
    pub quantity: i32,
    /// Seconds since 1970, UTC.
    pub placed_seconds: i64,
    /// Price of one in pence, rounded half up.
    pub price_pence: i64,
    /// Customer number.
    pub customer: &'r str,
    /// Country.
    pub country: &'r str,
}

/// Why a well-formed row is no part of an order. The first that fits counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclean {
    /// The invoice number begins with C.
    Cancellation,
    /// The customer is missing.
    NoCustomer,
    /// The quantity is not above zero.
    Quantity,
    /// The price is not above zero.
    Price,
}

/// A well-formed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<'r> {
    /// A line of an order.
    Clean(Row<'r>),
    /// Left out.
    Unclean(Unclean),
}

impl Columns {
    /// Finds the columns by their names in the header.
    ///
    /// # Errors
    /// Where one is missing.
    pub fn of(header: &StringRecord) -> anyhow::Result<Self> {
        let mut positions = [0; NAMES.len()];
        for (position, name) in positions.iter_mut().zip(NAMES) {
            let found = header.iter().position(|field| field.trim_start_matches('\u{feff}').trim() == name);
            *position = found.ok_or_else(|| anyhow::anyhow!("there is no column {name}"))?;
        }
        Ok(Self { positions, count: header.len() })
    }

    /// Reads a row.
    ///
    /// # Errors
    /// A problem in words where the row is malformed.
    pub fn read<'r>(&self, record: &'r StringRecord) -> Result<Reading<'r>, String> {
        if record.len() != self.count {
            return Err(format!("{} fields instead of {}", record.len(), self.count));
        }
        let [invoice, stock_code, description, quantity, date, price, customer, country] =
            self.positions.map(|position| record.get(position).unwrap_or_default().trim());
        let quantity: i64 =
            quantity.parse().map_err(|_| format!("Quantity {quantity:?} is not a whole number"))?;
        let price = Price::parse(price).ok_or_else(|| format!("UnitPrice {price:?} is not an amount"))?;
        let placed_seconds =
            seconds(date).ok_or_else(|| format!("InvoiceDate {date:?} is not a date and time"))?;
        if !is_key(invoice) {
            return Err(format!("InvoiceNo {invoice:?} is not 1 to {MAX_KEY} letters and digits"));
        }
        let unclean = if invoice.starts_with('C') {
            Some(Unclean::Cancellation)
        } else if customer.is_empty() {
            Some(Unclean::NoCustomer)
        } else if quantity <= 0 {
            Some(Unclean::Quantity)
        } else if !price.positive {
            Some(Unclean::Price)
        } else {
            None
        };
        if let Some(unclean) = unclean {
            return Ok(Reading::Unclean(unclean));
        }
        let quantity = i32::try_from(quantity)
            .ok()
            .filter(|quantity| i64::from(*quantity) <= MAX_QUANTITY)
            .ok_or_else(|| format!("Quantity {quantity} is above {MAX_QUANTITY}"))?;
        if !is_key(customer) {
            return Err(format!("CustomerID {customer:?} is not 1 to {MAX_KEY} letters and digits"));
        }
        if stock_code.is_empty() || stock_code.chars().count() > MAX_KEY {
            return Err(format!("StockCode {stock_code:?} is not 1 to {MAX_KEY} characters"));
        }
        if country.chars().count() > MAX_KEY {
            return Err(format!("Country {country:?} is longer than {MAX_KEY} characters"));
        }
        let price_pence = price.pence;
        Ok(Reading::Clean(Row {
            invoice,
            stock_code,
            description,
            quantity,
            placed_seconds,
            price_pence,
            customer,
            country,
        }))
    }
}

/// Whether the contract takes this as a customer's or a product's id.
pub(super) fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(is_key_byte)
}

pub(super) fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// A price as the file gives it, in pounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Price {
    /// Above zero before rounding.
    positive: bool,
    /// In pence without the sign, rounded half up.
    pence: i64,
}

impl Price {
    /// Reads a decimal number exactly: digits with at most one point, perhaps a sign.
    fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let digit =
            |position: usize| fraction.as_bytes().get(position).map_or(0, |byte| i64::from(byte - b'0'));
        let pounds: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let magnitude = pounds.checked_mul(100)?.checked_add(digit(0) * 10 + digit(1))?;
        let pence = magnitude.checked_add(i64::from(digit(2) >= 5))?;
        let zero = digits.bytes().all(|byte| byte == b'0' || byte == b'.');
        Some(Self { positive: !negative && !zero, pence })
    }
}

/// Seconds since 1970 of a date and time; UTC where it names no offset.
fn seconds(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp());
    }
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .map(|time| time.and_utc().timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: [&str; 8] =
        ["536365", "85123A", "HEART", "6", "2010-12-01T08:26:00Z", "2.55", "17850", "United Kingdom"];

    /// What a clean row becomes with one field replaced.
    fn with(column: usize, value: &str) -> Result<Option<Unclean>, String> {
        let mut fields = CLEAN;
        fields[column] = value;
        let columns = Columns::of(&StringRecord::from(NAMES.to_vec())).unwrap();
        match columns.read(&StringRecord::from(fields.to_vec())) {
            Ok(Reading::Clean(_)) => Ok(None),
            Ok(Reading::Unclean(unclean)) => Ok(Some(unclean)),
            Err(problem) => Err(problem),
        }
    }

    #[test]
    fn a_clean_row_says_what_it_says() {
        let columns = Columns::of(&StringRecord::from(NAMES.to_vec())).unwrap();
        let record = StringRecord::from(CLEAN.to_vec());
        let expected = Row {
            invoice: "536365",
            stock_code: "85123A",
            description: "HEART",
            quantity: 6,
            placed_seconds: 1_291_191_960,
            price_pence: 255,
            customer: "17850",
            country: "United Kingdom",
        };
        assert_eq!(columns.read(&record), Ok(Reading::Clean(expected)));
    }

    #[test]
    fn columns_are_found_by_name() {
        let mut names = NAMES;
        names.reverse();
        let mut fields = CLEAN;
        fields.reverse();
        let columns = Columns::of(&StringRecord::from(names.to_vec())).unwrap();
        let record = StringRecord::from(fields.to_vec());
        assert!(
            matches!(columns.read(&record), Ok(Reading::Clean(row)) if row.customer == "17850" && row.quantity == 6)
        );
    }

    #[test]
    fn unclean_rows_are_told_apart() {
        assert_eq!(with(0, "C536379"), Ok(Some(Unclean::Cancellation)));
        assert_eq!(with(6, ""), Ok(Some(Unclean::NoCustomer)));
        assert_eq!(with(3, "0"), Ok(Some(Unclean::Quantity)));
        assert_eq!(with(3, "-12"), Ok(Some(Unclean::Quantity)));
        assert_eq!(with(5, "0.0"), Ok(Some(Unclean::Price)));
        assert_eq!(with(5, "-11062.06"), Ok(Some(Unclean::Price)));
        assert_eq!(with(5, "0.001"), Ok(None), "above zero before rounding is clean");
    }

    #[test]
    fn malformed_fields_are_named() {
        for (column, value) in
            [(3, "six"), (3, "1000001"), (3, "2.5"), (5, "1e3"), (5, ""), (5, "1.2.3"), (4, "yesterday")]
        {
            let problem = with(column, value).unwrap_err();
            assert!(problem.starts_with(NAMES[column]), "{problem}");
        }
        assert!(with(0, "").unwrap_err().starts_with("InvoiceNo"));
        assert!(with(6, "17 850").unwrap_err().starts_with("CustomerID"));
        assert!(with(7, &"x".repeat(65)).unwrap_err().starts_with("Country"));
    }

    #[test]
    fn prices_are_rounded_half_up_and_exactly() {
        let pence = |text: &str| Price::parse(text).map(|price| price.pence);
        let cases = [
            ("2.55", 255),
            ("2.5", 250),
            ("7", 700),
            (".5", 50),
            ("0.001", 0),
            ("0.004999", 0),
            ("0.005", 1),
            ("1.114999999999999999999", 111),
            ("1.115", 112),
            ("0.995", 100),
            ("90071992547409.93", 9_007_199_254_740_993),
        ];
        for (text, expected) in cases {
            assert_eq!(pence(text), Some(expected), "{text}");
        }
        for text in ["", ".", "-", "+1", "1,5", "NaN", "99999999999999999999"] {
            assert_eq!(pence(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_without_offset_is_utc() {
        for text in
            ["2010-12-01T08:26:00Z", "2010-12-01 08:26", "2010-12-01 08:26:00", "2010-12-01T10:26:00+02:00"]
        {
            assert_eq!(seconds(text), Some(1_291_191_960), "{text}");
        }
    }
}
