//! Customer and product documents and their folds: today's names.
//!
//! Mappings: `index/customers.json` and `index/products.json`. Orders carry the names of their own time; these
//! documents answer what somebody or something is called now.

use proto::v1::recorded_event::Body;
use proto::v1::{RecordedEvent, StreamCategory};
use serde::{Deserialize, Serialize};

use super::{FoldError, Projection, recorded_at, time_text};

/// The projection of customers.
#[derive(Debug)]
pub enum Customers {}

/// The projection of products.
#[derive(Debug)]
pub enum Products {}

/// A customer as named today. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct CustomerDocument {
    pub customer_id: String,
    /// Version of the last event, from 1; also the document's version in the index.
    pub version: i64,
    pub name: String,
    #[serde(with = "time_text")]
    pub registered_at: i64,
    /// When the last event was recorded.
    #[serde(with = "time_text")]
    pub updated_at: i64,
}

/// A product as named today. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProductDocument {
    pub product_id: String,
    /// Version of the last event, from 1; also the document's version in the index.
    pub version: i64,
    pub name: String,
    #[serde(with = "time_text")]
    pub registered_at: i64,
    /// When the last event was recorded.
    #[serde(with = "time_text")]
    pub updated_at: i64,
}

/// What happened to a name.
enum Step<'a> {
    Registered { id: &'a str, name: &'a str },
    Renamed { name: &'a str },
}

impl Projection for Customers {
    type Document = CustomerDocument;

    const NAME: &'static str = "customers";
    const CATEGORY: StreamCategory = StreamCategory::Customer;
    const MAPPING: &'static str = include_str!("../../index/customers.json");

    fn evolve(document: &mut Option<CustomerDocument>, event: &RecordedEvent) -> Result<(), FoldError> {
        let version = event.version;
        let at = recorded_at(event)?;
        let step = match event.body.as_ref().ok_or(FoldError::UnknownBody { version })? {
            Body::CustomerRegistered(body) => Step::Registered { id: &body.customer_id, name: &body.name },
            Body::CustomerRenamed(body) => Step::Renamed { name: &body.name },
            _ => return Err(FoldError::ForeignBody { version }),
        };
        match (document.as_mut(), step) {
            (None, Step::Registered { id, name }) => {
                *document = Some(CustomerDocument {
                    customer_id: id.to_owned(),
                    version,
                    name: name.to_owned(),
                    registered_at: at,
                    updated_at: at,
                });
            }
            (Some(customer), Step::Renamed { name }) => {
                name.clone_into(&mut customer.name);
                customer.version = version;
                customer.updated_at = at;
            }
            (before, _) => return Err(out_of_turn(before.is_some(), version)),
        }
        Ok(())
    }

    fn version(document: &CustomerDocument) -> i64 {
        document.version
    }

    fn weight(document: &CustomerDocument) -> usize {
        128 + document.name.len()
    }
}

impl Projection for Products {
    type Document = ProductDocument;

    const NAME: &'static str = "products";
    const CATEGORY: StreamCategory = StreamCategory::Product;
    const MAPPING: &'static str = include_str!("../../index/products.json");

    fn evolve(document: &mut Option<ProductDocument>, event: &RecordedEvent) -> Result<(), FoldError> {
        let version = event.version;
        let at = recorded_at(event)?;
        let step = match event.body.as_ref().ok_or(FoldError::UnknownBody { version })? {
            Body::ProductRegistered(body) => Step::Registered { id: &body.product_id, name: &body.name },
            Body::ProductRenamed(body) => Step::Renamed { name: &body.name },
            _ => return Err(FoldError::ForeignBody { version }),
        };
        match (document.as_mut(), step) {
            (None, Step::Registered { id, name }) => {
                *document = Some(ProductDocument {
                    product_id: id.to_owned(),
                    version,
                    name: name.to_owned(),
                    registered_at: at,
                    updated_at: at,
                });
            }
            (Some(product), Step::Renamed { name }) => {
                name.clone_into(&mut product.name);
                product.version = version;
                product.updated_at = at;
            }
            (before, _) => return Err(out_of_turn(before.is_some(), version)),
        }
        Ok(())
    }

    fn version(document: &ProductDocument) -> i64 {
        document.version
    }

    fn weight(document: &ProductDocument) -> usize {
        128 + document.name.len()
    }
}

fn out_of_turn(registered: bool, version: i64) -> FoldError {
    let reason = if registered { "it was registered before" } else { "it was not registered" };
    FoldError::Illegal { version, reason }
}
