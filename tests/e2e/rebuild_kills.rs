//! Servers killed at every step of a rebuild: it goes on, queries are answered, and what goes live is the fold of the events.

use futures_util::future::join_all;
use local::testing;
use proto::v1::rebuild::State;
use proto::v1::*;
use read_service::index::Index;
use tokio_util::sync::CancellationToken;

use crate::delivery::assert_documents_equal_folds;
use crate::scene::{ORDERS, Scene, Servers, Victim, kill};
use crate::turnstile::Wanted;
use crate::world::PATIENCE;

/// So that the scan takes two seconds: some four documents at a time.
const THROTTLE: i32 = 30;
/// Those that arrive in the first second, after which it is stored how far the scan is.
const BULKS: usize = 10;

/// How often each server is killed at each step, at least.
const KILLS: usize = 5;

/// Where a rebuild stands when a server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The new index is made, nobody has heard of it.
    Created,
    /// Some of the documents are in it.
    Scanning,
    /// The live index is held, the alias is about to move.
    Switching,
    /// The alias has moved, nobody has heard of it.
    Switched,
    /// The index before is about to be dropped.
    Dropping,
}

const STEPS: [Step; 5] = [Step::Created, Step::Scanning, Step::Switching, Step::Switched, Step::Dropping];

/// The rebuild that is under way.
struct Under {
    id: String,
    source: String,
    target: String,
}

