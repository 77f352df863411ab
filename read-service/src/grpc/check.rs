//! Checks of single fields. Each malformed one is kept with its path; a request is refused with all of them at once.

use chrono_tz::Tz;
use prost_types::Timestamp;
use proto::reason::Error;
use proto::v1::{OrderSort, OrderStatus};
use uuid::Uuid;

use crate::projection::Status;
use crate::query::Sort;

/// Most statuses in a filter: each could be there twice.
const MAX_STATUSES: usize = 12;
/// Seconds since 1970 of 0001-01-01T00:00:00Z and of 9999-12-31T23:59:59Z, the range of a timestamp.
const TIMESTAMPS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Vec<(String, String)>,
}

impl Check {
    /// Notes that the field at `path` is malformed.
    pub fn refuse(&mut self, path: impl Into<String>, description: impl Into<String>) {
        self.violations.push((path.into(), description.into()));
    }

    /// # Errors
    /// `INVALID_FIELD` with all violations, where there are any.
    pub fn finish(self) -> Result<(), Error> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.violations)) }
    }

    /// The id of an order, in its one form: lower case, with hyphens.
    pub fn order_id(&mut self, path: &str, text: &str) -> String {
        let parsed = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
        match parsed {
            Some(id) if !id.is_nil() => return id.to_string(),
            Some(_) => self.refuse(path, "must not be the nil UUID"),
            None if text.is_empty() => self.refuse(path, "is required"),
            None => self.refuse(path, "must be a UUID of 36 characters"),
        }
        String::new()
    }

    /// The id of a customer or product, or nothing.
    pub fn key(&mut self, path: &str, text: String) -> String {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.len() > 64 || !text.chars().all(legal) {
            self.refuse(path, "must be 1 to 64 of letters, digits, '-', '_', '.'");
        }
        text
    }

    /// Text of at most `max` characters without control characters, or nothing.
    pub fn text(&mut self, path: &str, text: String, max: usize) -> String {
        if text.chars().nth(max).is_some() {
            self.refuse(path, format!("must have at most {max} characters"));
        } else if text.chars().any(char::is_control) {
            self.refuse(path, "must not contain control characters");
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

    /// Statuses, each once; none means all.
    pub fn statuses(&mut self, path: &str, given: &[i32]) -> Vec<Status> {
        if given.len() > MAX_STATUSES {
            self.refuse(path, format!("must be at most {MAX_STATUSES}"));
        }
        let mut statuses = Vec::new();
        for (i, number) in given.iter().take(MAX_STATUSES).enumerate() {
            match OrderStatus::try_from(*number).ok().and_then(Status::from_contract) {
                Some(status) if statuses.contains(&status) => {}
                Some(status) => statuses.push(status),
                None => self.refuse(format!("{path}[{i}]"), "must be a known status"),
            }
        }
        statuses
    }

    /// A time in nanoseconds since 1970; one outside of 1677 to 2262 becomes the nearest end of that range.
    pub fn time(&mut self, path: &str, time: Option<&Timestamp>) -> Option<i64> {
        let time = time?;
        if !(0..1_000_000_000).contains(&time.nanos) || !TIMESTAMPS.contains(&time.seconds) {
            self.refuse(path, "must be a time from 0001-01-01 to 9999-12-31");
        }
        Some(proto::time::to_nanos(time).unwrap_or(if time.seconds < 0 { i64::MIN } else { i64::MAX }))
    }

    /// The times of a range; an end before its beginning is refused at the path of the end.
    pub fn placed(&mut self, from: Option<&Timestamp>, to: Option<&Timestamp>) -> (Option<i64>, Option<i64>) {
        let (from, to) = (self.time("placed_from", from), self.time("placed_to", to));
        if from.zip(to).is_some_and(|(from, to)| to < from) {
            self.refuse("placed_to", "must not be before placed_from");
        }
        (from, to)
    }

    /// The order of rows; `unspecified` is what stands for none.
    pub fn sort(&mut self, path: &str, number: i32, unspecified: Sort) -> Sort {
        match OrderSort::try_from(number) {
            Ok(OrderSort::Unspecified) => unspecified,
            Ok(OrderSort::PlacedTimeDesc) => Sort::PlacedDescending,
            Ok(OrderSort::PlacedTimeAsc) => Sort::PlacedAscending,
            Ok(OrderSort::TotalDesc) => Sort::TotalDescending,
            Ok(OrderSort::TotalAsc) => Sort::TotalAscending,
            Ok(OrderSort::UpdateTimeDesc) => Sort::UpdatedDescending,
            Err(_) => {
                self.refuse(path, "must be a known sort");
                unspecified
            }
        }
    }

    /// A number of rows: 0 means `default`, more than `max` means `max`.
    pub fn rows(&mut self, path: &str, number: i32, default: u32, max: u32) -> u32 {
        match u32::try_from(number) {
            Ok(0) => default,
            Ok(number) => number.min(max),
            Err(_) => {
                self.refuse(path, "must not be negative");
                default
            }
        }
    }

    /// An IANA name of a time zone, in a form that Java knows too; empty means UTC.
    pub fn time_zone(&mut self, path: &str, name: String) -> String {
        if name.parse::<Tz>().is_err() && !name.is_empty() {
            self.refuse(path, "must be the IANA name of a time zone");
        }
        match name.as_str() {
            "" => "UTC".to_owned(),
            // Names of four zones that have a longer name too; Java knows only that.
            "EST" => "America/Panama".to_owned(),
            "MST" => "America/Phoenix".to_owned(),
            "HST" => "Pacific/Honolulu".to_owned(),
            "ROC" => "Asia/Taipei".to_owned(),
            _ => name,
        }
    }
}
