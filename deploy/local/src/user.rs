//! Servers refuse root: where the caller is root they run as an unprivileged user, in folders of their own.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, User, chown};

/// The user that servers run as where the caller is root, because they refuse root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl ServerUser {
    /// `nobody` for root; `None` for everyone else, whose servers run as themselves.
    #[must_use]
    pub fn needed() -> Option<Self> {
        Uid::effective().is_root().then(|| match User::from_name("nobody") {
            Ok(Some(user)) => Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() },
            _ => Self { uid: 65534, gid: 65534 },
        })
    }
}

/// Whether servers can reach a folder inside `path`: root's servers need every folder on the way to be open to all.
#[must_use]
pub fn reachable(path: &Path) -> bool {
    let open = |folder: &Path| fs::metadata(folder).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    ServerUser::needed().is_none() || path.ancestors().filter(|folder| folder.exists()).all(open)
}

/// Makes a folder that belongs to the servers' user and is closed to others; an existing one is kept.
///
/// # Errors
/// Where it cannot be made or given away.
pub fn server_folder(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path.parent().unwrap_or(path))
        .and_then(|()| if path.is_dir() { Ok(()) } else { fs::DirBuilder::new().mode(0o700).create(path) })
        .with_context(|| format!("cannot make the folder {}", path.display()))?;
    give_to_server(path)
}

/// Gives a file or folder to the servers' user.
///
/// # Errors
/// Where the operating system refuses.
pub fn give_to_server(path: &Path) -> anyhow::Result<()> {
    if let Some(user) = ServerUser::needed() {
        chown(path, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
            .with_context(|| format!("cannot give {} to the unprivileged user", path.display()))?;
    }
    Ok(())
}
