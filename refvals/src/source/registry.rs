// SPDX-License-Identifier: Apache-2.0

//! Images in a registry (OCI distribution specification 1.1), read only and by digest. Proxies are those of the
//! environment (`HTTPS_PROXY`, `NO_PROXY`). Credentials go to the host they were stored for, never further.

mod login;

use super::oci::{self, Descriptor, Store};
use crate::{Error, Given};
use login::{Challenge, Login};
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::cell::RefCell;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to reach registries.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Credentials, in the form of `containers-auth.json(5)`; default: where podman and docker keep theirs.
    pub auth_file: Option<Given>,
    /// Certificate authorities, PEM; default: the system's.
    pub ca_file: Option<Given>,
    /// `HOST=MIRROR[/PREFIX]`: asked first, in this order.
    pub mirrors: Vec<String>,
    /// Hosts that may be spoken to without TLS, for a laboratory.
    pub plain_http: Vec<String>,
    /// Give up at this time, and after a minute without an answer; default: wait as long as bytes may come.
    pub until: Option<Instant>,
}

/// A reference with digest: `host[:port]/repository[:tag]@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    host: String,
    repository: String,
    pub(super) digest: String,
}

/// One repository, at its host or a mirror.
pub(super) struct Registry {
    client: Client,
    /// `https://host[:port]`.
    base: String,
    host: String,
    repository: String,
    login: Option<Login>,
    /// The header that was accepted last.
    authorization: RefCell<Option<String>>,
    until: Option<Instant>,
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Reference {
            got: text.to_owned(),
            expected: "a file or directory that is there, nor an image by digest, host/repository@sha256:…; a tag is not enough",
        };
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let (name, digest) = text.split_once('@').ok_or_else(wrong)?;
        let (host, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (host, rest.to_owned())
            }
            Some(_) => ("registry-1.docker.io", name.to_owned()),
            None => ("registry-1.docker.io", format!("library/{name}")),
        };
        let host = if host == "docker.io" {
            "registry-1.docker.io"
        } else {
            host
        };
        let repository = repository.split(':').next().unwrap_or_default().to_owned();
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"/._-".contains(&c);
        let is_good = oci::sha256(digest).is_some()
            && !repository.is_empty()
            && repository.bytes().all(fits)
            && !repository
                .split('/')
                .any(|part| part.is_empty() || part.starts_with('.'));
        is_good
            .then(|| Self {
                host: host.to_owned(),
                repository,
                digest: digest.to_owned(),
            })
            .ok_or_else(wrong)
    }

    /// The places to ask, in order.
    pub(super) fn places(&self, access: &Access) -> Result<Vec<Registry>, Error> {
        let client = client(access)?;
        let mut places = Vec::new();
        for text in &access.mirrors {
            let (of, mirror) = text.split_once('=').ok_or_else(|| Error::Reference {
                got: text.clone(),
                expected: "a mirror: HOST=MIRROR or HOST=MIRROR/PREFIX",
            })?;
            if of != self.host {
                continue;
            }
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let repository = match prefix {
                "" => self.repository.clone(),
                prefix => format!("{prefix}/{}", self.repository),
            };
            places.push(Registry::new(&client, host, &repository, access)?);
        }
        places.push(Registry::new(
            &client,
            &self.host,
            &self.repository,
            access,
        )?);
        Ok(places)
    }
}

impl Registry {
    fn new(client: &Client, host: &str, repository: &str, access: &Access) -> Result<Self, Error> {
        let scheme = if access.plain_http.iter().any(|plain| plain == host) {
            "http"
        } else {
            "https"
        };
        Ok(Self {
            client: client.clone(),
            base: format!("{scheme}://{host}"),
            host: host.to_owned(),
            repository: repository.to_owned(),
            login: Login::find(access.auth_file.as_ref(), host, repository)?,
            authorization: RefCell::default(),
            until: access.until,
        })
    }

