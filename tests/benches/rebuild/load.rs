//! Callers who read orders and lists, one question after the other, at a steady pace.

use std::time::{Duration, Instant};

use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::{GetOrderRequest, ListOrdersRequest};
use rig::latency::Latencies;
use rig::search::ReadSide;
use tokio::time::interval;
use tonic::transport::Channel;

/// How long it is measured while nothing else is done.
pub const CALM: Duration = Duration::from_secs(5);
/// Time from one question to the next.
const PACE: Duration = Duration::from_millis(10);

/// Asks about known orders.
pub struct Load {
    client: OrderQueryServiceClient<Channel>,
    ids: Vec<String>,
}

impl Load {
    /// Asks the service about some of these orders.
    pub async fn of(read: &ReadSide, ids: &[String]) -> anyhow::Result<Self> {
        let client = OrderQueryServiceClient::new(read.connect().await?);
        let step = (ids.len() / 10_000).max(1);
        Ok(Self { client, ids: ids.iter().step_by(step).cloned().collect() })
    }

    /// Asks while something else is done; how long the answers took, and what came of it.
    pub async fn during<T>(&self, other: impl Future<Output = T>) -> anyhow::Result<(Latencies, T)> {
        let mut latencies = Latencies::default();
        let mut other = std::pin::pin!(other);
        let mut pace = interval(PACE);
        for (number, order_id) in self.ids.iter().cycle().enumerate() {
            tokio::select! {
                done = &mut other => return Ok((latencies, done)),
                _ = pace.tick() => {}
            }
            let ask = async {
                let begun = Instant::now();
                let mut client = self.client.clone();
                if number % 2 == 0 {
                    let request = GetOrderRequest { order_id: order_id.clone(), ..Default::default() };
                    client.get_order(request).await?;
                } else {
                    client.list_orders(ListOrdersRequest { page_size: 50, ..Default::default() }).await?;
                }
                anyhow::Ok(begun.elapsed())
            };
            let mut ask = std::pin::pin!(ask);
            tokio::select! {
                took = &mut ask => latencies.add(took?),
                done = &mut other => return Ok((latencies, done)),
            }
        }
        unreachable!("the orders have no end")
    }
}
