//! Private servers for tests: started once for a whole `cargo test`, by whichever test first needs them.
//!
//! Test binaries share a run folder named after the `cargo` (or `cargo-nextest`) that started them. The watchdog of that
//! run ends the servers and removes the folder as soon as that process is gone. Tests keep out of each other's way by a
//! database of their own and by names with a prefix of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{interval, timeout};
use uuid::Uuid;

use crate::elasticsearch::Node;
use crate::postgres::Cluster;
use crate::process::{Identity, Process, crash_report};
use crate::run::Run;
use crate::{distribution, find, postgres};

/// Enough for tests: the whole node then takes 0.8 GB.
const HEAP_MIB: u32 = 512;
/// Time between two looks at what a test waits for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An empty database on the private PostgreSQL of this test run.
#[derive(Clone, Debug)]
pub struct TestDatabase {
    /// Where to connect, as the owner of everything.
    pub url: String,
}

/// A fresh, empty database on the private PostgreSQL of this test run.
///
/// # Errors
/// Where PostgreSQL is missing or cannot be started.
pub async fn database() -> anyhow::Result<TestDatabase> {
    let port = shared("postgres", start_postgres).await?;
    let name = format!("t_{}", Uuid::now_v7().simple());
    postgres::create_database(port, &name, false).await?;
    Ok(TestDatabase { url: postgres::url(port, &name) })
}

/// The base URL of the private Elasticsearch of this test run. All tests share it: see [`unique_prefix`].
///
/// # Errors
/// Where Java or Maven are missing, or Elasticsearch cannot be fetched or started.
pub async fn elasticsearch() -> anyhow::Result<String> {
    let port = shared("elasticsearch", start_elasticsearch).await?;
    Ok(format!("http://127.0.0.1:{port}"))
}

/// A prefix for index names that no other test has: `t-<name>-<random>-`.
#[must_use]
pub fn unique_prefix(name: &str) -> String {
    let id = Uuid::now_v7().simple().to_string();
    format!("t-{}-{}-", name.to_ascii_lowercase().replace('_', "-"), &id[20..])
}

/// Looks again and again until `look` finds what it looks for; gives that.
///
/// # Panics
/// Where it has not found it after `limit`.
pub async fn until<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looked = async {
        let mut looks = interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    timeout(limit, looked).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A run of a test's own, for what the test starts and kills: what is left of it ends with the test's process.
///
/// # Errors
/// Where its folder cannot be made or its watchdog cannot be started.
pub fn private_run() -> anyhow::Result<Run> {
    Run::temporary(&format!("order-pair-test-own-{}", Uuid::now_v7().simple()), Identity::own()?)
}

/// A PostgreSQL cluster in the folder of this run, not yet started.
///
/// # Errors
/// Where PostgreSQL is missing or no port is free.
pub fn cluster(run: &Run) -> anyhow::Result<Cluster> {
    Ok(Cluster {
        binaries: find::postgres(&find::search_path())?,
        data: run.folder().join("postgres"),
        logs: run.folder().join("log"),
        port: find::free_port()?,
        short_lived: true,
    })
}

/// An Elasticsearch node in the folder of this run, not yet started.
///
/// # Errors
/// Where Java or Maven are missing, or Elasticsearch cannot be fetched.
pub async fn node(run: &Run, heap_mib: u32) -> anyhow::Result<Node> {
    Ok(Node {
        java_home: find::java_home(std::env::var_os("JAVA_HOME").as_deref(), &find::search_path())?,
        home: distribution::home(run, |_| ()).await?,
        folder: run.folder().join("elasticsearch"),
        port: find::free_port()?,
        transport_port: find::free_port()?,
        heap_mib,
        short_lived: true,
        quick_start: false,
    })
}

/// The port of a server of this test run, started by the first caller; the others wait for it.
async fn shared<S>(name: &'static str, start: impl FnOnce(Run) -> S) -> anyhow::Result<u16>
where
    S: Future<Output = anyhow::Result<(u16, Process)>>,
{
    static WATCHED: LazyLock<Result<Identity, String>> =
        LazyLock::new(|| watched().map_err(|error| format!("{error:#}")));
    let watched = *WATCHED.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let (run, _lock) = tokio::task::spawn_blocking(move || {
        let run = Run::temporary("order-pair-test", watched)?;
        let lock = File::create(run.folder().join(format!("{name}.lock"))).context("cannot make a lock")?;
        lock.lock().context("cannot take a lock")?;
        anyhow::Ok((run, lock))
    })
    .await??;
    let state = run.folder().join(format!("{name}.state"));
    if let Some((port, server, log)) = read_state(&state) {
        return if server.alive() { Ok(port) } else { Err(crash_report(name, None, &log)) };
    }
    let (port, server) = start(run).await?;
    let identity = server.identity().with_context(|| format!("{name} ended just after its start"))?;
    fs::write(&state, format!("{port} {} {} {}", identity.id, identity.start, server.log().display()))
        .with_context(|| format!("cannot write {}", state.display()))?;
    server.leave_to_watchdog();
    Ok(port)
}

fn read_state(file: &Path) -> Option<(u16, Identity, PathBuf)> {
    let text = fs::read_to_string(file).ok()?;
    let mut words = text.splitn(4, ' ');
    let port = words.next()?.parse().ok()?;
    let server = Identity { id: words.next()?.parse().ok()?, start: words.next()?.parse().ok()? };
    Some((port, server, words.next()?.into()))
}

/// The process that this test run lives as long as: `cargo`, or this process where it was started by hand.
fn watched() -> anyhow::Result<Identity> {
    let parent = std::os::unix::process::parent_id();
    let parent_name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let watched = match parent_name.trim() {
        "cargo" | "cargo-nextest" => Identity::of(parent),
        _ => None,
    };
    watched.map_or_else(Identity::own, Ok)
}

async fn start_postgres(run: Run) -> anyhow::Result<(u16, Process)> {
    let cluster = cluster(&run)?;
    Ok((cluster.port, cluster.start(&run).await?))
}

async fn start_elasticsearch(run: Run) -> anyhow::Result<(u16, Process)> {
    let node = node(&run, HEAP_MIB).await?;
    Ok((node.port, node.start(&run).await?))
}
