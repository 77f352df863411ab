//! The private servers of a test run: they start, serve every test its own database, and end with the run.

use sqlx::{Connection as _, PgConnection};

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, two) = tokio::try_join!(local::testing::database(), local::testing::database()).unwrap();
    assert_ne!(one.url, two.url);
    let mut connection = PgConnection::connect(&one.url).await.unwrap();
    sqlx::query("CREATE TABLE note (text TEXT)").execute(&mut connection).await.unwrap();
    let mut other = PgConnection::connect(&two.url).await.unwrap();
    sqlx::query("SELECT text FROM note").execute(&mut other).await.expect_err("databases are not shared");
}

#[tokio::test]
async fn commits_are_durable() {
    let database = local::testing::database().await.unwrap();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(value, "on", "{setting}");
    }
}

#[tokio::test]
async fn elasticsearch_answers_in_its_pinned_version() {
    let url = local::testing::elasticsearch().await.unwrap();
    assert_eq!(url, local::testing::elasticsearch().await.unwrap());
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    let (status, body) = local::http::get(address, "/_nodes?filter_path=nodes.*.version").await.unwrap();
    assert_eq!(status, 200);
    assert!(body.contains(&format!("\"version\":\"{}\"", local::distribution::VERSION)), "{body}");
}

#[test]
fn prefixes_are_unique_and_fit_for_index_names() {
    let one = local::testing::unique_prefix("Order_Flow");
    assert!(one.starts_with("t-order-flow-") && one.ends_with('-'), "{one}");
    assert_ne!(one, local::testing::unique_prefix("Order_Flow"));
}
