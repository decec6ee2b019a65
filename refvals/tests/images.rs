// SPDX-License-Identifier: Apache-2.0

//! Images in layouts, archives and a registry: the same facts from each, and nothing but the bytes that were named.
//! The registry is ours, over TLS on loopback: it asks for a token, redirects blobs to another host name, and lies when
//! a test tells it to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use kbs_protocol::encoding::b64;
use kbs_protocol::{Blame as _, Owner};
use measured_boot::facts::ImageFacts;
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePublicKey as _;
use refvals::Error;
use refvals::source::{Access, Options, load};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Blobs by digest, manifests among them.
#[derive(Default, Clone)]
struct Image {
    blobs: BTreeMap<String, Vec<u8>>,
    root: String,
    tags: BTreeMap<String, String>,
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

impl Image {
    fn put(&mut self, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": "x", "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// An image with one compressed layer, below an index.
    fn made(label: &str) -> Self {
        let mut image = Self::default();
        let mut archive = tar::Builder::new(Vec::new());
        let text = b"NAME=x\nID=test\nVERSION_ID=1\n";
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, "usr/lib/os-release", text.as_slice())
            .unwrap();
        let archive = archive.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive).unwrap();
        let layer = image.put(gzip.finish().unwrap());
        let config = json!({
            "config": {"Labels": {"org.coreos.pcrs": label}},
            "rootfs": {"type": "layers", "diff_ids": [sha256(&archive)]},
        });
        let config = image.put(config.to_string().into_bytes());
        image.finish(&json!({"schemaVersion": 2, "config": config, "layers": [layer]}))
    }

    fn finish(mut self, manifest: &Value) -> Self {
        let mut manifest = self.put(manifest.to_string().into_bytes());
        manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = self.put(
            json!({"schemaVersion": 2, "manifests": [manifest]})
                .to_string()
                .into_bytes(),
        );
        self.root = index["digest"].as_str().unwrap().to_owned();
        self
    }

