// SPDX-License-Identifier: Apache-2.0

//! Images as other tools keep and save them. skopeo writes each form from one layout, and the facts must be the same;
//! then somebody changes what lies there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::{Image, gzip, sha256};
use kbs_protocol::{Blame as _, Owner};
use measured_boot::facts::ImageFacts;
use refvals::Error;
use refvals::source::{Options, load};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

fn quiet(source: &str) -> Result<ImageFacts, Error> {
    load(source, &Options::default(), &mut |_, _| {})
}

/// What was found, without the name by which it was looked for.
fn facts(source: &str) -> ImageFacts {
    let mut facts = quiet(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    facts.name = String::new();
    facts
}

fn archive(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        match kind {
            EntryType::Symlink | EntryType::Link => {
                let target = std::str::from_utf8(content).unwrap();
                header.set_size(0);
                builder.append_link(&mut header, path, target).unwrap();
            }
            _ => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, *content).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// Two layers: the second hides a kernel and brings another, and says otherwise what it is.
fn image() -> Image {
    let (file, link) = (EntryType::Regular, EntryType::Symlink);
    // A file that spans several reads.
    let large: Vec<u8> = (0..300_000_u32)
        .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
        .collect();
    let lower = archive(&[
        (EntryType::Directory, "usr/", b""),
        (EntryType::Directory, "usr/lib/", b""),
        (link, "lib", b"usr/lib"),
        (
            file,
            "usr/lib/os-release",
            b"NAME=x\nID=old\nVERSION_ID=1\n",
        ),
        (file, "usr/lib/modules/6.1/vmlinuz", b"not a program"),
        (file, "usr/share/large", &large),
        (EntryType::Link, "usr/share/again", b"usr/share/large"),
    ]);
    let upper = archive(&[
        (file, "usr/lib/modules/.wh.6.1", b""),
        (
            file,
            "usr/lib/os-release",
            b"NAME=x\nID=test\nVERSION_ID=2\n",
        ),
        (file, "usr/share/empty", b""),
    ]);
    Image::of_layers(&[lower, upper], r#"{"pcrs":[{"id":4,"value":"AB"}]}"#)
}

/// The image in a layout, and what is known of it.
fn layout() -> (TempDir, ImageFacts) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    image().write_layout(&path);
    let facts = facts(path.to_str().unwrap());
    assert_eq!(facts.os.as_ref().unwrap().id, "test");
    assert_eq!(facts.claimed_pcrs, BTreeMap::from([(4, "ab".to_owned())]));
    (directory, facts)
}

/// Has skopeo copy the layout somewhere; `false`, loudly, without it.
fn copied(directory: &TempDir, to: &str) -> bool {
    let copy = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy"])
        .arg(format!("oci:{}", directory.path().join("layout").display()))
        .arg(to)
        .output();
    match copy {
        Ok(output) if output.status.success() => true,
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("SKIPPED: skopeo is not installed");
            false
        }
    }
}

fn compressed(file: &Path) -> Vec<PathBuf> {
    let bytes = fs::read(file).unwrap();
    let (with_gzip, with_zstd) = (
        file.with_extension("tar.gz"),
        file.with_extension("tar.zst"),
    );
    fs::write(&with_gzip, gzip(&bytes)).unwrap();
    fs::write(&with_zstd, zstd::encode_all(bytes.as_slice(), 1).unwrap()).unwrap();
    vec![with_gzip, with_zstd]
}

#[test]
fn archives_as_skopeo_writes_them() {
    let (directory, expected) = layout();
    for kind in ["oci-archive", "docker-archive"] {
        let file = directory.path().join(format!("{kind}.tar"));
        if !copied(
            &directory,
            &format!("{kind}:{}:localhost/os:1", file.display()),
        ) {
            return;
        }
        for file in [vec![file.clone()], compressed(&file)].concat() {
            let file = file.display();
            for source in [
                format!("{file}"),
                format!("{kind}:{file}"),
                format!("{kind}:{file}:localhost/os:1"),
            ] {
                assert_eq!(facts(&source), expected, "{source}");
            }
            let error = quiet(&format!("{kind}:{file}:localhost/os:2")).unwrap_err();
            assert!(error.to_string().contains("is called so"), "{error}");
            let other = match kind {
                "oci-archive" => "docker-archive",
                _ => "oci-archive",
            };
            let error = quiet(&format!("{other}:{file}")).unwrap_err();
            assert!(error.to_string().contains("holds neither"), "{error}");
            assert_eq!(error.owner(), Owner::Data);
        }
    }
}

/// As Docker wrote them for years: a directory for each layer, a link where one comes twice, two images in one archive.
#[test]
fn archives_as_docker_saves_them() {
    let lower = archive(&[(
        EntryType::Regular,
        "usr/lib/os-release",
        b"NAME=x\nID=one\nVERSION_ID=1\n",
    )]);
    let upper = archive(&[(
        EntryType::Regular,
        "usr/lib/os-release",
        b"NAME=x\nID=two\nVERSION_ID=1\n",
    )]);
    let config = |layers: &[&Vec<u8>]| {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string()
    };
    let (one, two) = (config(&[&lower]), config(&[&lower, &upper]));
    let called = |config: &str| sha256(config.as_bytes()).replace("sha256:", "") + ".json";
    let manifest = json!([
        {"Config": called(&one), "RepoTags": ["os:1", "again:1"], "Layers": ["a/layer.tar"]},
        {"Config": called(&two), "RepoTags": ["os:2"], "Layers": ["b/layer.tar", "c/layer.tar"]},
    ]);
    let save = |manifest: &Value, lower: &[u8], first_config: &str| {
        let file = EntryType::Regular;
        let entries = archive(&[
            (file, "a/layer.tar", lower),
            (EntryType::Symlink, "b/layer.tar", b"../a/layer.tar"),
            (file, "c/layer.tar", &upper),
            (file, &called(&one), first_config.as_bytes()),
            (file, &called(&two), two.as_bytes()),
            (file, "manifest.json", manifest.to_string().as_bytes()),
        ]);
        let mut saved = tempfile::NamedTempFile::new().unwrap();
        saved.write_all(&entries).unwrap();
        saved
    };
    let saved = save(&manifest, &lower, &one);
    let at = |rest: &str| format!("{}{rest}", saved.path().display());
    let id = |source: &str| facts(source).os.unwrap().id;
    assert_eq!(id(&at(":os:1")), "one");
    assert_eq!(id(&at(":docker.io/library/again:1")), "one");
    assert_eq!(id(&at(":os:2")), "two");
    assert_eq!(id(&at(&format!("@{}", sha256(two.as_bytes())))), "two");
    let error = quiet(&at("")).unwrap_err().to_string();
    assert!(
        error.contains("write : and one of os:1, again:1, os:2"),
        "{error}"
    );

    // Other bytes than those that were named.
    let mut other = lower.clone();
    other[600] ^= 1;
    let spoiled = save(&manifest, &other, &one);
    for name in ["os:1", "os:2"] {
        let error = quiet(&format!("{}:{name}", spoiled.path().display())).unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
    }
    let spoiled = save(&manifest, &lower, &one.replace("layers", "Layers"));
    let error = quiet(&format!("{}:os:1", spoiled.path().display())).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    // More layers than the config knows.
    let mut more = manifest;
    more[0]["Layers"] = json!(["a/layer.tar", "c/layer.tar"]);
    let spoiled = save(&more, &lower, &one);
    let error = quiet(&format!("{}:os:1", spoiled.path().display())).unwrap_err();
    assert!(
        error.to_string().contains("not those of its config"),
        "{error}"
    );
}

#[test]
fn an_archive_that_was_cut_is_refused() {
    let (directory, _) = layout();
    let file = directory.path().join("cut.tar");
    if !copied(
        &directory,
        &format!("docker-archive:{}:x:1", file.display()),
    ) {
        return;
    }
    let whole = fs::read(&file).unwrap();
    for bytes in [whole.clone(), gzip(&whole)] {
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let error = quiet(file.to_str().unwrap()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Io { .. } | Error::Document { .. } | Error::Boot(_)
            ),
            "{error}"
        );
    }
}

