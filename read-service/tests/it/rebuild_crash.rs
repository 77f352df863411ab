//! The service killed at every point of a rebuild: another copy goes on, or ends it with the truth.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use local::testing::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use proto::v1::rebuild::State;
use proto::v1::{CancelRebuildRequest, GetRebuildRequest, Rebuild, StartRebuildRequest};
use read_service::projection::Orders;
use serde_json::Value;
use tokio::process::Child;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::support::feed::ScriptedFeed;
use crate::support::{History, Search, added, created, serve};

const ROUNDS: usize = 5;
const ORDERS: usize = 30;
/// Longest wait for anything: a copy that died counts as gone after 8 seconds.
const PATIENCE: Duration = Duration::from_secs(45);

/// `read-service serve` as a process of its own; killed when dropped.
struct Copy {
    process: Child,
    channel: Channel,
}

impl Copy {
    async fn start(search: &Search, feed: &ScriptedFeed, crash_at: Option<&str>) -> Self {
        let port = local::find::free_port().unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = serve(search, feed);
        command.arg(format!("--listen={listen}")).arg("--rebuild-grace-seconds=0");
        if let Some(point) = crash_at {
            command.env("CRASH_AT", point);
        }
        let process = command.spawn().unwrap();
        let endpoint = Channel::from_shared(format!("http://{listen}")).unwrap();
        let channel = until(PATIENCE, "it listens", async || endpoint.connect().await.ok()).await;
        Self { process, channel }
    }

    /// SIGTERM: it leaves its slices to others at once.
    async fn leave(mut self) {
        let id = i32::try_from(self.process.id().unwrap()).unwrap();
        kill(Pid::from_raw(id), Signal::SIGTERM).unwrap();
        assert!(timeout(PATIENCE, self.process.wait()).await.expect("it ends").unwrap().success());
    }

    async fn rebuild(&self, request_id: &str) -> Option<Rebuild> {
        let mut admin = ProjectionAdminServiceClient::new(self.channel.clone());
        let request_id = request_id.to_owned();
        let request = StartRebuildRequest { projection: "orders".into(), request_id, ..Default::default() };
        let started = admin.start_rebuild(request).await.ok()?.into_inner().rebuild?;
        let request = GetRebuildRequest { rebuild_id: started.rebuild_id };
        admin.get_rebuild(request).await.ok()?.into_inner().rebuild
    }
}

/// Kills a copy five times at this point of a rebuild; each time another one ends it.
async fn killed_at(point: &str) {
    let search = Search::start(&format!("crash-{}", point.replace(['.', ':'], "-"))).await;
    let mut history = History::default();
    let keys: Vec<_> = (0..ORDERS).map(|number| format!("order-{number:02}")).collect();
    for key in &keys {
        history.order(key, created(key, "R"));
    }
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.batch = 1_000);
    for round in 1..=ROUNDS {
        let request_id = format!("round-{round}");
        let mut doomed = Copy::start(&search, &feed, Some(point)).await;
        until(PATIENCE, "the rebuild begins", async || doomed.rebuild(&request_id).await).await;
        timeout(PATIENCE, doomed.process.wait())
            .await
            .unwrap_or_else(|_| panic!("{point} is passed"))
            .unwrap();
        // The world goes on while nobody works on it.
        for key in &keys {
            history.order(key, added(i32::try_from(round).unwrap(), 1, 100));
        }
        feed.publish(&history);

        let survivor = Copy::start(&search, &feed, None).await;
        let ended = until(PATIENCE, "the rebuild ends", async || {
            survivor.rebuild(&request_id).await.filter(|rebuild| rebuild.end_time.is_some())
        })
        .await;
        assert_eq!(ended.state(), State::Succeeded, "{point}, round {round}: {ended:?}");
        // One index, whole, behind the alias; nothing else is left.
        let live = search.index.live(&search.name("orders")).await.unwrap().unwrap();
        assert_eq!(live.name, ended.target_index);
        until(PATIENCE, "what is left is dropped", async || {
            let all = search.index.own_indices(&search.name("orders-")).await.unwrap();
            (all.len() == 1 && all[0].name == live.name).then_some(())
        })
        .await;
        let version = i64::try_from(round).unwrap() + 1;
        for key in &keys {
            until(PATIENCE, "every order is up to date", async || {
                let found = search.index.get::<Value>(&search.name("orders"), key).await.unwrap().unwrap();
                let expected = serde_json::to_value(history.folded::<Orders>(key)).unwrap();
                let is = |field: &str| found.source[field] == expected[field];
                let whole = expected.as_object().unwrap().keys().all(|field| is(field));
                (found.version == version && whole).then_some(())
            })
            .await;
        }
        survivor.leave().await;
    }
}

#[tokio::test]
async fn killed_at_any_point_a_rebuild_ends_with_the_truth() {
    let points =
        ["rebuild.created", "rebuild.chunk", "rebuild.switching", "rebuild.switched", "rebuild.dropping"];
    futures_util::future::join_all(points.map(killed_at)).await;
}

#[tokio::test]
async fn a_wish_that_comes_after_the_switch_is_not_told_as_done() {
    let search = Search::start("crash-wish").await;
    let mut history = History::default();
    history.order("order-1", created("order-1", "R"));
    let feed = ScriptedFeed::start(&history).await;
    let mut doomed = Copy::start(&search, &feed, Some("rebuild.switched")).await;
    let begun = until(PATIENCE, "the rebuild begins", async || doomed.rebuild("wish").await).await;
    timeout(PATIENCE, doomed.process.wait()).await.expect("the switch is passed").unwrap();

    // Its worker counts as alive for some seconds: nobody goes on before the wish is stored.
    let survivor = Copy::start(&search, &feed, None).await;
    let cancel = CancelRebuildRequest { rebuild_id: begun.rebuild_id };
    let told =
        ProjectionAdminServiceClient::new(survivor.channel.clone()).cancel_rebuild(cancel).await.unwrap();
    assert_eq!(told.into_inner().rebuild.unwrap().state(), State::Verifying);
    let ended = until(PATIENCE, "the rebuild ends", async || {
        survivor.rebuild("wish").await.filter(|rebuild| rebuild.end_time.is_some())
    })
    .await;
    assert_eq!(ended.state(), State::Succeeded, "{ended:?}");
    let live = search.index.live(&search.name("orders")).await.unwrap().unwrap();
    assert_eq!(live.name, ended.target_index);
    survivor.leave().await;
}
