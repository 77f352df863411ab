//! The slow audit that nobody asked for, as metrics show it.

use std::net::{Ipv4Addr, SocketAddr};

use elasticsearch::http::Method;
use local::testing::until;
use proto::v1::AuditProjectionRequest;
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use read_service::projection::Orders;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::audit::Hand;
use super::rebuild::sales;
use crate::support::feed::ScriptedFeed;
use crate::support::{DEADLINE, Search, serve};

/// The value of a metric with these labels, as a scraper reads it.
async fn metric(address: SocketAddr, name: &str, labels: &[&str]) -> Option<f64> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let has_all = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    text.lines().find(has_all)?.rsplit(' ').next()?.parse().ok()
}

fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, local::find::free_port().unwrap()))
}

#[tokio::test]
async fn the_slow_audit_finds_what_is_planted_and_a_gauge_says_so() {
    let search = Search::start("audit-slow").await;
    let history = sales(5);
    let feed = ScriptedFeed::start(&history).await;
    let (listen, metrics) = (free_address(), free_address());
    let mut command = serve(&search, &feed);
    command.args(["--audit-period=2", &format!("--listen={listen}"), &format!("--metrics-listen={metrics}")]);
    let _process = command.spawn().unwrap();
    let orders = r#"projection="orders""#;
    let differences = async |kind: &str| {
        let kind = format!("kind=\"{kind}\"");
        metric(metrics, "projection_audit_differences{", &[orders, &kind]).await
    };
    let last_end = async || metric(metrics, "projection_audit_last_end_timestamp_seconds{", &[orders]).await;
    until(DEADLINE, "all is applied", async || {
        (search.index.live(&search.name("orders")).await.ok()??.name == search.name("orders-v1-1")
            && search.index.count(&search.name("orders"), None).await.ok()? == 5)
            .then_some(())
    })
    .await;
    let first = until(DEADLINE, "a pass ends", async || last_end().await.filter(|end| *end > 0.0)).await;
    for kind in ["missing", "behind", "ahead", "different", "orphan"] {
        assert_eq!(differences(kind).await, Some(0.0), "{kind}");
    }

    Hand(&search).plant_each(&history).await;
    for (kind, planted) in
        [("missing", 1.0), ("behind", 1.0), ("ahead", 1.0), ("different", 1.0), ("orphan", 2.0)]
    {
        until(DEADLINE, kind, async || differences(kind).await.filter(|found| *found >= planted)).await;
    }
    until(DEADLINE, "another pass ends", async || last_end().await.filter(|end| *end > first)).await;
    // It repairs nothing by itself.
    assert_eq!(search.document::<Orders>("no-uuid").await.map(|(version, _)| version), Some(7));

    // A person does, and the gauges know at once.
    let channel = tonic::transport::Channel::from_shared(format!("http://{listen}")).unwrap();
    let mut admin = ProjectionAdminServiceClient::new(channel.connect().await.unwrap());
    let request = AuditProjectionRequest { projection: "orders".into(), repair: true, ..Default::default() };
    let mut told = admin.audit_projection(request).await.unwrap().into_inner();
    let mut repaired = 0;
    while let Some(message) = told.message().await.unwrap() {
        repaired += i32::from(message.finding.is_some_and(|finding| finding.repaired));
    }
    assert_eq!(repaired, 6);
    for kind in ["missing", "behind", "ahead", "different", "orphan"] {
        until(DEADLINE, kind, async || differences(kind).await.filter(|found| *found < 0.5)).await;
    }
    // How far a pass is, is stored.
    let record = format!("/{}/_doc/audit:orders", search.name("control"));
    let record = search.raw(Method::Get, &record, None).await;
    assert!(record["_source"]["body"]["last_end"].as_i64() > Some(0), "{record}");
}