#[test]
fn what_cannot_carry_a_signature_is_not_taken_for_signed() {
    let (directory, _) = layout();
    let root = directory.path();
    let (key, document) = (root.join("cosign.pub"), root.join("facts.json"));
    fs::write(&key, "not even read").unwrap();
    fs::write(&document, "{}").unwrap();
    let saved = root.join("saved.tar");
    fs::write(
        &saved,
        archive(&[(EntryType::Regular, "manifest.json", b"[]")]),
    )
    .unwrap();
    let options = Options {
        cosign_key: Some(key.into()),
        ..Options::default()
    };
    for source in [
        root.display().to_string(),
        document.display().to_string(),
        saved.display().to_string(),
        format!("containers-storage:[overlay@{}]x", root.display()),
    ] {
        let error = load(&source, &options, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, Error::Unsigned { .. }), "{source}: {error}");
    }
}

/// A storage of our own with the image in it, as this driver keeps it.
fn stored(driver: &str) -> Option<(TempDir, ImageFacts, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root may fill a storage of containers");
        return None;
    }
    let (directory, expected) = layout();
    let root = directory.path().join("storage");
    let run = directory.path().join("run");
    let name = format!(
        "containers-storage:[{driver}@{}+{}]localhost/os:1",
        root.display(),
        run.display()
    );
    let is_filled = copied(&directory, &name);
    // The driver mounts its directory upon itself and leaves it so; the directory could not be removed.
    if driver == "overlay" {
        let _ = Command::new("umount").arg(root.join("overlay")).output();
    }
    is_filled.then_some((directory, expected, root))
}

