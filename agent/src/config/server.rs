// SPDX-License-Identifier: Apache-2.0

//! The address of a KBS, in the one spelling by which two of them are compared.

use super::{ConfigError, Problem};
use reqwest::Url;
use rustls::pki_types::ServerName;
use std::fmt;

/// `https://host[:port][/prefix]`, normalised: lower-case host, default port left out, no slash at the end.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Whether the server has to prove who it is.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// The normalised address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host name or address, and port: what a resolver and a TCP connection need.
    pub fn host_and_port(&self) -> Option<(String, u16)> {
        let url = Url::parse(&self.0).ok()?;
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((host, url.port_or_known_default()?))
    }

    /// The address of a path below this server; the path starts with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// Reads an address from the configuration, or from a token.
    pub(crate) fn parse(text: &str, insecure_http: bool) -> Result<Self, Problem> {
        let example = "write https://host:port";
        let mut url = Url::parse(text)
            .map_err(|error| Problem::new(format!("not an address: {error}"), example))?;
        match url.scheme() {
            "https" => {}
            "http" if insecure_http => {}
            "http" => {
                return Err(Problem::new(
                    "plain http proves nothing about the server",
                    "use https, or set kbs.insecure_http = true in a laboratory",
                ));
            }
            other => {
                return Err(Problem::new(format!("{other:?} is not https"), example));
            }
        }
        // What TLS could not check is refused here, where the key can be named.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        if ServerName::try_from(host).is_err() {
            return Err(Problem::new(
                "no host name or address that a server could prove",
                example,
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Problem::new(
                "a user name or password in the address would be sent nowhere",
                "leave it out: the KBS knows this node by its evidence",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Problem::new(
                "a query or fragment has no meaning here",
                "leave out ? and #",
            ));
        }
        let prefix = url.path().trim_end_matches('/').to_owned();
        if prefix.contains("/kbs/v0") {
            return Err(Problem::new(
                "the protocol's own path is part of the address",
                "leave /kbs/v0 out: the agent adds it",
            ));
        }
        url.set_path(&prefix);
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `kbs.servers`.
pub(super) fn list(texts: &[String], insecure_http: bool) -> Result<Vec<ServerUrl>, ConfigError> {
    if !(1..=MOST).contains(&texts.len()) {
        return Err(ConfigError::value(
            KEY,
            &format!("{} addresses", texts.len()),
            Problem::new(
                "expected 1 to 16 servers",
                "list the servers this node may ask",
            ),
        ));
    }
    let mut servers: Vec<ServerUrl> = Vec::new();
    for text in texts {
        let server =
            ServerUrl::parse(text, insecure_http).map_err(|p| ConfigError::value(KEY, text, p))?;
        if servers.contains(&server) {
            let problem = Problem::new("the same server twice", "list each server once");
            return Err(ConfigError::value(KEY, text, problem));
        }
        servers.push(server);
    }
    Ok(servers)
}

const KEY: &str = "kbs.servers";
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::ServerUrl;

    #[test]
    fn spellings_of_one_server_are_equal() {
        let server = |text| ServerUrl::parse(text, true).unwrap();
        for text in [
            "HTTPS://KBS.example:443/",
            "https://kbs.example",
            "https://kbs.example//",
        ] {
            assert_eq!(server(text).as_str(), "https://kbs.example", "{text}");
        }
        assert_eq!(
            server("https://[::1]:8080/a/b/").join("/kbs"),
            "https://[::1]:8080/a/b/kbs"
        );
        assert_ne!(server("https://kbs.example"), server("http://kbs.example"));
        assert_ne!(
            server("https://kbs.example"),
            server("https://kbs.example:8443")
        );
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            "kbs.example",
            "http://kbs.example",
            "ftp://kbs.example",
            "https://",
            "https://user@kbs.example",
            "https://:pw@kbs.example",
            "https://kbs.example?x",
            "https://kbs.example#x",
            "https://kbs.example/kbs/v0",
            "https://kbs.example/kbs/v0/auth",
            "file:///etc/passwd",
            "https://a b",
        ] {
            assert!(ServerUrl::parse(text, false).is_err(), "{text}");
        }
    }
}