    fn layer(&self) -> String {
        let largest = self
            .blobs
            .iter()
            .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]));
        largest.unwrap().0.clone()
    }

    /// As cosign does.
    fn signed(mut self, key: &SigningKey, digest: &str) -> Self {
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

    fn write_layout(&self, directory: &Path) {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        let mut manifests = vec![json!({"digest": self.root})];
        for (tag, digest) in &self.tags {
            manifests.push(json!({"digest": digest, "annotations": {"org.opencontainers.image.ref.name": tag}}));
        }
        std::fs::write(
            directory.join("index.json"),
            json!({"manifests": manifests}).to_string(),
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

fn quiet(source: &str, options: &Options) -> Result<ImageFacts, Error> {
    load(source, options, &mut |_, _| {})
}

/// Changes an answer's body on its way.
type Spoil = fn(&str, Vec<u8>) -> Vec<u8>;

/// What a request must carry.
const PASSWORD: &str = "Basic dXNlcjpwYXNz";

struct Registry {
    directory: TempDir,
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    /// Serves one image; `spoil` may change any answer's body.
    fn serve(image: Image, spoil: Spoil) -> Self {
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
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
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
        }
    }

    fn options(&self) -> Options {
        let file = |name: &str| Some(self.directory.path().join(name));
        Options {
            access: Access {
                auth_file: file("auth.json"),
                ca_file: file("ca.pem"),
                ..Access::default()
            },
            ..Options::default()
        }
    }

    fn name(&self, digest: &str) -> String {
        format!("localhost:{}/test/os:latest@{digest}", self.port)
    }

    fn requests(&self, what: &str) -> usize {
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

fn as_it_is(_: &str, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

#[test]
fn the_same_facts_from_a_layout_an_archive_and_a_registry() {
    let image = Image::made(r#"{"pcrs":[{"id":4,"value":"AB"}]}"#);
    let directory = tempfile::tempdir().unwrap();
    image.write_layout(directory.path());
    let layout = quiet(directory.path().to_str().unwrap(), &Options::default()).unwrap();
    assert_eq!(layout.os.as_ref().unwrap().id, "test");
    assert_eq!(layout.claimed_pcrs, BTreeMap::from([(4, "ab".to_owned())]));

    let archive = directory.path().join("image.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    for name in ["oci-layout", "index.json", "blobs"] {
        match name {
            "blobs" => builder
                .append_dir_all(name, directory.path().join(name))
                .unwrap(),
            _ => builder
                .append_path_with_name(directory.path().join(name), name)
                .unwrap(),
        }
    }
    drop(builder.into_inner().unwrap());
    let packed = quiet(archive.to_str().unwrap(), &Options::default()).unwrap();

    let registry = Registry::serve(image.clone(), as_it_is);
    let mut options = registry.options();
    options.cache = Some(registry.directory.path().join("cache"));
    let name = registry.name(&image.root);
    let pulled = quiet(&name, &options).unwrap();
    for other in [packed, pulled] {
        assert_eq!(
            (other.os, other.claimed_pcrs),
            (layout.os.clone(), layout.claimed_pcrs.clone())
        );
    }
    // Once: the digest names what was computed.
    let before = registry.requests("");
    quiet(&name, &options).unwrap();
    assert_eq!(registry.requests(""), before);
    assert_eq!(
        registry.requests("/token?service=s&scope=repository%3Atest%2Fos%3Apull"),
        1
    );
}

#[test]
fn other_bytes_than_those_that_were_named_are_refused() {
    let changed = |path: &str, mut bytes: Vec<u8>| {
        if path.starts_with("/cdn/") && bytes.starts_with(&[0x1f, 0x8b]) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        bytes
    };
    let short = |path: &str, mut bytes: Vec<u8>| {
        if path.starts_with("/cdn/") && bytes.starts_with(&[0x1f, 0x8b]) {
            bytes.truncate(bytes.len() / 2);
        }
        bytes
    };
    let longer = |path: &str, mut bytes: Vec<u8>| {
        if path.starts_with("/cdn/") && bytes.starts_with(&[0x1f, 0x8b]) {
            bytes.push(0);
        }
        bytes
    };
    let manifest = |path: &str, mut bytes: Vec<u8>| {
        if path.contains("/manifests/") {
            bytes.push(b' ');
        }
        bytes
    };
    let image = Image::made("");
    let spoilers: [Spoil; 4] = [changed, short, longer, manifest];
    for spoil in spoilers {
        let registry = Registry::serve(image.clone(), spoil);
        let error = quiet(&registry.name(&image.root), &registry.options()).unwrap_err();
        assert!(
            matches!(error, Error::Digest { .. } | Error::Cut { .. }),
            "{error}"
        );
    }
    // A layer that unpacks to something else than its config says.
    let mut other = Image::made("");
    let layer = other.layer();
    let layer = json!({"digest": layer, "size": other.blobs[&layer].len()});
    let config = json!({"rootfs": {"diff_ids": [format!("sha256:{}", "0".repeat(64))]}});
    let config = other.put(config.to_string().into_bytes());
    let other = other.finish(&json!({"config": config, "layers": [layer]}));
    let directory = tempfile::tempdir().unwrap();
    other.write_layout(directory.path());
    let error = quiet(directory.path().to_str().unwrap(), &Options::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the uncompressed layer sha256:"),
        "{error}"
    );
    // Another architecture.
    let mut options = Options::default();
    options.choice.architecture = measured_boot::image::Architecture::Aa64;
    Image::made("").write_layout(directory.path());
    let error = quiet(directory.path().to_str().unwrap(), &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no manifest for linux on arm64"), "{error}");
}

#[test]
fn who_may_read_and_whom_we_believe() {
    let image = Image::made("");
    let registry = Registry::serve(image.clone(), as_it_is);
    let name = registry.name(&image.root);
    // Not our certificate authority.
    let mut options = registry.options();
    options.access.ca_file = None;
    let error = quiet(&name, &options).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // No credentials for this registry.
    let mut options = registry.options();
    let none = registry.directory.path().join("none.json");
    std::fs::write(&none, "{}").unwrap();
    options.access.auth_file = Some(none);
    let error = quiet(&name, &options).unwrap_err();
    assert!(
        matches!(error, Error::Registry { status: 403, .. }),
        "{error}"
    );
    assert_eq!(error.owner(), Owner::Configuration);
    // It does not have it.
    let error = quiet(
        &registry.name(&format!("sha256:{}", "0".repeat(64))),
        &registry.options(),
    )
    .unwrap_err();
    assert!(
        matches!(error, Error::Registry { status: 404, .. }),
        "{error}"
    );
    // A mirror that is down is passed over, and one that is up is enough.
    let mut options = registry.options();
    options.access.mirrors = vec![format!("localhost:{}=localhost:1", registry.port)];
    quiet(&name, &options).unwrap();
    options.access.mirrors = vec![format!("quay.example=localhost:{}", registry.port)];
    quiet(&format!("quay.example/test/os@{}", image.root), &options).unwrap();
    // A tag may be moved.
    let error = quiet(
        &format!("localhost:{}/test/os:latest", registry.port),
        &registry.options(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("a tag is not enough"), "{error}");
}

#[test]
fn signatures_are_of_this_key_and_for_this_digest() {
    let key = SigningKey::random(&mut rand_core::OsRng);
    let other = SigningKey::random(&mut rand_core::OsRng);
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("cosign.pub");
    let public = key
        .verifying_key()
        .to_public_key_pem(p256::pkcs8::LineEnding::LF)
        .unwrap();
    std::fs::write(&pem, public).unwrap();
    let image = Image::made("");
    let root = image.root.clone();
    for (number, (image, is_good)) in [
        (image.clone().signed(&key, &root), true),
        (image.clone().signed(&other, &root), false),
        (
            image
                .clone()
                .signed(&key, &format!("sha256:{}", "1".repeat(64))),
            false,
        ),
        (image, false),
    ]
    .into_iter()
    .enumerate()
    {
        let layout = directory.path().join(number.to_string());
        image.write_layout(&layout);
        let options = Options {
            cosign_key: Some(pem.clone()),
            ..Options::default()
        };
        let source = format!("{}@{root}", layout.display());
        let from_layout = quiet(&source, &options);
        let registry = Registry::serve(image, as_it_is);
        let options = Options {
            cosign_key: Some(pem.clone()),
            ..registry.options()
        };
        for result in [from_layout, quiet(&registry.name(&root), &options)] {
            match is_good {
                true => drop(result.unwrap()),
                false => assert!(
                    matches!(result, Err(Error::Unsigned { .. })),
                    "{number}: {result:?}"
                ),
            }
        }
    }
}