impl Scene {
    /// From now on a rebuild that comes to this step stands there.
    fn hold_at(&self, step: Step, source: &str, target: &str) {
        let wanted = |begins: String, done| Wanted { begins, contains: String::new(), after: 0, done };
        let moves = format!(r#""alias":"{}""#, self.world.index("orders"));
        let aliases = || "POST /_aliases".to_owned();
        self.turnstile.hold(match step {
            Step::Created => wanted(format!("PUT /{target}"), true),
            Step::Scanning => Wanted { after: BULKS, ..wanted(format!("POST /{target}/_bulk"), false) },
            Step::Switching => Wanted { contains: moves, ..wanted(aliases(), false) },
            Step::Switched => Wanted { contains: moves, ..wanted(aliases(), true) },
            Step::Dropping => wanted(format!("DELETE /{source}"), false),
        });
    }

    async fn rebuild(&self, rebuild_id: &str) -> Option<Rebuild> {
        let request = GetRebuildRequest { rebuild_id: rebuild_id.into() };
        self.world.admin().get_rebuild(request).await.ok()?.into_inner().rebuild
    }

    /// Makes sure, at Elasticsearch itself, that it stands there.
    async fn assert_at(&self, step: Step, under: &Under) {
        let index = Index::new(&self.elasticsearch_url).unwrap();
        let all = index.own_indices(&self.world.index("orders-")).await.unwrap();
        assert_eq!(all.len(), 2, "{step:?}: {all:?}");
        let live = index.live(&self.world.index("orders")).await.unwrap().unwrap().name;
        let record = format!("/{}/_doc/rebuild:{}", self.world.index("control"), under.id);
        let kept = self.look(&format!("{record}?filter_path=_source.body.stage")).await;
        let (stage, behind_alias) = match step {
            Step::Created => ("asked", &under.source),
            Step::Scanning => ("scanning", &under.source),
            Step::Switching => ("switching", &under.source),
            Step::Switched => ("switching", &under.target),
            Step::Dropping => ("succeeded", &under.target),
        };
        assert!(kept.contains(&format!(r#""stage":"{stage}""#)), "{step:?}: {kept}");
        assert_eq!(&live, behind_alias, "{step:?}");
        if step == Step::Scanning {
            let done = self.rebuild(&under.id).await.unwrap().streams_done;
            assert!((1..i64::try_from(ORDERS).unwrap()).contains(&done), "{done} streams are done");
        }
    }

    /// Begins a rebuild, which will stand at its first step.
    async fn start_rebuild(&self, round: usize) -> Under {
        // Names are not given twice.
        let [source, target] =
            [round, round + 1].map(|number| self.world.index(&format!("orders-v1-{number}")));
        self.hold_at(Step::Created, &source, &target);
        let request = StartRebuildRequest {
            projection: "orders".into(),
            max_streams_per_second: THROTTLE,
            request_id: format!("round-{round}"),
            ..Default::default()
        };
        let id = testing::until(PATIENCE, "the rebuild before is cleared away", async || {
            let started = self.world.admin().start_rebuild(request.clone()).await.ok()?.into_inner();
            Some(started.rebuild?.rebuild_id)
        })
        .await;
        Under { id, source, target }
    }

    /// It has succeeded, and what is live is the fold of the events.
    async fn assert_rebuilt(&self, under: &Under) {
        let done = self.rebuild(&under.id).await.unwrap();
        assert_eq!((done.state(), &done.target_index), (State::Succeeded, &under.target), "{done:?}");
        // One index, behind the alias; what was before is dropped.
        let index = Index::new(&self.elasticsearch_url).unwrap();
        testing::until(PATIENCE, "what is left is dropped", async || {
            let all = index.own_indices(&self.world.index("orders-")).await.unwrap();
            (all.len() == 1 && all[0].name == under.target).then_some(())
        })
        .await;
        self.world.settle().await;
        let versions = self.versions.lock().unwrap().clone();
        assert_documents_equal_folds(&self.world, versions.len()).await;
        for order in self.world.all_orders(OrderSort::Unspecified, 500).await {
            assert_eq!(order.version, versions[&order.order_id], "what was acknowledged is there");
        }
    }
}

/// The rebuilds of a pair, one after the other from step to step.
struct Walk {
    /// Which rebuild it is, from 1.
    round: usize,
    /// Place of its step.
    at: usize,
    under: Under,
}

impl Walk {
    /// Begins a rebuild, which will stand at its first step.
    async fn begin(scene: &Scene, round: usize) -> Self {
        Self { round, at: 0, under: scene.start_rebuild(round).await }
    }

    fn is_at_last(&self) -> bool {
        self.at + 1 == STEPS.len()
    }

    /// Makes sure that it stands at its step; let go, it will stand at the next.
    async fn stands(&self, scene: &Scene) {
        scene.assert_at(STEPS[self.at], &self.under).await;
        self.hold_next(scene);
    }

    fn hold_next(&self, scene: &Scene) {
        if let Some(next) = STEPS.get(self.at + 1) {
            scene.hold_at(*next, &self.under.source, &self.under.target);
        }
    }

    /// On its way to the next step, or to the first of the next rebuild.
    async fn next(&mut self, scene: &Scene) {
        if self.is_at_last() {
            scene.assert_rebuilt(&self.under).await;
            *self = Self::begin(scene, self.round + 1).await;
        } else {
            self.at += 1;
        }
    }

    /// Passes its step.
    async fn pass(&self, scene: &Scene) {
        scene.turnstile.holds().await;
        self.hold_next(scene);
        scene.turnstile.let_go();
    }

    /// Goes so many steps.
    async fn advance(&mut self, scene: &Scene, steps: usize) {
        for _ in 0..steps {
            self.pass(scene).await;
            self.next(scene).await;
        }
    }

    /// Goes to the end of the rebuild, whose last step it has left or will come to.
    async fn end(mut self, scene: &Scene) {
        while !self.is_at_last() {
            self.next(scene).await;
            self.pass(scene).await;
        }
        scene.assert_rebuilt(&self.under).await;
    }
}

/// Waits until all stand at the same time.
async fn all_stand(scenes: &[Scene]) {
    while !scenes.iter().all(|scene| scene.turnstile.is_held()) {
        join_all(scenes.iter().map(|scene| scene.turnstile.holds())).await;
    }
}

/// Kills it so often while the rebuilds of so many pairs stand at a step, each at another one, and somebody reads.
async fn killed(victim: Victim, pairs: usize, kills: usize) {
    let mut servers = Servers::begin(victim).await;
    let mut scenes = join_all((0..pairs).map(|_| Scene::begin(&servers))).await;
    let over = CancellationToken::new();
    let reading: Vec<_> = scenes.iter().map(|scene| scene.reading(&over)).collect();
    let mut walks = join_all(scenes.iter().enumerate().map(|(number, scene)| async move {
        let mut walk = Walk::begin(scene, 1).await;
        walk.advance(scene, number * STEPS.len() / pairs).await;
        walk
    }))
    .await;
    let mut times = [0; STEPS.len()];
    for number in 0..kills {
        if number > 0 {
            join_all(walks.iter_mut().zip(&scenes).map(|(walk, scene)| walk.next(scene))).await;
        }
        all_stand(&scenes).await;
        for (walk, scene) in walks.iter().zip(&scenes) {
            walk.stands(scene).await;
        }
        for (walk, scene) in walks.iter().zip(&scenes) {
            times[walk.at] += usize::from(scene.turnstile.is_held());
        }
        kill(victim, &mut servers, &mut scenes).await;
        for scene in &scenes {
            scene.go_on().await;
            // What was on its way to Elasticsearch is lost with it, and tried again.
            if victim != Victim::Elasticsearch {
                scene.turnstile.let_go();
            }
        }
    }
    join_all(walks.into_iter().zip(&scenes).map(|(walk, scene)| walk.end(scene))).await;
    assert!(times.iter().all(|times| *times >= KILLS), "{victim:?} was killed {times:?} times");
    over.cancel();
    for reading in reading {
        reading.await.unwrap();
    }
    servers.end();
}

/// Each server is killed so often and more at each step. Elasticsearch takes long to start: three rebuilds stand there whenever it
/// is killed, each at another step.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_killed_at_any_step_a_rebuild_goes_on_and_no_query_fails_without_reason() {
    tokio::join!(
        killed(Victim::WriteService, 1, KILLS * STEPS.len()),
        killed(Victim::Postgres, 1, KILLS * STEPS.len()),
        killed(Victim::Elasticsearch, 3, 2 * STEPS.len()),
    );
}
