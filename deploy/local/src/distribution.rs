//! The official minimal distribution of Elasticsearch: fetched once by its Maven coordinate, checked, unpacked, kept.
//!
//! What leaves is a folder with the unpacked distribution whose archive had the pinned SHA-256. Concurrent callers wait
//! for each other; a fetch or an unpacking that was cut off leaves nothing that a later one would trust.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use sha2::{Digest as _, Sha256};

use crate::find;
use crate::run::{Program, Run};
use crate::user::reachable;

/// The version that tests and `cargo up` run.
pub const VERSION: &str = "8.19.16";
const SHA256: &str = "c3d95992e27741b33a8057118379cda8b17cfda9e46ff4ec25e3f5b94fc22b52";

/// The home of the unpacked distribution; fetches and unpacks it where needed, telling `report` so.
///
/// # Errors
/// Where Maven is missing or fails, the archive has another checksum, or the cache folder cannot be written.
pub async fn home(run: &Run, report: impl Fn(&str)) -> anyhow::Result<PathBuf> {
    let cache = cache_folder()?;
    let lock =
        File::create(cache.join("lock")).with_context(|| format!("cannot write to {}", cache.display()))?;
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await?
        .context("cannot lock the cache")?;
    let archive = archive(&cache);
    let unpacked = unpacked_folder(&cache)?;
    if !unpacked.exists() {
        if !archive.exists() {
            report("fetching 104 MB with Maven");
            fetch(run, &archive).await?;
        }
        report("checking and unpacking");
        let target = unpacked.clone();
        tokio::task::spawn_blocking(move || unpack(&archive, SHA256, &target)).await??;
    }
    drop(lock);
    Ok(unpacked)
}

/// Whether [`home`] needs nothing from elsewhere.
///
/// # Errors
/// Where there is no cache folder and none can be made.
pub fn is_at_hand() -> anyhow::Result<bool> {
    let cache = cache_folder()?;
    Ok(archive(&cache).exists() || unpacked_folder(&cache)?.exists())
}

fn archive(cache: &Path) -> PathBuf {
    cache.join(format!("elasticsearch-{VERSION}.zip"))
}

/// `$XDG_CACHE_HOME/order-pair`, by default `~/.cache/order-pair`.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home);
    let cache = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("order-pair");
    fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
    Ok(cache)
}

/// Beside the archive, or under `/var/tmp` where the servers' unprivileged user cannot reach the cache of root.
fn unpacked_folder(cache: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("elasticsearch-{VERSION}");
    if reachable(cache) {
        return Ok(cache.join(name));
    }
    let shared = PathBuf::from("/var/tmp/order-pair");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&shared)
        .with_context(|| format!("cannot make {}", shared.display()))?;
    let data = fs::symlink_metadata(&shared).with_context(|| format!("cannot read {}", shared.display()))?;
    // Anyone may make a folder in /var/tmp; programs are run only from one's own.
    if !data.is_dir() || data.uid() != Uid::effective().as_raw() || data.mode() & 0o022 != 0 {
        bail!("{} belongs to somebody else: remove it", shared.display());
    }
    Ok(shared.join(name))
}

async fn fetch(run: &Run, archive: &Path) -> anyhow::Result<()> {
    let maven = find::maven(&find::search_path())?;
    let folder = run.folder().join("download");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let artifact = format!("org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip");
    let program = Program {
        name: "maven",
        path: maven,
        arguments: vec![
            "-q".into(),
            "-B".into(),
            "dependency:copy".into(),
            format!("-Dartifact={artifact}").into(),
            OsString::from(format!("-DoutputDirectory={}", folder.display())),
        ],
        environment: Vec::new(),
        log: run.folder().join("maven.log"),
        folder: folder.clone(),
        server: false,
        stage: 1,
        stop: Signal::SIGTERM,
    };
    let fetched = run.start(&program)?.finished().await;
    fetched.with_context(|| format!("Maven could not fetch {artifact}"))?;
    let file = folder.join(format!("elasticsearch-{VERSION}.zip"));
    check(&file, SHA256)?;
    // The cache may lie on another file system: copied beside its place first, so that it appears there whole.
    let partial = archive.with_extension("partial");
    fs::copy(&file, &partial)
        .and_then(|_| fs::rename(&partial, archive))
        .with_context(|| format!("cannot keep {}", archive.display()))?;
    fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// Unpacks a checked archive; `target` appears whole or not at all.
fn unpack(archive: &Path, sha256: &str, target: &Path) -> anyhow::Result<()> {
    check(archive, sha256)?;
    let context = || format!("cannot unpack {} to {}", archive.display(), target.display());
    let partial = target.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(context)?;
    }
    let mut zip = zip::ZipArchive::new(File::open(archive).with_context(context)?).with_context(context)?;
    zip.extract(&partial).with_context(context)?;
    fs::rename(partial.join(format!("elasticsearch-{VERSION}")), target).with_context(context)?;
    fs::remove_dir_all(&partial).with_context(context)
}

/// Refuses a file with another checksum and removes it, so that the next start fetches it anew.
fn check(file: &Path, sha256: &str) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", file.display());
    let mut reader = File::open(file).with_context(context)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader.read(&mut buffer).with_context(context)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let found = hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    if found != sha256 {
        fs::remove_file(file).ok();
        bail!(
            "{} has the SHA-256 {found}, not {sha256}: it was removed, start again to fetch it anew",
            file.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_checksum_is_refused_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("elasticsearch.zip");
        let target = folder.path().join("unpacked");
        fs::write(&archive, "not the archive").unwrap();
        let error = unpack(&archive, SHA256, &target).unwrap_err().to_string();
        assert!(error.contains(SHA256) && error.contains("start again to fetch it anew"), "{error}");
        assert!(!archive.exists() && !target.exists());
    }

    #[test]
    fn a_file_with_the_right_checksum_passes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("abc");
        fs::write(&file, "abc").unwrap();
        // The example of FIPS 180-2, appendix B.1.
        check(&file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").unwrap();
    }
}
