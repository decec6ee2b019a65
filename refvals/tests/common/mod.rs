// SPDX-License-Identifier: Apache-2.0

//! Images put together by hand, and a registry of ours, over TLS on loopback: it asks for a token, redirects blobs to
//! another host name, and lies when a test tells it to.

#![allow(dead_code)] // Each test binary uses a part of it.

use kbs_protocol::encoding::b64;
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use refvals::source::{Access, Options};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Blobs by digest, manifests among them.
#[derive(Default, Clone)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) root: String,
    pub(crate) tags: BTreeMap<String, String>,
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

impl Image {
    pub(crate) fn put(&mut self, bytes: Vec<u8>) -> Value {
        self.put_as("x", bytes)
    }

    /// With the media type that other tools insist on: `application/vnd.oci.image.` and this.
    fn put_as(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let kind = format!("application/vnd.oci.image.{kind}");
        let descriptor = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// An image that says what it is, and no more.
    pub(crate) fn made(label: &str) -> Self {
        let text = b"NAME=x\nID=test\nVERSION_ID=1\n".to_vec();
        Self::of(&[("usr/lib/os-release", text)], label)
    }

    /// An image with one compressed layer, below an index.
    pub(crate) fn of(files: &[(&str, Vec<u8>)], label: &str) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, path, content.as_slice())
                .unwrap();
        }
        Self::of_layers(&[archive.into_inner().unwrap()], label)
    }

    /// An image with these archives as its layers.
    pub(crate) fn of_layers(archives: &[Vec<u8>], label: &str) -> Self {
        let mut image = Self::default();
        let layers: Vec<Value> = archives
            .iter()
            .map(|archive| image.put_as("layer.v1.tar+gzip", gzip(archive)))
            .collect();
        let diff_ids: Vec<String> = archives.iter().map(|archive| sha256(archive)).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"org.coreos.pcrs": label}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = image.put_as("config.v1+json", config.to_string().into_bytes());
        image.finish(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        }))
    }

    pub(crate) fn finish(mut self, manifest: &Value) -> Self {
        let mut manifest = self.put_as("manifest.v1+json", manifest.to_string().into_bytes());
        manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        let index = self.put_as("index.v1+json", index.to_string().into_bytes());
        self.root = index["digest"].as_str().unwrap().to_owned();
        self
    }

    pub(crate) fn layer(&self) -> String {
        let largest = self
            .blobs
            .iter()
            .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]));
        largest.unwrap().0.clone()
    }

    /// As cosign does.
    pub(crate) fn signed(mut self, key: &SigningKey, digest: &str) -> Self {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": "test/os"},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signature: p256::ecdsa::Signature = key.sign(&payload);
        let mut layer = self.put(payload);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": b64::encode(signature.to_der().as_bytes())});
        let config = self.put(b"{}".to_vec());
        let manifest = self.put(
            json!({"config": config, "layers": [layer]})
                .to_string()
                .into_bytes(),
        );
        let tag = format!("{}.sig", self.root.replace(':', "-"));
        self.tags
            .insert(tag, manifest["digest"].as_str().unwrap().to_owned());
        self
    }

    pub(crate) fn write_layout(&self, directory: &Path) {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        let mut manifests = vec![json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": self.root,
            "size": self.blobs.get(&self.root).map_or(0, Vec::len),
        })];
        for (tag, digest) in &self.tags {
            manifests.push(json!({"digest": digest, "annotations": {"org.opencontainers.image.ref.name": tag}}));
        }
        std::fs::write(
            directory.join("index.json"),
            json!({"schemaVersion": 2, "manifests": manifests}).to_string(),
        )
        .unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(
                directory.join("blobs").join(digest.replace(':', "/")),
                bytes,
            )
            .unwrap();
        }
    }
}

/// Changes an answer's body on its way.
pub(crate) type Spoil = fn(&str, Vec<u8>) -> Vec<u8>;

/// What a request must carry.
const PASSWORD: &str = "Basic dXNlcjpwYXNz";

