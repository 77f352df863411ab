//! The second pass: each invoice becomes one `CreateOrder` that submits at once, sent when its last line was read.

use std::collections::HashMap;
use std::path::Path;

use anyhow::bail;
use prost_types::Timestamp;
use proto::v1::{CreateOrderRequest, Money, NewItem};
use uuid::Uuid;

use super::row::{Reading, Row};
use super::source::Source;
use super::survey::{Invoice, Survey, product_id};

/// The currency of the data set.
pub const CURRENCY: &str = "GBP";
/// Namespace of the ids that follow from invoice numbers: UUIDv5 of
/// `https://archive.ics.uci.edu/dataset/352/online+retail` in the namespace for URLs.
const INVOICES: Uuid = Uuid::from_u128(0xa662_1eaf_b20e_51de_a8ee_d4d6_2a40_7d7a);

/// An order on its way, known to the user by its invoice.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Invoice number.
    pub invoice: String,
    /// The command.
    pub request: CreateOrderRequest,
}

/// The `request_id`, and so the `order_id`, of an invoice: the same in every run.
#[must_use]
pub fn order_id(invoice: &str) -> Uuid {
    Uuid::new_v5(&INVOICES, invoice.as_bytes())
}

/// Reads the file again and gives each order to `send` once complete; stops where `send` answers false.
///
/// # Errors
/// Where the file cannot be read, or was changed since the survey.
pub fn read(file: &Path, survey: &Survey, mut send: impl FnMut(Order) -> bool) -> anyhow::Result<()> {
    let mut source = Source::open(file)?;
    let mut orders = Assembly { survey, open: HashMap::new() };
    while let Some((_, reading)) = source.read_row()? {
        if let Ok(Reading::Clean(row)) = reading
            && survey.check(&row).is_ok()
            && let Some(order) = orders.take(&row)
            && !send(order)
        {
            return Ok(());
        }
    }
    if let Some(invoice) = orders.open.keys().next() {
        bail!("{} was changed while it was read: invoice {invoice} is incomplete", file.display());
    }
    Ok(())
}

/// The orders whose last line has not come yet.
struct Assembly<'s> {
    survey: &'s Survey,
    open: HashMap<String, Vec<NewItem>>,
}

impl Assembly<'_> {
    /// Takes a clean row; gives the order that it completes.
    fn take(&mut self, row: &Row<'_>) -> Option<Order> {
        let invoice = self.survey.invoices.get(row.invoice)?;
        let item = NewItem {
            product_id: product_id(row.stock_code),
            quantity: row.quantity,
            unit_price: Some(Money { currency_code: CURRENCY.to_owned(), minor_units: row.price_pence }),
        };
        let items = self.open.entry(row.invoice.to_owned()).or_default();
        items.push(item);
        if items.len() < invoice.lines {
            return None;
        }
        self.open.remove_entry(row.invoice).map(|(number, items)| command(number, invoice, items))
    }
}

fn command(number: String, invoice: &Invoice, items: Vec<NewItem>) -> Order {
    let request = CreateOrderRequest {
        order_id: String::new(),
        request_id: order_id(&number).to_string(),
        customer_id: invoice.customer.clone(),
        currency_code: CURRENCY.to_owned(),
        reference: number.clone(),
        delivery_country: invoice.country.clone(),
        placed_time: Some(Timestamp { seconds: invoice.placed_seconds, nanos: 0 }),
        items,
        submit: true,
    };
    Order { invoice: number, request }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HEADER: &str =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    fn orders(rows: &str) -> Vec<Order> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(format!("{HEADER}{rows}").as_bytes()).unwrap();
        let survey = Survey::of(file.path()).unwrap();
        let mut orders = Vec::new();
        read(file.path(), &survey, |order| {
            orders.push(order);
            true
        })
        .unwrap();
        orders
    }

    #[test]
    fn the_id_of_an_invoice_never_changes() {
        assert_eq!(order_id("536365").to_string(), "40716869-3662-5998-9509-071b88dbcfc7");
        assert_ne!(order_id("536365"), order_id("536366"));
    }

    #[test]
    fn lines_of_an_invoice_meet_in_one_order() {
        let orders = orders(
            "1,A,Apple,6,2010-12-01T08:26:00Z,2.55,7,France\n\
             2,A,Apple,1,2010-12-01T08:27:00Z,2.55,8,Spain\n\
             1,B,,2,2010-12-01T08:25:00Z,0.005,7,France\n\
             1,C,,-2,2010-12-01T08:25:00Z,1,7,France\n",
        );
        let invoices: Vec<_> =
            orders.iter().map(|order| (&*order.invoice, order.request.items.len())).collect();
        assert_eq!(invoices, [("2", 1), ("1", 2)]);
        let request = &orders[1].request;
        assert_eq!(request.request_id, order_id("1").to_string());
        assert_eq!(
            (&*request.reference, &*request.customer_id, &*request.delivery_country),
            ("1", "7", "France")
        );
        assert_eq!(request.placed_time, Some(Timestamp { seconds: 1_291_191_900, nanos: 0 }));
        assert!(request.submit);
        assert_eq!(request.items[1].unit_price.as_ref().unwrap().minor_units, 1);
    }
}
