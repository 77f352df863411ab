//! What `cargo up` prints when everything runs: addresses, and calls to paste.

use std::net::SocketAddr;

use crate::import::order::order_id;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// gRPC of the write service.
    pub write: SocketAddr,
    /// gRPC of the read service.
    pub read: SocketAddr,
    /// Probes and metrics of the write service.
    pub write_metrics: SocketAddr,
    /// Probes and metrics of the read service.
    pub read_metrics: SocketAddr,
    /// The event store; `None` where it is the caller's own, whose address holds a password.
    pub postgres: Option<String>,
    /// Elasticsearch; `None` where it is the caller's own.
    pub elasticsearch: Option<String>,
}

/// The text: addresses and six calls that answer with orders of the sample.
#[must_use]
pub fn text(addresses: &Addresses) -> String {
    let Addresses { write, read, write_metrics, read_metrics, .. } = addresses;
    let of = |address: &Option<String>, variable: &str| {
        address.clone().unwrap_or_else(|| format!("as {variable} says"))
    };
    let postgres = of(&addresses.postgres, "DATABASE_URL");
    let elasticsearch = of(&addresses.elasticsearch, "ELASTICSEARCH_URL");
    let calls: Vec<String> =
        calls(*write, *read).into_iter().map(|(what, call)| format!("# {what}\n{call}")).collect();
    format!(
        "\nwrite service  {write}   metrics http://{write_metrics}/metrics\n\
         read service   {read}   metrics http://{read_metrics}/metrics\n\
         PostgreSQL     {postgres}\n\
         Elasticsearch  {elasticsearch}\n\n\
         {}\n\n\
         Ctrl-C stops everything and keeps the data; cargo down removes it.",
        calls.join("\n")
    )
}

fn calls(write: SocketAddr, read: SocketAddr) -> [(&'static str, String); 6] {
    let call = |data: String, address: SocketAddr, method: &str| {
        let data = if data.is_empty() { data } else { format!("-d '{data}' ") };
        format!("grpcurl -plaintext {data}{address} orders.v1.{method}")
    };
    let order = order_id("536365");
    let new_order = r#"{"customer_id":"17850","currency_code":"GBP","reference":"try-1","items":[{"product_id":"85123A","quantity":6,"unit_price":{"currency_code":"GBP","minor_units":255}}],"submit":true}"#;
    [
        (
            "search, with a typing error",
            call(r#"{"query":"lantren white","page_size":3}"#.into(), read, "OrderQueryService/SearchOrders"),
        ),
        (
            "a customer's orders",
            call(r#"{"customer_id":"17850","page_size":3}"#.into(), read, "OrderQueryService/ListOrders"),
        ),
        ("one order", call(format!(r#"{{"order_id":"{order}"}}"#), read, "OrderQueryService/GetOrder")),
        (
            "revenue by month",
            call(
                r#"{"group_by":"GROUP_BY_MONTH","currency_code":"GBP"}"#.into(),
                read,
                "OrderQueryService/GetSalesReport",
            ),
        ),
        ("place an order", call(new_order.into(), write, "OrderCommandService/CreateOrder")),
        ("how far the event store is", call(String::new(), write, "OrderFeedService/GetHead")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_names_a_method_of_the_contract_and_well_formed_data() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for (_, call) in calls(address, address) {
            let (rest, method) = call.rsplit_once(" orders.v1.").unwrap();
            let name = method.rsplit_once('/').unwrap().1;
            assert!(proto::DESCRIPTORS.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{method}");
            if let Some((_, data)) = rest.split_once("-d '") {
                let data = data.split_once('\'').unwrap().0;
                serde_json::from_str::<serde_json::Value>(data).unwrap();
            }
        }
    }
}
