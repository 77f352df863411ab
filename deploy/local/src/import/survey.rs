//! The first pass over the file: what it names and what belongs together, so that the second pass can send each order as
//! soon as its last line was read, wherever in the file that stands.
//!
//! Memory grows with the number of invoices, customers and products, not with the number of lines.

use std::collections::HashMap;
use std::path::Path;

use super::row::{Reading, Row, Unclean, is_key_byte};
use super::source::Source;

/// Malformed rows that are shown; all are counted.
const EXAMPLES: usize = 20;
/// Longest name of the contract, in characters.
const MAX_NAME: usize = 200;

/// What the file holds.
#[derive(Debug, Default)]
pub struct Survey {
    /// Rows below the header.
    pub rows: u64,
    /// Clean rows.
    pub lines: u64,
    /// Rows left out, by kind.
    pub unclean: UncleanCounts,
    /// Rows that could not be understood.
    pub malformed: u64,
    /// Line number and problem of the first of them.
    pub malformed_examples: Vec<(u64, String)>,
    /// Orders by invoice number.
    pub invoices: HashMap<String, Invoice>,
    /// Customer numbers, in the order of the file.
    pub customers: Vec<String>,
    /// Products, in the order of the file.
    pub products: Vec<Product>,
    product_of: HashMap<String, usize>,
    known_customers: std::collections::HashSet<String>,
}

/// Rows left out, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UncleanCounts {
    /// On invoices that begin with C.
    pub cancellations: u64,
    /// Without a customer.
    pub no_customer: u64,
    /// With a quantity not above zero.
    pub quantity: u64,
    /// With a price not above zero.
    pub price: u64,
}

/// What is common to the lines of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// Clean rows.
    pub lines: usize,
    /// Customer number.
    pub customer: String,
    /// Country.
    pub country: String,
    /// The earliest of its rows' times, in seconds since 1970.
    pub placed_seconds: i64,
}

/// A product to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Id in the catalog.
    pub id: String,
    /// The first description that is not empty, else the stock code.
    pub name: String,
    stock_code: String,
    named: bool,
}

impl Survey {
    /// Reads the whole file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn of(file: &Path) -> anyhow::Result<Self> {
        let mut survey = Self::default();
        let mut source = Source::open(file)?;
        while let Some((line, reading)) = source.read_row()? {
            survey.rows += 1;
            let outcome = match reading {
                Ok(Reading::Clean(row)) => survey.take(&row),
                Ok(Reading::Unclean(unclean)) => {
                    survey.unclean.count(unclean);
                    Ok(())
                }
                Err(problem) => Err(problem),
            };
            if let Err(problem) = outcome {
                survey.malformed += 1;
                if survey.malformed_examples.len() < EXAMPLES {
                    survey.malformed_examples.push((line, problem));
                }
            }
        }
        Ok(survey)
    }

    /// Whether the row agrees with the first of its invoice and the first of its product; both passes ask this.
    ///
    /// # Errors
    /// The contradiction in words.
    pub fn check(&self, row: &Row<'_>) -> Result<(), String> {
        if let Some(invoice) = self.invoices.get(row.invoice)
            && (invoice.customer != row.customer || invoice.country != row.country)
        {
            let Invoice { customer, country, .. } = invoice;
            return Err(format!("invoice {} belongs to customer {customer} in {country}", row.invoice));
        }
        match self.product_of.get(&*product_id(row.stock_code)) {
            Some(index) if self.products[*index].stock_code != row.stock_code => {
                let other = &self.products[*index].stock_code;
                Err(format!("StockCode {:?} cannot be told from {other:?}", row.stock_code))
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, row: &Row<'_>) -> Result<(), String> {
        self.check(row)?;
        self.lines += 1;
        if let Some(invoice) = self.invoices.get_mut(row.invoice) {
            invoice.lines += 1;
            invoice.placed_seconds = invoice.placed_seconds.min(row.placed_seconds);
        } else {
            let invoice = Invoice {
                lines: 1,
                customer: row.customer.to_owned(),
                country: row.country.to_owned(),
                placed_seconds: row.placed_seconds,
            };
            self.invoices.insert(row.invoice.to_owned(), invoice);
        }
        if !self.known_customers.contains(row.customer) {
            self.known_customers.insert(row.customer.to_owned());
            self.customers.push(row.customer.to_owned());
        }
        self.take_product(row);
        Ok(())
    }

    fn take_product(&mut self, row: &Row<'_>) {
        let id = product_id(row.stock_code);
        let index = *self.product_of.entry(id.clone()).or_insert_with(|| {
            let stock_code = row.stock_code.to_owned();
            self.products.push(Product { id, name: stock_code.clone(), stock_code, named: false });
            self.products.len() - 1
        });
        let product = &mut self.products[index];
        if !product.named && !row.description.is_empty() {
            product.name = row.description.chars().take(MAX_NAME).collect();
            product.named = true;
        }
    }
}

impl UncleanCounts {
    fn count(&mut self, unclean: Unclean) {
        match unclean {
            Unclean::Cancellation => self.cancellations += 1,
            Unclean::NoCustomer => self.no_customer += 1,
            Unclean::Quantity => self.quantity += 1,
            Unclean::Price => self.price += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.cancellations + self.no_customer + self.quantity + self.price
    }
}

/// The id in the catalog of a stock code: what an id may not hold becomes '-', as in "BANK CHARGES".
#[must_use]
pub fn product_id(stock_code: &str) -> String {
    stock_code
        .chars()
        .map(|char| if u8::try_from(char).is_ok_and(is_key_byte) { char } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'r>(invoice: &'r str, stock_code: &'r str, description: &'r str, customer: &'r str) -> Row<'r> {
        let (quantity, placed_seconds, price_pence, country) = (1, 100, 255, "France");
        Row { invoice, stock_code, description, quantity, placed_seconds, price_pence, customer, country }
    }

    #[test]
    fn names_come_from_the_first_description() {
        let mut survey = Survey::default();
        for (code, description) in
            [("A1", ""), ("A1", "FIRST"), ("A1", "SECOND"), ("B2", ""), ("BANK CHARGES", "Fee")]
        {
            survey.take(&row("1", code, description, "7")).unwrap();
        }
        let products: Vec<_> = survey.products.iter().map(|product| (&*product.id, &*product.name)).collect();
        assert_eq!(products, [("A1", "FIRST"), ("B2", "B2"), ("BANK-CHARGES", "Fee")]);
        assert_eq!(survey.customers, ["7"]);
    }

    #[test]
    fn an_invoice_is_counted_wherever_its_lines_stand() {
        let mut survey = Survey::default();
        for (invoice, seconds) in [("1", 160), ("2", 200), ("1", 100)] {
            survey.take(&Row { placed_seconds: seconds, ..row(invoice, "A", "", "7") }).unwrap();
        }
        assert_eq!((survey.invoices["1"].lines, survey.invoices["1"].placed_seconds), (2, 100));
        assert_eq!(survey.invoices["2"].lines, 1);
    }

    #[test]
    fn rows_that_contradict_earlier_ones_are_refused() {
        let mut survey = Survey::default();
        survey.take(&row("1", "BANK CHARGES", "", "7")).unwrap();
        let customer = survey.take(&row("1", "A", "", "8")).unwrap_err();
        assert_eq!(customer, "invoice 1 belongs to customer 7 in France");
        let product = survey.take(&row("2", "BANK-CHARGES", "", "7")).unwrap_err();
        assert_eq!(product, "StockCode \"BANK-CHARGES\" cannot be told from \"BANK CHARGES\"");
        assert_eq!(survey.lines, 1);
    }
}
