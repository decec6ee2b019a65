// SPDX-License-Identifier: Apache-2.0

//! Credentials for registries, from the file that podman and docker keep (containers-auth.json(5)), and what a
//! registry asks for.

use crate::{Error, Given};
use kbs_protocol::encoding::b64;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// User and password, as the header of basic authentication wants them.
pub(super) struct Login(Zeroizing<String>);

/// `WWW-Authenticate` of a registry (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
}

impl Login {
    /// The entry for this repository: the longest that names it or what is above it.
    pub(super) fn find(
        file: Option<&Given>,
        host: &str,
        repository: &str,
    ) -> Result<Option<Self>, Error> {
        let usual = || usual_file().map(Given::from);
        let Some(file) = file.cloned().or_else(usual) else {
            return Ok(None);
        };
        let bytes = file.read()?;
        let parsed: Result<AuthFile, _> = serde_json::from_slice(&bytes);
        // The parser's words could quote the file.
        let Ok(parsed) = parsed else {
            return Err(Error::document(
                file.to_string(),
                "expected {\"auths\": {HOST: {\"auth\": …}}}",
            ));
        };
        let whole = format!("{host}/{repository}");
        let fits = |key: &str| {
            let key = key
                .trim_start_matches("https://")
                .trim_end_matches("/v1/")
                .trim_end_matches('/');
            let key = if matches!(key, "docker.io" | "index.docker.io") {
                "registry-1.docker.io"
            } else {
                key
            };
            let rest = whole.strip_prefix(key)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(key.len())
        };
        let mut fitting: Vec<(usize, Entry)> = parsed
            .auths
            .into_iter()
            .filter_map(|(key, entry)| Some((fits(&key)?, entry)))
            .collect();
        fitting.sort_by_key(|(length, _)| *length);
        Ok(fitting
            .pop()
            .filter(|(_, entry)| !entry.auth.is_empty())
            .map(|(_, entry)| Self(Zeroizing::new(entry.auth))))
    }

    /// The header.
    pub(super) fn basic(&self) -> String {
        // The file holds `user:password` in base64 already; written anew, in one spelling.
        let decoded = b64::decode(&self.0).map(Zeroizing::new);
        format!(
            "Basic {}",
            decoded.map_or_else(|| self.0.to_string(), |bytes| b64::encode(&*bytes))
        )
    }
}

impl Challenge {
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let value = |key: &str| {
            let (_, after) = rest.split_once(&format!("{key}=\""))?;
            Some(after.split_once('"')?.0.to_owned())
        };
        Some(Self::Bearer {
            realm: value("realm")?,
            service: value("service").unwrap_or_default(),
        })
    }
}

/// The token in the answer of a token server.
pub(super) fn token(body: &[u8]) -> Option<Zeroizing<String>> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token)?;
    token
        .bytes()
        .all(|c| c.is_ascii_graphic())
        .then(|| Zeroizing::new(token))
}

/// Where podman, then docker, keeps them.
fn usual_file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return Some(file);
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    let docker = variable("HOME").map(|dir| dir.join(".docker/config.json"));
    [runtime, docker]
        .into_iter()
        .flatten()
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::{Challenge, Login, token};
    use crate::Given;

    #[test]
    fn the_closest_entry_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        let text = r#"{"auths": {"quay.io": {"auth": "YTpi"}, "quay.io/team": {"auth": "Yzpk"}, "other.io": {}}}"#;
        std::fs::write(&file, text).unwrap();
        let find = |host: &str, repository: &str| {
            Login::find(Some(&Given::from(file.clone())), host, repository)
                .unwrap()
                .map(|login| login.basic())
        };
        assert_eq!(find("quay.io", "os").as_deref(), Some("Basic YTpi"));
        assert_eq!(find("quay.io", "team/os").as_deref(), Some("Basic Yzpk"));
        assert_eq!(find("quay.io", "teams/os").as_deref(), Some("Basic YTpi"));
        assert_eq!(find("quay.io.evil", "os"), None);
        assert_eq!(find("other.io", "os"), None);
        std::fs::write(&file, "secret").unwrap();
        let error = Login::find(Some(&Given::from(file)), "quay.io", "os")
            .err()
            .unwrap()
            .to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn challenges_and_tokens() {
        let parse = Challenge::parse;
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        let bearer = parse("Bearer realm=\"https://a/token\",service=\"s\",scope=\"x\"");
        let (realm, service) = ("https://a/token".to_owned(), "s".to_owned());
        assert_eq!(bearer, Some(Challenge::Bearer { realm, service }));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(token(br#"{"access_token":"abc"}"#).unwrap().as_str(), "abc");
        assert!(token(b"{\"token\":\"a\\nb\"}").is_none());
    }
}