fn in_storage(driver: &str, root: &Path, name: &str) -> String {
    format!("containers-storage:[{driver}@{}]{name}", root.display())
}

/// The directory of the files of a layer that has this file.
fn layer_with(driver: &str, root: &Path, file: &str) -> PathBuf {
    let directories = match driver {
        "vfs" => root.join("vfs/dir"),
        _ => root.join("overlay"),
    };
    let mut layers = fs::read_dir(directories).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        match driver {
            "vfs" => path,
            _ => path.join("diff"),
        }
    });
    layers.find(|layer| layer.join(file).exists()).unwrap()
}

#[test]
fn what_podman_keeps() {
    for driver in ["vfs", "overlay"] {
        let Some((_directory, expected, root)) = stored(driver) else {
            return;
        };
        let images = root.join(format!("{driver}-images/images.json"));
        let images: Value = serde_json::from_slice(&fs::read(images).unwrap()).unwrap();
        let (id, digest) = (
            images[0]["id"].as_str().unwrap(),
            images[0]["digest"].as_str().unwrap(),
        );
        for name in [
            "localhost/os:1".to_owned(),
            format!("localhost/os@{digest}"),
            format!("@{id}"),
            id.to_owned(),
            format!("@sha256:{id}"),
        ] {
            let source = in_storage(driver, &root, &name);
            assert_eq!(facts(&source), expected, "{source}");
        }
        // The driver may be left out, and what only writers need may be there.
        for place in [
            root.display().to_string(),
            format!("{driver}@{}+/run/x:a=b", root.display()),
        ] {
            facts(&format!("containers-storage:[{place}]localhost/os:1"));
        }
        let named = quiet(&in_storage(driver, &root, "localhost/os:1")).unwrap();
        assert!(
            named
                .name
                .starts_with("containers-storage:localhost/os:1@sha256:")
        );
        for name in [
            "localhost/os:2",
            "other",
            &format!("x@sha256:{}", "0".repeat(64)),
        ] {
            let error = quiet(&in_storage(driver, &root, name)).unwrap_err();
            assert!(
                error.to_string().contains("no image of this name"),
                "{error}"
            );
        }
        let error = quiet(&in_storage("btrfs", &root, "x")).unwrap_err();
        assert_eq!(error.owner(), Owner::Configuration, "{error}");
    }
}

