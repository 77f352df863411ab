//! Where `cargo up` keeps things: `.local` in the workspace, and the servers' data where the servers can reach it.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::Uid;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::process::{Identity, group_alive};
use crate::run::Run;
use crate::user::reachable;

/// How long the servers of a run that was killed may take to end.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// The folders of one workspace's stack.
#[derive(Clone, Debug)]
pub struct Home {
    /// Root of the workspace.
    pub workspace: PathBuf,
    /// State, logs and, where the servers can reach it, data.
    pub state: PathBuf,
    /// The servers' data.
    pub data: PathBuf,
}

/// Held while a stack runs, so that there is only one.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "holds the lock")] File);

impl Home {
    /// The folders for the workspace at `root`.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let state = root.join(".local");
        let data = if reachable(root) {
            state.clone()
        } else {
            let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, root.as_os_str().as_bytes()).simple().to_string();
            PathBuf::from(format!("/var/tmp/order-pair-{}", &id[..16]))
        };
        Self { workspace: root.to_owned(), state, data }
    }

    /// The workspace that this program was built from.
    #[must_use]
    pub fn of_this_workspace() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::of(package.ancestors().nth(2).unwrap_or(package))
    }

    /// Folder of the logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    /// The secret that authenticates page tokens: made once, so that tokens outlive a restart.
    ///
    /// # Errors
    /// Where it can be neither read nor written.
    pub fn page_token_key(&self) -> anyhow::Result<String> {
        let path = self.state.join("page-token-key");
        let context = || format!("cannot keep {}", path.display());
        if !path.exists() {
            let key = format!("{}{}", Uuid::now_v7().simple(), Uuid::now_v7().simple());
            let mut file =
                File::options().write(true).create_new(true).mode(0o600).open(&path).with_context(context)?;
            file.write_all(key.as_bytes()).with_context(context)?;
        }
        fs::read_to_string(&path).with_context(context)
    }

    /// Takes the stack for this process.
    ///
    /// # Errors
    /// Where another process runs it, or the folder cannot be made.
    pub fn claim(&self) -> anyhow::Result<Claim> {
        let context = || format!("cannot write to {}", self.state.display());
        fs::create_dir_all(&self.state).with_context(context)?;
        if fs::symlink_metadata(&self.data).is_ok() && !self.owns_data() {
            bail!("{} belongs to somebody else: remove it", self.data.display());
        }
        let mut options = File::options();
        let mut lock =
            options.read(true).write(true).create(true).truncate(false).open(self.state.join("lock"));
        let lock = lock.as_mut().map_err(|error| anyhow::anyhow!("{error}")).with_context(context)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                lock.read_to_string(&mut process).with_context(context)?;
                bail!(
                    "the stack is running already, as process {}: end it with Ctrl-C first",
                    process.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        lock.set_len(0).with_context(context)?;
        write!(lock, "{}", std::process::id()).with_context(context)?;
        Ok(Claim(lock.try_clone().with_context(context)?))
    }

    /// The run folder of this process.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn run_folder(&self) -> anyhow::Result<PathBuf> {
        let Identity { id, start } = Identity::own()?;
        Ok(self.state.join(format!("run-{id}-{start}")))
    }

    /// Waits until what a killed run left behind has ended, and removes its folders.
    ///
    /// # Errors
    /// Where something still runs after half a minute.
    pub async fn clear_leftovers(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LEFTOVER_LIMIT;
        for folder in self.run_folders()? {
            while Run::registered(&folder).into_iter().any(group_alive) {
                if Instant::now() > deadline {
                    bail!("servers of an earlier run still run, see {}", folder.display());
                }
                sleep(POLL).await;
            }
            // The watchdog of that run may be faster.
            fs::remove_dir_all(&folder).ok();
        }
        Ok(())
    }

    fn run_folders(&self) -> anyhow::Result<Vec<PathBuf>> {
        let context = || format!("cannot read {}", self.state.display());
        let entries = fs::read_dir(&self.state).with_context(context)?.flatten();
        Ok(entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("run-"))
            .map(|entry| entry.path())
            .collect())
    }

    /// Removes everything; gives the folders that were there.
    ///
    /// # Errors
    /// Where the stack is running, or a folder cannot be removed.
    pub async fn remove(&self) -> anyhow::Result<Vec<PathBuf>> {
        if !self.state.exists() && !self.owns_data() {
            return Ok(Vec::new());
        }
        let claim = self.claim()?;
        self.clear_leftovers().await?;
        let mut removed = Vec::new();
        for folder in [&self.data, &self.state] {
            if folder.exists() && (folder == &self.state || self.owns_data()) {
                fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
                removed.push(folder.clone());
            }
        }
        drop(claim);
        Ok(removed)
    }

    /// Whether the data folder is there and ours: anyone may make a folder in `/var/tmp`.
    fn owns_data(&self) -> bool {
        fs::symlink_metadata(&self.data)
            .is_ok_and(|data| data.is_dir() && data.uid() == Uid::effective().as_raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_running_stack_is_neither_started_twice_nor_removed() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::of(root.path());
        assert!(home.data == home.state || home.data.starts_with("/var/tmp"));
        let claim = home.claim().unwrap();
        let expected = format!(
            "the stack is running already, as process {}: end it with Ctrl-C first",
            std::process::id()
        );
        assert_eq!(home.claim().unwrap_err().to_string(), expected);
        assert_eq!(home.remove().await.unwrap_err().to_string(), expected);
        drop(claim);
        assert_eq!(home.remove().await.unwrap(), std::slice::from_ref(&home.state));
        assert_eq!(home.remove().await.unwrap(), Vec::<PathBuf>::new());
    }
}
