//! What became of an import, counted from the answers of the write service.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proto::v1::{OrderReceipt, PutManyResponse};
use tokio::time::Instant;

use super::survey::{Survey, UncleanCounts};

/// The counts of an import, complete or not.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Orders of the file.
    pub orders: u64,
    /// Orders that this import stored.
    pub stored: u64,
    /// Orders that an earlier import had stored.
    pub replayed: u64,
    /// Orders that the write service refused.
    pub rejected: u64,
    /// Lines of the orders stored or replayed.
    pub lines: u64,
    /// Distinct customers and products of the file.
    pub customers: usize,
    /// Distinct products of the file.
    pub products: usize,
    /// What registering them changed.
    pub catalog: PutManyResponse,
    /// Totals of the orders stored or replayed, in minor units by currency.
    pub revenue: BTreeMap<String, i128>,
    /// Rows left out, by kind.
    pub unclean: UncleanCounts,
    /// Rows that could not be understood.
    pub malformed: u64,
    /// From the first row read to the last answer.
    pub elapsed: Duration,
    /// When the first order went out.
    pub stream_begun: Option<Instant>,
    /// From the first order sent to the last answer.
    pub stream_elapsed: Duration,
    /// The user ended it early.
    pub interrupted: bool,
}

impl Summary {
    /// Takes over what the file holds.
    pub fn describe(&mut self, survey: &Survey) {
        self.orders = survey.invoices.len() as u64;
        self.customers = survey.customers.len();
        self.products = survey.products.len();
        self.unclean = survey.unclean;
        self.malformed = survey.malformed;
    }

    /// Counts an order of `lines` lines that is stored.
    pub fn accept(&mut self, receipt: &OrderReceipt, lines: usize) {
        *(if receipt.replayed { &mut self.replayed } else { &mut self.stored }) += 1;
        self.lines += lines as u64;
        if let Some(total) = &receipt.total {
            *self.revenue.entry(total.currency_code.clone()).or_default() += i128::from(total.minor_units);
        }
        self.stream_elapsed = self.stream_begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    }

    /// Orders that the write service has decided on.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.stored + self.replayed + self.rejected
    }

    /// How far it got, in a few words.
    #[must_use]
    pub fn progress(&self) -> String {
        format!("{} of {} orders answered", self.answered(), self.orders)
    }
}

impl fmt::Display for Summary {
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(
                f,
                "interrupted: {}; repeat the import to finish it, what is stored is not stored twice",
                self.progress()
            )?;
        }
        writeln!(
            f,
            "orders     {} stored, {} replayed, {} rejected",
            self.stored, self.replayed, self.rejected
        )?;
        writeln!(f, "lines      {}", self.lines)?;
        writeln!(f, "customers  {}", self.customers)?;
        writeln!(f, "products   {}", self.products)?;
        let PutManyResponse { registered, renamed, unchanged } = self.catalog;
        writeln!(f, "catalog    {registered} registered, {renamed} renamed, {unchanged} unchanged")?;
        for (currency, minor_units) in &self.revenue {
            writeln!(f, "revenue    {currency} {}.{:02}", minor_units / 100, minor_units % 100)?;
        }
        let UncleanCounts { cancellations, no_customer, quantity, price } = self.unclean;
        writeln!(
            f,
            "left out   {} rows: {cancellations} of cancellations, {no_customer} without customer, {quantity} with a quantity and \
             {price} with a price not above zero",
            self.unclean.total(),
        )?;
        writeln!(f, "malformed  {} rows", self.malformed)?;
        let seconds = self.stream_elapsed.as_secs_f64().max(0.001);
        let orders = (self.stored + self.replayed) as f64 / seconds;
        let lines = self.lines as f64 / seconds;
        write!(
            f,
            "time       {:.1} s, orders {seconds:.1} s: {orders:.0} orders/s, {lines:.0} lines/s",
            self.elapsed.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Money;

    use super::*;

    fn receipt(replayed: bool, minor_units: i64) -> OrderReceipt {
        let total = Some(Money { currency_code: "GBP".to_owned(), minor_units });
        OrderReceipt { replayed, total, ..OrderReceipt::default() }
    }

    #[test]
    fn stored_and_replayed_orders_count_once_each() {
        let mut summary = Summary { orders: 3, ..Summary::default() };
        summary.accept(&receipt(false, 1205), 2);
        summary.accept(&receipt(true, 100), 1);
        assert_eq!((summary.stored, summary.replayed, summary.lines), (1, 1, 3));
        let text = summary.to_string();
        assert!(text.contains("revenue    GBP 13.05\n"), "{text}");
        assert!(text.starts_with("orders     1 stored, 1 replayed, 0 rejected\n"), "{text}");
    }

    #[test]
    fn an_interrupted_import_says_how_far_it_got() {
        let summary = Summary { orders: 9, stored: 4, interrupted: true, ..Summary::default() };
        let text = summary.to_string();
        assert!(
            text.starts_with("interrupted: 4 of 9 orders answered; repeat the import to finish it"),
            "{text}"
        );
    }
}