pub(crate) struct Registry {
    pub(crate) directory: TempDir,
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    is_down: Arc<AtomicBool>,
}

impl Registry {
    /// Serves one image; `spoil` may change any answer's body.
    pub(crate) fn serve(image: Image, spoil: Spoil) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ])
        .unwrap();
        std::fs::write(directory.path().join("ca.pem"), certified.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let tls = Arc::new(tls);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let is_down = Arc::new(AtomicBool::new(false));
        let (log, down) = (Arc::clone(&seen), Arc::clone(&is_down));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if down.load(Ordering::SeqCst) {
                    continue;
                }
                let (image, tls, log) = (image.clone(), Arc::clone(&tls), Arc::clone(&log));
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(tls).unwrap();
                    let mut stream = BufReader::new(rustls::StreamOwned::new(connection, stream));
                    while answer(&mut stream, &image, port, &log, spoil).is_some() {}
                });
            }
        });
        let auth = json!({"auths": {format!("localhost:{port}"): {"auth": "dXNlcjpwYXNz"}}});
        std::fs::write(directory.path().join("auth.json"), auth.to_string()).unwrap();
        Self {
            directory,
            port,
            seen,
            is_down,
        }
    }

    /// While it is down, connections end before they begin.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    pub(crate) fn options(&self) -> Options {
        let file = |name: &str| Some(self.directory.path().join(name).into());
        Options {
            access: Access {
                auth_file: file("auth.json"),
                ca_file: file("ca.pem"),
                ..Access::default()
            },
            ..Options::default()
        }
    }

    pub(crate) fn name(&self, digest: &str) -> String {
        format!("localhost:{}/test/os:latest@{digest}", self.port)
    }

    pub(crate) fn requests(&self, what: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(what))
            .count()
    }
}

fn answer<S: Read + Write>(
    stream: &mut BufReader<S>,
    image: &Image,
    port: u16,
    log: &Mutex<Vec<String>>,
    spoil: Spoil,
) -> Option<()> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let path = head.first()?.split(' ').nth(1)?.to_owned();
    let header = |name: &str| {
        let found = head
            .iter()
            .find(|line| line.to_lowercase().starts_with(name));
        found
            .and_then(|line| line.split_once(": "))
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    let (host, authorization) = (header("host:"), header("authorization:"));
    log.lock()
        .unwrap()
        .push(format!("{host} {path} {authorization}"));
    let (mut status, mut extra, mut body) = ("200 OK", String::new(), Vec::new());
    if path.starts_with("/token") {
        match authorization == PASSWORD {
            true => body = br#"{"token":"the-token"}"#.to_vec(),
            false => status = "403 Forbidden",
        }
    } else if path.starts_with("/cdn/") {
        // Another host: credentials must not come here.
        match authorization.is_empty() && host.starts_with("127.0.0.1") {
            true => {
                body = spoil(
                    &path,
                    image.blobs.get(path.trim_start_matches("/cdn/"))?.clone(),
                )
            }
            false => status = "400 Bad Request",
        }
    } else if authorization != "Bearer the-token" {
        status = "401 Unauthorized";
        extra = format!(
            "WWW-Authenticate: Bearer realm=\"https://localhost:{port}/token\",service=\"s\"\r\n"
        );
    } else if let Some(digest) = path.strip_prefix("/v2/test/os/blobs/") {
        status = "307 Temporary Redirect";
        extra = format!("Location: https://127.0.0.1:{port}/cdn/{digest}\r\n");
    } else if let Some(name) = path.strip_prefix("/v2/test/os/manifests/") {
        let digest = image.tags.get(name).map_or(name, String::as_str);
        match image.blobs.get(digest) {
            Some(bytes) => body = spoil(&path, bytes.clone()),
            None => status = "404 Not Found",
        }
    } else {
        status = "404 Not Found";
    }
    let head = format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()?;
    stream.flush().ok()
}

pub(crate) fn as_it_is(_: &str, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}
