// SPDX-License-Identifier: Apache-2.0

//! How a server is to behave, decided before it starts. Filled by the command line or by a test.

use crate::dialect::Dialect;
use anyhow::Context as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Everything a server needs to know. Start from [`Options::new`] and change what the test is about.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory made by [`crate::keys::init`]; the state file lives there too.
    pub dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Keep the state in memory, for measurements: a file that is rewritten whole would be all they measure.
    pub in_memory: bool,
    /// Which release of Trustee to sound like.
    pub dialect: Dialect,
    /// Plain HTTP. Nothing secret depends on TLS in this protocol, but a node refuses it by default.
    pub insecure_http: bool,
    /// Policies in force until an administrator uploads others.
    pub policies: PolicySet,
    /// Believe the key that a bearer token brings in its own header, as some published Trustee
    /// configurations do. Anybody can then make a token that says anything.
    pub insecure_header_jwk: bool,
    /// How long a session lives, counted from `/auth`. Trustee: 5 minutes.
    pub session_ttl: Duration,
    /// How long a token is valid. Trustee: 5 minutes.
    pub token_lifetime: Duration,
    /// Which role may call which administrator's endpoint (dialects with roles only).
    pub acls: Vec<Acl>,
    /// PEM files with an ARK and an ASK each, believed beside AMD's own.
    pub amd_roots: Vec<PathBuf>,
    /// PEM file with the root of TDX quotes, in place of Intel's own.
    pub intel_root: Option<PathBuf>,
    /// JSON files with the collateral of TDX platforms, as Intel's and other collateral clients store it.
    pub tdx_collateral: Vec<PathBuf>,
    /// Faults to begin with, in the spelling of [`crate::fault`].
    pub faults: Vec<String>,
    /// Write one line per request to stderr, with the cause of each refusal.
    pub log: bool,
}

impl Options {
    /// A quiet server on a free loopback port, over TLS, without faults.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            in_memory: false,
            dialect: Dialect::default(),
            insecure_http: false,
            policies: PolicySet::Strict,
            insecure_header_jwk: false,
            session_ttl: FIVE_MINUTES,
            token_lifetime: FIVE_MINUTES,
            acls: vec![Acl {
                role: crate::admin_client::ROLE.to_owned(),
                allowed_endpoints: "^/kbs/v0/.+$".to_owned(),
            }],
            amd_roots: Vec::new(),
            intel_root: None,
            tdx_collateral: Vec::new(),
            faults: Vec::new(),
            log: false,
        }
    }
}

/// Which policies answer while none is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicySet {
    /// Ours: a known AK and a whole tuple of PCRs, and each node gets its own resource only.
    Strict,
    /// What an unconfigured Trustee does: any evidence but `sample` gets any resource.
    Stock,
}

/// One line of the access list of Trustee 0.21.
#[derive(Debug, Clone)]
pub struct Acl {
    /// The `role` claim of the administrator's token.
    pub role: String,
    /// Regular expression over path and query; begins with `^/kbs` and ends with `$`.
    pub allowed_endpoints: String,
}

impl FromStr for Acl {
    type Err = anyhow::Error;

    /// `ROLE=REGEX`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (role, allowed_endpoints) = text
            .split_once('=')
            .context("an access list entry has the form ROLE=REGEX")?;
        Ok(Self {
            role: role.to_owned(),
            allowed_endpoints: allowed_endpoints.to_owned(),
        })
    }
}

impl Acl {
    /// The compiled expression.
    pub(crate) fn compile(&self) -> anyhow::Result<regex::Regex> {
        let text = &self.allowed_endpoints;
        anyhow::ensure!(
            text.starts_with("^/kbs") && text.ends_with('$'),
            "the access list of role {:?} must begin with ^/kbs and end with $",
            self.role
        );
        regex::Regex::new(text).context("an access list entry is not a regular expression")
    }
}

const FIVE_MINUTES: Duration = Duration::from_secs(300);