#[test]
fn what_was_changed_in_a_storage_is_found() {
    for driver in ["vfs", "overlay"] {
        let Some((_directory, _, root)) = stored(driver) else {
            return;
        };
        let source = in_storage(driver, &root, "localhost/os:1");
        let refused = |what: &str| {
            let error = quiet(&source).expect_err(what);
            assert_eq!(error.owner(), Owner::Data, "{what}: {error}");
            error.to_string()
        };
        let file = layer_with(driver, &root, "usr/share/large").join("usr/share/large");
        let good = fs::read(&file).unwrap();
        // As long as it was, with another bit; shorter; gone; a link to the same bytes outside.
        let mut other = good.clone();
        other[1_000_000] ^= 1;
        fs::write(&file, &other).unwrap();
        let error = refused("another bit");
        assert!(error.starts_with("the uncompressed layer"), "{error}");
        fs::write(&file, &good[..1000]).unwrap();
        let error = refused("shorter");
        assert!(
            error.contains("usr/share/large is shorter than it was"),
            "{error}"
        );
        fs::remove_file(&file).unwrap();
        refused("gone");
        let outside = root.join("outside");
        fs::write(&outside, &good).unwrap();
        symlink(&outside, &file).unwrap();
        refused("a link to the same bytes outside");
        fs::remove_file(&file).unwrap();
        fs::write(&file, &good).unwrap();
        quiet(&source).unwrap();
        // The directory in which it lies may be a link too.
        let share = file.parent().unwrap();
        let (kept, elsewhere) = (share.with_file_name("kept"), root.join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("large"), &good).unwrap();
        fs::rename(share, &kept).unwrap();
        symlink(&elsewhere, share).unwrap();
        refused("a directory outside");
        fs::remove_file(share).unwrap();
        fs::rename(&kept, share).unwrap();
        quiet(&source).unwrap();

        // The documents of the image, each under the name that its digest gives it.
        let images = root.join(format!("{driver}-images"));
        let documents: Vec<PathBuf> = fs::read_dir(&images)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .flat_map(|path| {
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
            })
            .collect();
        let manifest = documents.iter().find(|path| path.ends_with("manifest"));
        let manifest = fs::read(manifest.unwrap()).unwrap();
        let mut checked = 0;
        for document in documents {
            let good = fs::read(&document).unwrap();
            if good.is_empty() {
                continue;
            }
            fs::write(&document, [good.as_slice(), b" "].concat()).unwrap();
            // A second copy of the manifest is not read.
            let name = document.file_name().unwrap().to_string_lossy().into_owned();
            let is_second = name != "manifest" && good == manifest;
            match is_second {
                true => drop(quiet(&source).unwrap()),
                false => drop(refused(&name)),
            }
            checked += usize::from(!is_second);
            fs::write(&document, good).unwrap();
        }
        assert_eq!(checked, 3, "index, manifest and config");

        // A layer without the record of its archive, and one that does not exist.
        let layers = root.join(format!("{driver}-layers"));
        let record = fs::read_dir(&layers)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().ends_with(".tar-split.gz"))
            .unwrap();
        let kept = fs::read(&record).unwrap();
        fs::write(&record, &kept[..kept.len() / 2]).unwrap();
        refused("half of a record");
        fs::remove_file(&record).unwrap();
        let error = refused("no record");
        assert!(error.contains("skopeo copy"), "{error}");
        fs::write(&record, kept).unwrap();
        quiet(&source).unwrap();
        let list = layers.join("layers.json");
        let listed: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
        for chain in [
            json!([listed[1]]),
            // Its own parent, and a parent that leads out of the directory.
            json!([{"id": listed[1]["id"], "parent": listed[1]["id"]}]),
            json!([{"id": listed[1]["id"], "parent": "../x"}, {"id": "../x"}]),
        ] {
            fs::write(&list, chain.to_string()).unwrap();
            let error = quiet(&source).unwrap_err().to_string();
            assert!(
                error.contains("there is no layer")
                    || error.contains("an id: letters and digits")
                    || error.contains("not those of its config"),
                "{error}"
            );
        }
    }
}
