// SPDX-License-Identifier: Apache-2.0

//! Images in layouts, archives and a registry: the same facts from each, and nothing but the bytes that were named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::{Image, Registry, Spoil, as_it_is};
use kbs_protocol::{Blame as _, Owner};
use measured_boot::facts::ImageFacts;
use p256::ecdsa::SigningKey;
use p256::pkcs8::EncodePublicKey as _;
use refvals::Error;
use refvals::source::{Options, load};
use serde_json::json;
use std::collections::BTreeMap;

fn quiet(source: &str, options: &Options) -> Result<ImageFacts, Error> {
    load(source, options, &mut |_, _| {})
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
    options.access.auth_file = Some(none.into());
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
            cosign_key: Some(pem.clone().into()),
            ..Options::default()
        };
        let source = format!("{}@{root}", layout.display());
        let from_layout = quiet(&source, &options);
        let registry = Registry::serve(image, as_it_is);
        let options = Options {
            cosign_key: Some(pem.clone().into()),
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

#[test]
fn an_image_that_is_too_large_or_takes_too_long_is_given_up() {
    let image = Image::made("");
    let registry = Registry::serve(image.clone(), as_it_is);
    let name = registry.name(&image.root);
    let size = image.blobs[&image.layer()].len() as u64;
    let mut options = registry.options();
    options.most_bytes = Some(size - 1);
    let error = quiet(&name, &options).unwrap_err();
    let expected = format!("its layers have {size} bytes, of at most {}", size - 1);
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(error.owner(), Owner::Data);
    assert_eq!(registry.requests("/cdn/"), 0, "and none of them is read");
    options.most_bytes = Some(size);
    quiet(&name, &options).unwrap();

    options.access.until = Some(std::time::Instant::now());
    let error = quiet(&name, &options).unwrap_err();
    assert!(
        error.to_string().contains("it took longer than it may"),
        "{error}"
    );
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Network, kbs_protocol::Persistence::Temporary)
    );
    options.access.until = Some(std::time::Instant::now() + std::time::Duration::from_secs(600));
    quiet(&name, &options).unwrap();
}

#[test]
fn a_secret_that_is_given_is_not_shown() {
    let given = refvals::Given::bytes("Secret x", kbs_protocol::Secret::new(b"hush".to_vec()));
    assert_eq!(format!("{given:?} {given}"), "Secret x Secret x");
    let given = given.by("spec.x");
    assert_eq!(
        format!("{given:?} {given}"),
        "Secret x (spec.x) Secret x (spec.x)"
    );
}
