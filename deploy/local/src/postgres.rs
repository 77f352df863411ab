//! A private PostgreSQL cluster on 127.0.0.1: made once, started with durable settings, asked for databases.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep, timeout_at};

use crate::find::PostgresBinaries;
use crate::process::Process;
use crate::run::{Program, Run};
use crate::user::server_folder;

/// How long a start may take; recovery after a crash is part of it.
const START_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// A cluster and how it is run.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The programs to run it with.
    pub binaries: PostgresBinaries,
    /// Holds the data; made where it does not exist.
    pub data: PathBuf,
    /// Takes the logs.
    pub logs: PathBuf,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// The data is thrown away at the end of the run: made without waiting for the disk, ended without a checkpoint.
    /// Commits are as durable as ever.
    pub short_lived: bool,
}

impl Cluster {
    /// Makes the cluster where there is none, starts it and waits until it answers.
    ///
    /// # Errors
    /// Where the cluster cannot be made, the server ends or does not answer within a minute.
    pub async fn start(&self, run: &Run) -> anyhow::Result<Process> {
        if !self.data.exists() {
            self.make(run).await?;
        }
        let mut server = run.start(&self.server())?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            tokio::select! {
                answered = connect(self.port, "postgres") => match answered {
                    Ok(connection) => {
                        connection.close().await.ok();
                        return Ok(server);
                    }
                    Err(error) if Instant::now() > deadline => {
                        return Err(error.context(format!("PostgreSQL does not answer on 127.0.0.1:{}", self.port)));
                    }
                    Err(_) => sleep(POLL).await,
                },
                error = server.crashed() => return Err(error),
            }
        }
    }

    /// Makes the cluster beside its place, so that it appears there whole.
    async fn make(&self, run: &Run) -> anyhow::Result<()> {
        let partial = self.data.with_extension("partial");
        let context = || format!("cannot make the cluster {}", self.data.display());
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(context)?;
        }
        server_folder(&partial)?;
        run.start(&self.initdb(&partial))?.finished().await?;
        fs::rename(&partial, &self.data).with_context(context)
    }

    fn initdb(&self, data: &Path) -> Program {
        let mut arguments: Vec<OsString> =
            ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
                .map(OsString::from)
                .into();
        if self.short_lived {
            arguments.push("--no-sync".into());
        }
        arguments.extend(["--pgdata".into(), data.into()]);
        let log = self.logs.join("initdb.log");
        let initdb = self.program("initdb", &self.binaries.initdb, arguments, log, Signal::SIGTERM);
        Program { folder: data.to_owned(), ..initdb }
    }

    fn server(&self) -> Program {
        let port = format!("port={}", self.port);
        let settings = [
            port.as_str(),
            "listen_addresses=127.0.0.1",
            // The path of a socket may not pass 107 bytes, temporary folders do.
            "unix_socket_directories=",
            "max_connections=300",
            "shared_buffers=128MB",
            "fsync=on",
            "synchronous_commit=on",
            "full_page_writes=on",
        ];
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.data.clone().into_os_string()];
        arguments.extend(settings.iter().flat_map(|setting| ["-c".into(), OsString::from(*setting)]));
        // SIGINT ends sessions and writes a checkpoint, SIGQUIT leaves that to the next start.
        let stop = if self.short_lived { Signal::SIGQUIT } else { Signal::SIGINT };
        self.program("postgres", &self.binaries.postgres, arguments, self.logs.join("postgres.log"), stop)
    }

    fn program(
        &self,
        name: &'static str,
        path: &Path,
        arguments: Vec<OsString>,
        log: PathBuf,
        stop: Signal,
    ) -> Program {
        Program {
            name,
            path: path.to_owned(),
            arguments,
            environment: vec![("LC_ALL", "C".into())],
            log,
            folder: self.data.clone(),
            server: true,
            stage: 3,
            stop,
        }
    }
}

/// The address of a database of the private cluster on this port.
#[must_use]
pub fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

/// Makes a database; with `keep_existing` one that is there already is kept.
///
/// # Errors
/// Where the name is not made of lower-case letters, digits and '_', or the server refuses.
pub async fn create_database(port: u16, database: &str, keep_existing: bool) -> anyhow::Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if database.is_empty() || !database.bytes().all(plain) {
        bail!("not a name for a database: {database:?}");
    }
    let mut connection = connect(port, "postgres").await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(database)
        .fetch_one(&mut connection)
        .await
        .context("cannot list the databases")?;
    if !(exists && keep_existing) {
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {database}")))
            .execute(&mut connection)
            .await
            .with_context(|| format!("cannot make the database {database}"))?;
    }
    connection.close().await.ok();
    Ok(())
}

async fn connect(port: u16, database: &str) -> anyhow::Result<PgConnection> {
    let deadline = Instant::now() + Duration::from_secs(5);
    timeout_at(deadline, PgConnection::connect(&url(port, database)))
        .await
        .with_context(|| format!("PostgreSQL on 127.0.0.1:{port} does not answer"))?
        .with_context(|| format!("cannot connect to PostgreSQL on 127.0.0.1:{port}"))
}
