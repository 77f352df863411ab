//! A private Elasticsearch node on 127.0.0.1 from the unpacked distribution, with its own configuration and data.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::http;
use crate::process::Process;
use crate::run::{Program, Run};
use crate::user::{give_to_server, server_folder};

/// How long a start may take; seconds on a quiet machine, more beside compilers.
const START_LIMIT: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(100);

/// A node and how it is run.
#[derive(Clone, Debug)]
pub struct Node {
    /// The unpacked distribution.
    pub home: PathBuf,
    /// The Java that runs it.
    pub java_home: PathBuf,
    /// Holds `config`, `data`, `tmp` and `log`; made where it does not exist.
    pub folder: PathBuf,
    /// Port on 127.0.0.1 for HTTP.
    pub port: u16,
    /// Port on 127.0.0.1 that a node reserves for other nodes; there are none.
    pub transport_port: u16,
    /// Size of the Java heap in MiB.
    pub heap_mib: u32,
    /// The data is thrown away at the end of the run, so the node need not end in order.
    pub short_lived: bool,
    /// Java compiles and collects in the simplest way: half the CPU time of a start, slower work afterwards.
    pub quick_start: bool,
}

impl Node {
    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the node and waits until its health is green.
    ///
    /// # Errors
    /// Where its folders cannot be made, the node ends, or it is not ready within three minutes.
    pub async fn start(&self, run: &Run) -> anyhow::Result<Process> {
        for folder in ["", "config", "data", "log", "tmp"] {
            server_folder(&self.folder.join(folder))?;
        }
        self.configure().context("cannot write the configuration of Elasticsearch")?;
        let mut server = run.start(&self.program())?;
        let deadline = Instant::now() + START_LIMIT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        loop {
            tokio::select! {
                health = http::get(address, "/_cluster/health?wait_for_status=green&timeout=1s") => {
                    if health.is_ok_and(|(status, _)| status == 200) {
                        return Ok(server);
                    }
                    if Instant::now() > deadline {
                        bail!("Elasticsearch is not ready after {} s; see {}", START_LIMIT.as_secs(), self.folder.join("log").display());
                    }
                    sleep(POLL).await;
                }
                error = server.crashed() => return Err(error),
            }
        }
    }

    /// The distribution's configuration with our settings, in a folder that the node may write to.
    fn configure(&self) -> anyhow::Result<()> {
        let target = self.folder.join("config");
        for entry in fs::read_dir(self.home.join("config"))? {
            let file = entry?.path();
            if let (true, Some(name)) = (file.is_file(), file.file_name()) {
                fs::copy(&file, target.join(name))?;
                give_to_server(&target.join(name))?;
            }
        }
        let file = target.join("elasticsearch.yml");
        fs::write(&file, self.settings())?;
        give_to_server(&file)
    }

    fn settings(&self) -> String {
        let path = |name: &str| serde_json::Value::from(self.folder.join(name).display().to_string());
        format!(
            "cluster.name: order-pair\n\
             node.name: local\n\
             discovery.type: single-node\n\
             network.host: 127.0.0.1\n\
             http.port: {port}\n\
             transport.port: {transport_port}\n\
             path.data: {data}\n\
             path.logs: {log}\n\
             xpack.security.enabled: false\n\
             action.auto_create_index: false\n\
             node.store.allow_mmap: false\n\
             cluster.routing.allocation.disk.threshold_enabled: false\n",
            port = self.port,
            transport_port = self.transport_port,
            data = path("data"),
            log = path("log"),
        )
    }

    fn program(&self) -> Program {
        let heap = self.heap_mib;
        let mut options = format!("-Xms{heap}m -Xmx{heap}m");
        if self.quick_start {
            options.push_str(" -XX:TieredStopAtLevel=1 -XX:-UseG1GC -XX:+UseSerialGC");
        }
        Program {
            name: "elasticsearch",
            path: self.home.join("bin/elasticsearch"),
            arguments: Vec::new(),
            environment: vec![
                ("ES_JAVA_HOME", self.java_home.clone().into()),
                ("ES_JAVA_OPTS", options.into()),
                ("ES_PATH_CONF", self.folder.join("config").into()),
                ("ES_TMPDIR", self.folder.join("tmp").into()),
            ],
            log: self.folder.join("elasticsearch.log"),
            folder: self.folder.clone(),
            server: true,
            stage: 3,
            stop: if self.short_lived { Signal::SIGKILL } else { Signal::SIGTERM },
        }
    }
}
