//! Readers with tokens at a copy that stores nothing itself: what other copies store is found in Elasticsearch.

use std::sync::atomic::{AtomicUsize, Ordering};

use proto::token::ConsistencyToken;
use proto::v1::StreamCategory;
use read_service::consistency::{Consistency, OnStale, Read, Versions, Wanted};
use read_service::index::Bulk;
use read_service::projection::{CustomerDocument, Customers, Projection as _};
use read_service::projector::Progress;
use shared::clock::Clock;
use tokio::time::{Instant, interval};

use crate::support::{DEADLINE, Search};

/// Time between two readers who come: shorter than any pause between two looks at all who wait.
const OFTEN: std::time::Duration = std::time::Duration::from_millis(5);

fn wanted(key: &str) -> Wanted {
    let (category, key) = (StreamCategory::Customer, key.to_owned());
    let tokens = vec![ConsistencyToken { category, key, version: 1 }];
    Wanted { tokens, on_stale: OnStale::Wait, until: Instant::now() + DEADLINE }
}

async fn store(search: &Search, customer_id: &str) {
    let customer = CustomerDocument {
        customer_id: customer_id.to_owned(),
        version: 1,
        name: "Ada".to_owned(),
        registered_at: 0,
        updated_at: 0,
    };
    let mut bulk = Bulk::default();
    bulk.index(customer_id, 1, &customer, "");
    search.index.bulk(&search.name("customers-v1-1"), &bulk.seal()).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_is_looked_after_however_many_come() {
    let search = Search::start("waiters").await;
    let alias = search.name("customers");
    search.index.ensure(&alias, &search.name("customers-v1-1"), Customers::MAPPING).await.unwrap();
    store(&search, "here").await;
    let versions = |name: &'static str| {
        let progress = Progress::new(name, search.index.clone(), search.name(name), Clock::system());
        Versions::new(search.index.clone(), search.name(name), progress)
    };
    let consistency = Consistency::new(versions("orders"), versions("customers"), versions("products"));

    let answered = AtomicUsize::new(0);
    let others = async {
        let mut often = interval(OFTEN);
        loop {
            often.tick().await;
            assert_eq!(consistency.reach(&wanted("here"), Read::ById).await, Ok(true));
            // Another copy stores what the patient one waits for.
            if answered.fetch_add(1, Ordering::Relaxed) == 20 {
                store(&search, "late").await;
            }
        }
    };
    let patient = wanted("late");
    tokio::select! {
        reached = consistency.reach(&patient, Read::ById) => assert_eq!(reached, Ok(true)),
        () = others => {}
    }
    assert!(answered.load(Ordering::Relaxed) >= 20, "it came too late, and was waited for");
}
