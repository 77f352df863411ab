//! The service's configuration: read once, from the environment or the command line, before anything starts.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sha2::{Digest as _, Sha256};
use shared::arguments;
use shared::server::ServerConfig;
use tonic::transport::Uri;

use crate::rebuild::Rules;

/// Fewest characters of a page token key.
const KEY_CHARACTERS: usize = 32;
/// Longest prefix: with it, names of indices stay far below the server's limit of 255 bytes.
const PREFIX_CHARACTERS: usize = 100;

/// Everything that can be set.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the gRPC services.
    #[arg(long, env = "READ_LISTEN", default_value = "127.0.0.1:50052")]
    pub listen: SocketAddr,
    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9052")]
    pub metrics_listen: SocketAddr,
    /// Elasticsearch, as http(s)://host:port, with user:password@ before the host where it wants them. Secret.
    #[arg(long, env = "ELASTICSEARCH_URL", default_value = "http://127.0.0.1:9209", hide_env_values = true)]
    pub elasticsearch_url: ServerUrl,
    /// The write service, whose feed is read.
    #[arg(long, env = "FEED_URL", default_value = "http://127.0.0.1:50051")]
    pub feed_url: ServerUrl,
    /// What all names of indices begin with: lower-case letters, digits, '-' and '_'; may be empty.
    #[arg(long, env = "INDEX_PREFIX", default_value = "", value_parser = index_prefix)]
    pub index_prefix: String,
    /// Name of this host or container, which tells people where a slice of the streams is projected.
    #[arg(long, env = "HOSTNAME", default_value = "read-service")]
    pub host_name: String,
    /// Authenticates page tokens: at least 32 characters, the same for all copies of the service. Unset: a random one
    /// for this process, so that page tokens end with it. Secret.
    #[arg(long, env = "PAGE_TOKEN_KEY", hide_env_values = true)]
    pub page_token_key: Option<PageTokenKey>,
    /// Lists, searches and reports that Elasticsearch is asked for at once. Up to fifteen times as many wait for their turn,
    /// others are refused.
    #[arg(long, env = "SEARCHES_AT_ONCE", default_value = "16")]
    pub searches_at_once: NonZeroUsize,
    /// Rebuilds.
    #[command(flatten)]
    pub rebuild: RebuildConfig,
    /// Percent of their time that rebuilds and audits that were asked for rest while queries are asked of the copy that works on them,
    /// so that these do not wait behind them; 0 never.
    #[arg(long, env = "REST_PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=90))]
    pub rest_percent: u8,
    /// Seconds in which the slow audit compares every document with its events, in small pages; 0 never does
    #[arg(long, env = "AUDIT_PERIOD", default_value = "86400", value_parser = arguments::seconds)]
    pub audit_period: Duration,
    /// Callers that may watch an order at once; more are refused
    #[arg(long, env = "WATCHERS", default_value_t = 10_000)]
    pub watchers: usize,
    /// Limits of the gRPC server.
    #[command(flatten)]
    pub server: ServerConfig,
}

/// How projections are rebuilt.
#[derive(Args, Clone, Debug)]
pub struct RebuildConfig {
    /// Seconds for which the index before a rebuild is kept up to date, so that one can go back to it.
    #[arg(long, env = "REBUILD_GRACE_SECONDS", default_value = "1800")]
    pub rebuild_grace_seconds: u64,
    /// Age in seconds from which an index of this service is dropped that no record names: what a rebuild left whose record is lost.
    #[arg(long, env = "REBUILD_ORPHAN_SECONDS", default_value = "2700")]
    pub rebuild_orphan_seconds: u64,
    /// Documents, drawn at random, that are compared whole with their events before a rebuild goes live; the others are compared by
    /// version.
    #[arg(long, env = "REBUILD_COMPARED", default_value_t = 20_000)]
    pub rebuild_compared: u64,
    /// Rebuild a projection by itself where its index was made with another mapping than this release has.
    #[arg(long, env = "REBUILD_ON_OTHER_MAPPING")]
    pub rebuild_on_other_mapping: bool,
}

impl RebuildConfig {
    /// The rules that follow.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            grace: Duration::from_secs(self.rebuild_grace_seconds),
            orphan_age: Duration::from_secs(self.rebuild_orphan_seconds),
            compared: self.rebuild_compared,
            on_other_mapping: self.rebuild_on_other_mapping,
        }
    }
}

/// Base URL of a server. Does not print: it may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "not a URL")?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some() => Ok(Self(text.to_owned())),
            _ => Err("must begin with http:// or https:// and name a host"),
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerUrl(..)")
    }
}

/// Key that authenticates page tokens. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct PageTokenKey([u8; 32]);

impl PageTokenKey {
    /// A key that nobody else has.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The key.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl FromStr for PageTokenKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().count() < KEY_CHARACTERS {
            return Err("must have at least 32 characters");
        }
        Ok(Self(Sha256::digest(text).into()))
    }
}

impl fmt::Debug for PageTokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageTokenKey(..)")
    }
}

fn index_prefix(text: &str) -> Result<String, &'static str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if text.len() > PREFIX_CHARACTERS {
        Err("must have at most 100 characters")
    } else if !text.chars().all(allowed) || text.starts_with(['-', '_']) {
        Err("must consist of lower-case letters, digits, '-' and '_', and begin with a letter or digit")
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused() {
        for url in ["", "localhost:9200", "ftp://h", "http://"] {
            assert!(url.parse::<ServerUrl>().is_err(), "{url}");
        }
        for prefix in ["A-", "-a", "_a", "a/b", "a,b", "a*"] {
            assert!(index_prefix(prefix).is_err(), "{prefix}");
        }
        assert!(index_prefix("t-x_1-").is_ok());
        assert!("short".parse::<PageTokenKey>().is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        let url: ServerUrl = "http://elastic:hunter2@h:9200".parse().unwrap();
        let key: PageTokenKey = "hunter2-hunter2-hunter2-hunter2-".parse().unwrap();
        assert!(!format!("{url:?} {key:?}").contains("hunter2"));
        assert_eq!(key, "hunter2-hunter2-hunter2-hunter2-".parse().unwrap());
    }
}