    /// The manifest behind a tag, by the digest that the registry gives it.
    pub(super) fn tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.get(&format!("manifests/{tag}")) {
            Ok(response) => {
                let mut bytes = Vec::new();
                let read = self
                    .timed(response)
                    .take(super::oci::MAX_MANIFEST)
                    .read_to_end(&mut bytes);
                read.map_err(|error| self.unreachable(error.to_string()))?;
                Ok(Some(bytes))
            }
            Err(Error::Registry { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn get(&self, path: &str) -> Result<Response, Error> {
        let url = format!("{}/v2/{}/{path}", self.base, self.repository);
        let send = || {
            let mut request = self.client.get(&url).header(ACCEPT, ACCEPTED);
            if let Some(authorization) = &*self.authorization.borrow() {
                request = request.header(AUTHORIZATION, authorization);
            }
            request
                .send()
                .map_err(|error| self.unreachable(innermost(&error)))
        };
        let mut response = send()?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = response
                .headers()
                .get(WWW_AUTHENTICATE)
                .and_then(|value| value.to_str().ok());
            let challenge = challenge.and_then(Challenge::parse);
            if let Some(challenge) = challenge {
                let authorization = self.answer(&challenge)?;
                *self.authorization.borrow_mut() = authorization;
                response = send()?;
            }
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(Error::Registry {
                host: self.host.clone(),
                what: format!("{}/{path}", self.repository),
                status: status.as_u16(),
            }),
        }
    }

    /// What to send instead: the credentials themselves, or a token that they buy (distribution specification, token
    /// authentication). Without credentials an anonymous token.
    fn answer(&self, challenge: &Challenge) -> Result<Option<String>, Error> {
        let basic = self.login.as_ref().map(Login::basic);
        let Challenge::Bearer { realm, service } = challenge else {
            return Ok(basic);
        };
        if !realm.starts_with("https://") && !self.base.starts_with("http://") {
            return Err(Error::document(
                &self.host,
                format!("it wants credentials sent in clear to {realm:?}"),
            ));
        }
        let scope = format!("repository:{}:pull", self.repository);
        let mut request = self
            .client
            .get(realm)
            .query(&[("service", service), ("scope", &scope)]);
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        let response = request
            .send()
            .map_err(|error| self.unreachable(innermost(&error)))?;
        if !response.status().is_success() {
            return Err(Error::Registry {
                host: self.host.clone(),
                what: "a token".to_owned(),
                status: response.status().as_u16(),
            });
        }
        let mut body = Vec::new();
        let read = response.take(MAX_TOKEN).read_to_end(&mut body);
        read.map_err(|error| self.unreachable(error.to_string()))?;
        let token = login::token(&body)
            .ok_or_else(|| Error::document(&self.host, "its answer holds no token"))?;
        Ok(Some(format!("Bearer {}", token.as_str())))
    }

    fn timed(&self, response: Response) -> Timed {
        Timed {
            response,
            until: self.until,
        }
    }

    fn unreachable(&self, why: String) -> Error {
        Error::Unreachable {
            host: self.host.clone(),
            why,
        }
    }
}

impl Store for Registry {
    fn open(
        &self,
        descriptor: &Descriptor,
        is_manifest: bool,
    ) -> Result<Box<dyn Read + '_>, Error> {
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let response = self.get(&format!("{kind}/{}", descriptor.digest))?;
        Ok(Box::new(self.timed(response)))
    }
}

/// A body that has to end in time: a registry that sends a byte now and then keeps nobody.
struct Timed {
    response: Response,
    until: Option<Instant>,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.until {
            Some(until) if Instant::now() >= until => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "it took longer than it may",
            )),
            _ => self.response.read(buffer),
        }
    }
}

fn client(access: &Access) -> Result<Client, Error> {
    let pem = match &access.ca_file {
        Some(given) => given.read()?.to_vec(),
        None => SYSTEM_CA
            .iter()
            .find_map(|file| std::fs::read(Path::new(file)).ok())
            .unwrap_or_default(),
    };
    let mut roots = rustls::RootCertStore::empty();
    // A system's bundle may hold what this library does not read; that many others remain.
    let (added, _) =
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if let Some(given) = access.ca_file.as_ref().filter(|_| added == 0) {
        let why = "it holds no certificate in PEM";
        return Err(Error::document(given.to_string(), why));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong = |error: &dyn std::fmt::Display| Error::document("the set-up of TLS", error);
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let plain = access.plain_http.clone();
    Client::builder()
        .tls_backend_preconfigured(tls)
        // reqwest drops credentials when the host changes; and nothing leads from TLS to none.
        .redirect(Policy::custom(move |attempt| {
            let host = attempt.url().host_str().unwrap_or_default().to_owned();
            let is_allowed = attempt.url().scheme() == "https"
                || plain
                    .iter()
                    .any(|known| known.split(':').next() == Some(host.as_str()));
            match is_allowed && attempt.previous().len() < MAX_REDIRECTS {
                true => attempt.follow(),
                false => attempt.stop(),
            }
        }))
        .connect_timeout(CONNECT)
        // For each step; a layer may take its time.
        .timeout(access.until.map(|_| SILENCE))
        .user_agent(concat!("refvals/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| wrong(&error))
}

/// The cause that says most; the layers above it only say that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";
/// Debian, Fedora, SUSE.
const SYSTEM_CA: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
const CONNECT: Duration = Duration::from_secs(20);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(60);
const MAX_TOKEN: u64 = 256 * 1024;
const MAX_REDIRECTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::Reference;

    #[test]
    fn references_name_a_digest() {
        let parse = |text: &str| {
            Reference::parse(text)
                .map(|r| format!("{} {}", r.host, r.repository))
                .ok()
        };
        let at = format!("@sha256:{}", "a".repeat(64));
        for (text, expected) in [
            ("quay.io/fedora/bootc:42", Some("quay.io fedora/bootc")),
            ("docker://localhost:5000/os", Some("localhost:5000 os")),
            ("debian", Some("registry-1.docker.io library/debian")),
            ("docker.io/a/b", Some("registry-1.docker.io a/b")),
            ("quay.io/../x", None),
            ("quay.io/", None),
            ("quay.io/a b", None),
        ] {
            assert_eq!(parse(&format!("{text}{at}")).as_deref(), expected, "{text}");
        }
        let error = Reference::parse("quay.io/fedora/bootc:42")
            .unwrap_err()
            .to_string();
        assert!(error.contains("a tag is not enough"), "{error}");
    }
}
