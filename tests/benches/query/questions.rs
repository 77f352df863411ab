//! The questions, each once to the service and once, of the same kind, to Elasticsearch.

use std::time::{Duration, Instant};

use proto::v1::get_sales_report_request::GroupBy as Given;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::{GetOrderRequest, GetSalesReportRequest, ListOrdersRequest, SearchOrdersRequest};
use read_service::index::Index;
use read_service::projection::Status;
use read_service::query::report::{self, GroupBy};
use read_service::query::{Filter, Page, Sort, Start, list, search};
use serde::de::IgnoredAny;
use tonic::transport::Channel;

use crate::documents::Documents;

/// Rows of a page, as the service gives unless asked.
const PAGE: Page = Page { size: 50, start: Start::Offset(0) };
/// 2010-12-01T08:26:00Z, when the first order of the sample was placed.
const FIRST_PLACED: i64 = 1_291_191_960_000_000_000;
/// Rows of a report, as the service gives unless asked.
const ROWS: u32 = 20;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Get,
    ByCustomer,
    ByCountry,
    Words,
    Beginnings,
    Errors,
    SalesByCountry,
    SalesByProduct,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Get,
        Self::ByCustomer,
        Self::ByCountry,
        Self::Words,
        Self::Beginnings,
        Self::Errors,
        Self::SalesByCountry,
        Self::SalesByProduct,
    ];
}

/// Asks one question after the other.
pub struct Questions {
    client: OrderQueryServiceClient<Channel>,
    index: Index,
    alias: String,
    documents: Documents,
    /// Questions so far: each is about other orders than the last.
    asked: usize,
}

impl Questions {
    pub fn new(
        client: OrderQueryServiceClient<Channel>,
        index: Index,
        alias: String,
        documents: Documents,
    ) -> Self {
        Self { client, index, alias, documents, asked: 0 }
    }

    /// How long the service takes.
    pub async fn ask(&mut self, kind: Kind) -> anyhow::Result<Duration> {
        let subject = self.next(kind);
        let began = Instant::now();
        match kind {
            Kind::Get => {
                self.client.get_order(GetOrderRequest { order_id: subject, ..Default::default() }).await?;
            }
            Kind::ByCustomer => {
                let request = ListOrdersRequest { customer_id: subject, ..Default::default() };
                self.client.list_orders(request).await?;
            }
            Kind::ByCountry => {
                let request = ListOrdersRequest { delivery_country: subject, ..Default::default() };
                self.client.list_orders(request).await?;
            }
            Kind::Words | Kind::Beginnings | Kind::Errors => {
                self.client
                    .search_orders(SearchOrdersRequest { query: subject, ..Default::default() })
                    .await?;
            }
            Kind::SalesByCountry | Kind::SalesByProduct => {
                let group_by = if matches!(kind, Kind::SalesByProduct) {
                    Given::Product
                } else {
                    Given::DeliveryCountry
                };
                let request = GetSalesReportRequest {
                    group_by: group_by.into(),
                    currency_code: "GBP".into(),
                    placed_from: Some(proto::time::from_nanos(self.since())),
                    ..Default::default()
                };
                self.client.get_sales_report(request).await?;
            }
        }
        Ok(began.elapsed())
    }

    /// How long Elasticsearch takes for what the service would ask it.
    pub async fn ask_directly(&mut self, kind: Kind) -> anyhow::Result<Duration> {
        let subject = self.next(kind);
        if matches!(kind, Kind::Get) {
            let began = Instant::now();
            self.index.get::<IgnoredAny>(&self.alias, &subject).await?;
            return Ok(began.elapsed());
        }
        let all = Filter::default();
        let body = match kind {
            Kind::Get | Kind::ByCustomer => {
                list::body(&Filter { customer_id: subject, ..all }, Sort::PlacedDescending, &PAGE)
            }
            Kind::ByCountry => {
                list::body(&Filter { delivery_country: subject, ..all }, Sort::PlacedDescending, &PAGE)
            }
            Kind::Words | Kind::Beginnings | Kind::Errors => {
                search::body(&search::terms(&subject), &all, Sort::BestMatch, &PAGE, true)
            }
            Kind::SalesByCountry | Kind::SalesByProduct => {
                let group_by = if matches!(kind, Kind::SalesByProduct) {
                    GroupBy::Product
                } else {
                    GroupBy::DeliveryCountry
                };
                let statuses = vec![Status::Submitted, Status::Confirmed, Status::Shipped, Status::Delivered];
                let filter = Filter {
                    statuses,
                    currency: "GBP".into(),
                    placed_from: Some(self.since()),
                    ..Filter::default()
                };
                report::body(group_by, &filter, ROWS, "UTC")
            }
        };
        let began = Instant::now();
        self.index.search::<IgnoredAny>(&self.alias, &body).await?;
        Ok(began.elapsed())
    }

    /// The subject of the next question.
    fn next(&mut self, kind: Kind) -> String {
        self.asked += 1;
        let ids = &self.documents.ids;
        // A step that shares no factor with the number of orders visits all of them, far from each other.
        let place = self.asked * 7_919;
        let order = &self.documents.samples[place % self.documents.samples.len()];
        match kind {
            Kind::Get => ids[place % ids.len()].clone(),
            Kind::ByCustomer => order.customer_id.clone(),
            Kind::ByCountry => order.delivery_country.clone(),
            Kind::Words | Kind::Beginnings | Kind::Errors => {
                let names = order.lines.iter().flat_map(|line| line.product_name.split(' '));
                let mut words: Vec<_> = names
                    .filter(|word| word.len() > 4 && word.bytes().all(|c| c.is_ascii_alphabetic()))
                    .collect();
                words.dedup();
                let two = words.iter().skip(place % words.len().max(2).saturating_sub(1)).take(2);
                let changed = two.map(|word| match kind {
                    Kind::Beginnings => word[..4].to_owned(),
                    Kind::Errors => format!("{}{}{}", &word[..2], &word[3..4], &word[2..3]) + &word[4..],
                    _ => (*word).to_owned(),
                });
                let text = changed.collect::<Vec<_>>().join(" ");
                if text.is_empty() { "white heart".to_owned() } else { text }
            }
            Kind::SalesByCountry | Kind::SalesByProduct => String::new(),
        }
    }

    /// A time among those of the orders, another one with each question: an answer that was given before may be kept, and so is
    /// that to a range which all orders are in.
    fn since(&self) -> i64 {
        FIRST_PLACED + i64::try_from(self.asked).unwrap_or(0) * 1_000_000_000
    }
}
