//! Finds what the machine must bring: PostgreSQL, Java, Maven, and free ports. What is missing is named with its package.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Below the ports that Linux gives to outgoing connections, 32,768 to 60,999 by default.
const SERVER_PORTS: Range<u16> = 20_000..32_768;
const ATTEMPTS: usize = 100;
/// Longer than the minute for which Linux keeps the port of a connection that has ended.
const CONNECTION_LIMIT: Duration = Duration::from_secs(65);
const POLL: Duration = Duration::from_millis(200);

/// Oldest Java that Elasticsearch 8 runs on.
const OLDEST_JAVA: u32 = 17;

/// The caller's `PATH`.
#[must_use]
pub fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// The first executable file of this name in the folders of `path`.
#[must_use]
pub fn program(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| executable(file))
}

fn executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The two programs of PostgreSQL that make and run a cluster.
#[derive(Clone, Debug)]
pub struct PostgresBinaries {
    /// Makes a cluster.
    pub initdb: PathBuf,
    /// Runs it.
    pub postgres: PathBuf,
}

/// PostgreSQL's programs: on `path`, where `pg_config` says, or where Debian keeps them (the newest version).
///
/// # Errors
/// Where there are none, with the package to install.
pub fn postgres(path: &OsStr) -> anyhow::Result<PostgresBinaries> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    if let Some(pg_config) = program("pg_config", path)
        && let Ok(output) = Command::new(pg_config).arg("--bindir").output()
    {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if !path.is_empty() {
        folders.extend(debian_folders());
    }
    folders
        .into_iter()
        .map(|folder| PostgresBinaries { initdb: folder.join("initdb"), postgres: folder.join("postgres") })
        .find(|binaries| executable(&binaries.initdb) && executable(&binaries.postgres))
        .context("PostgreSQL is missing: install the package postgresql (its programs initdb and postgres are needed), or set DATABASE_URL")
}

/// `/usr/lib/postgresql/<version>/bin`, newest first.
fn debian_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

/// The home of a Java that Elasticsearch runs on: that of `java_home`, else of the `java` on `path`.
///
/// # Errors
/// Where there is none or it is too old, with the package to install.
pub fn java_home(java_home: Option<&OsStr>, path: &OsStr) -> anyhow::Result<PathBuf> {
    const ADVICE: &str =
        "install the package openjdk-17-jre-headless (Java 17 or later), or set ELASTICSEARCH_URL";
    let java = java_home
        .map(|home| Path::new(home).join("bin/java"))
        .filter(|file| executable(file))
        .or_else(|| program("java", path))
        .with_context(|| format!("Java is missing: {ADVICE}"))?;
    let output = Command::new(&java)
        .args(["-XshowSettings:properties", "-version"])
        .output()
        .with_context(|| format!("{} cannot be run: {ADVICE}", java.display()))?;
    let settings = String::from_utf8_lossy(&output.stderr);
    let setting = |name: &str| {
        settings
            .lines()
            .filter_map(|line| line.trim().split_once(" = "))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let version = setting("java.specification.version").unwrap_or("unknown");
    if version.parse::<u32>().map_or(true, |version| version < OLDEST_JAVA) {
        bail!("{} is of version {version}, too old for Elasticsearch: {ADVICE}", java.display());
    }
    setting("java.home")
        .map(PathBuf::from)
        .with_context(|| format!("{} does not name its home: {ADVICE}", java.display()))
}

/// Maven, which fetches Elasticsearch.
///
/// # Errors
/// Where it is missing, with the package to install.
pub fn maven(path: &OsStr) -> anyhow::Result<PathBuf> {
    program("mvn", path)
        .context("Maven is missing: install the package maven (it fetches Elasticsearch once), or set ELASTICSEARCH_URL")
}

/// A TCP port of 127.0.0.1 that was free a moment ago, and that no outgoing connection will take before a server does.
///
/// # Errors
/// Where none was found.
pub fn free_port() -> anyhow::Result<u16> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let tried = (0..ATTEMPTS).map(|_| rand::random_range(SERVER_PORTS));
    tried.into_iter().find(free).context("no free port on 127.0.0.1")
}

/// Refuses a port that somebody else listens on.
///
/// A port that only an outgoing connection of this machine holds, or held a minute ago, is waited for: the ports of the
/// services lie among those that the system gives to outgoing connections. `report` is told so.
///
/// # Errors
/// Where the port is taken; the sentence names `purpose` and `remedy`.
pub async fn require_free(
    address: SocketAddr,
    purpose: &str,
    remedy: &str,
    report: impl Fn(&str),
) -> anyhow::Result<()> {
    let deadline = Instant::now() + CONNECTION_LIMIT;
    let mut reported = false;
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != ErrorKind::AddrInUse => {
                return Err(error).with_context(|| format!("{purpose} cannot listen on {address}"));
            }
            Err(_) if TcpStream::connect(address).await.is_ok() || Instant::now() > deadline => {
                bail!("port {} on {} is taken, {purpose} needs it: {remedy}", address.port(), address.ip())
            }
            Err(_) => {
                if !reported {
                    report(&format!("waiting for port {}, held by an outgoing connection", address.port()));
                    reported = true;
                }
                sleep(POLL).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_an_outgoing_connection_holds_is_waited_for() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connection = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        let address = connection.local_addr().unwrap();
        let end = async {
            // The side that closes first keeps the port for a minute: the server closes first.
            drop(server.accept().unwrap());
            connection.readable().await.unwrap();
            drop(connection);
        };
        let (free, ()) = tokio::join!(require_free(address, "a service", "wait", |_| ()), end);
        free.unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let nowhere = OsStr::new("");
        let java = java_home(None, nowhere).unwrap_err().to_string();
        assert!(java.starts_with("Java is missing: install the package openjdk-17-jre-headless"), "{java}");
        let maven = maven(nowhere).unwrap_err().to_string();
        assert!(maven.starts_with("Maven is missing: install the package maven"), "{maven}");
        let postgres = postgres(nowhere).unwrap_err().to_string();
        assert!(postgres.starts_with("PostgreSQL is missing: install the package postgresql"), "{postgres}");
    }

    #[test]
    fn an_old_java_is_refused_with_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let java = folder.path().join("java");
        let script = "#!/bin/sh\necho '    java.specification.version = 11' >&2\necho '    java.home = /opt/java' >&2\n";
        std::fs::write(&java, script).unwrap();
        std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = java_home(None, folder.path().as_os_str()).unwrap_err().to_string();
        assert!(error.contains("is of version 11, too old for Elasticsearch"), "{error}");
    }

    #[tokio::test]
    async fn a_taken_port_is_refused_in_one_sentence() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = require_free(address, "the write service", "end the other program", |_| ())
            .await
            .unwrap_err()
            .to_string();
        let port = address.port();
        assert_eq!(
            error,
            format!("port {port} on 127.0.0.1 is taken, the write service needs it: end the other program")
        );
    }
}
