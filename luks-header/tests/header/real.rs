// SPDX-License-Identifier: Apache-2.0
//! What cryptsetup and Clevis really write is understood, and what we write cryptsetup opens.

use super::made::{Head, bound, cryptsetup, format, import_token, token};
use luks_header::{Cipher, Extent, Rules};
use sheepfold_tests::node_root::{NodeRoot, Suite};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The volume's header as we write it, in a file of its own.
fn image(device: &Path, extent: Extent, rules: &Rules) -> tempfile::NamedTempFile {
    let image = Head::of(device)
        .examine(rules)
        .unwrap()
        .image(extent)
        .unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let source = fs::File::open(device).unwrap();
    file.as_file().write_all_at(&image.head, 0).unwrap();
    for area in &image.areas {
        let mut bytes = vec![0; area.size.try_into().unwrap()];
        source.read_exact_at(&mut bytes, area.offset).unwrap();
        file.as_file().write_all_at(&bytes, area.offset).unwrap();
    }
    file.as_file().set_len(image.size).unwrap();
    file
}

fn opens(device: &Path, header: &Path, passphrase: &str) -> bool {
    cryptsetup(&["open", "--test-passphrase", "--key-file", "-", "--header"])
        .args([header, device])
        .stdin(passphrase)
        .capture()
        .unwrap()
        .code
        == Some(0)
}

#[test]
fn what_cryptsetup_formats_is_accepted_and_our_copy_opens() {
    for args in [
        &[][..],
        &[
            "--luks2-metadata-size",
            "64k",
            "--luks2-keyslots-size",
            "512k",
        ],
        &["--luks2-metadata-size", "4m", "--luks2-keyslots-size", "8m"],
        &["--key-size", "256"],
        &["--hash", "sha512"],
        &["--sector-size", "512"],
        &["--offset", "36864"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = format(dir.path(), args);
        import_token(&path, &token(0));
        let rules = Rules::default();
        let volume = Head::of(&path).examine(&rules).unwrap();
        assert_eq!((volume.cipher, volume.tokens.len()), (Cipher::AesXts, 1));
        for extent in [Extent::Unlocking, Extent::Everything] {
            let header = image(&path, extent, &rules);
            assert!(opens(&path, header.path(), "first"), "{args:?}");
            assert!(!opens(&path, header.path(), "other"), "{args:?}");
        }
    }
}

#[test]
fn argon2_is_accepted_as_it_is_measured_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume");
    fs::File::create(&path).unwrap().set_len(20 << 20).unwrap();
    cryptsetup(&[
        "luksFormat",
        "--type",
        "luks2",
        "--batch-mode",
        "--key-file",
        "-",
    ])
    .arg(&path)
    .stdin("first")
    .success()
    .unwrap();
    import_token(&path, &token(0));
    Head::of(&path).examine(&Rules::default()).unwrap();
}

#[test]
fn a_volume_that_was_encrypted_in_place_is_accepted_and_one_half_way_is_not() {
    for (half, reason) in [(false, ""), (true, "re-encryption")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        fs::File::create(&path).unwrap().set_len(40 << 20).unwrap();
        let mut run = cryptsetup(&[
            "reencrypt",
            "--encrypt",
            "--type",
            "luks2",
            "--batch-mode",
            "--key-file",
            "-",
        ])
        .args([
            "--reduce-device-size",
            "16M",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
        ]);
        if half {
            run = run.arg("--init-only");
        }
        run.arg(&path).stdin("first").success().unwrap();
        if half {
            assert!(Head::of(&path).refusal().contains(reason));
            continue;
        }
        import_token(&path, &token(0));
        let volume = Head::of(&path).examine(&Rules::default()).unwrap();
        assert_eq!(volume.payload, 8 << 20);
        let header = image(&path, Extent::Unlocking, &Rules::default());
        assert!(opens(&path, header.path(), "first"));
    }
}

#[test]
fn the_image_for_unlocking_has_nothing_else_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = format(dir.path(), &["--label", "a-label"]);
    let second = dir.path().join("second");
    fs::write(&second, "second").unwrap();
    cryptsetup(&["luksAddKey", "--batch-mode", "--key-file", "-"])
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .args([&path, &second])
        .stdin("first")
        .success()
        .unwrap();
    import_token(&path, &token(0));
    let rules = Rules {
        other_keyslots: true,
        ..Rules::default()
    };
    let volume = Head::of(&path).examine(&rules).unwrap();
    let part = Head(volume.image(Extent::Unlocking).unwrap().head);
    assert_eq!(part.json()["keyslots"].as_object().unwrap().len(), 1);
    assert_eq!(part.json()["tokens"].as_object().unwrap().len(), 0);
    // All of it is all of it, down to the label.
    let whole = Head(volume.image(Extent::Everything).unwrap().head);
    assert_eq!(whole.json(), Head::of(&path).json());
    let (size, original) = (whole.size(), Head::of(&path));
    assert_eq!(whole.0[..448], original.0[..448]);
    // The second copy is one of its own kind, where it says it is.
    assert_eq!(whole.0[size..][..16], original.0[size..][..16]);
    assert_eq!(whole.0[size..][256..264], original.0[size..][256..264]);
    let mut alone = whole.clone();
    alone.0[..size].fill(0);
    assert!(alone.examine(&rules).is_ok());
}

#[test]
fn a_blank_in_the_metadata_is_not_kept() {
    let text = bound().json().to_string().replace(':', " :\n ");
    let volume = bound().with_text(&text).examine(&Rules::default()).unwrap();
    let head = Head(volume.image(Extent::Everything).unwrap().head);
    assert_eq!(head.json(), bound().json());
}

/// The cryptsetup of Debian 13 writes what this one accepts as well: plain, with a cipher and with a hash of its own choice.
#[test]
fn what_debian_13_formats_is_accepted() {
    let Some(root) = NodeRoot::new(Suite::Trixie).unwrap() else {
        return;
    };
    let version = root
        .tree
        .run(["cryptsetup", "--version"])
        .success()
        .unwrap();
    assert!(!version.out().contains(" 2.6."), "{version}");
    root.tree.write("first", "first").unwrap();
    root.tree.write("token", token(0).to_string()).unwrap();
    for script in [
        "--pbkdf pbkdf2 --pbkdf-force-iterations 1000",
        "--pbkdf argon2id --pbkdf-memory 32768 --pbkdf-force-iterations 4 --pbkdf-parallel 1",
        "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-size 256 --hash sha512 --sector-size 4096",
    ] {
        let script = format!(
            "rm -f /volume && truncate -s 20M /volume \
             && cryptsetup luksFormat --type luks2 -q --key-file /first {script} /volume \
             && cryptsetup token import --json-file /token /volume"
        );
        root.tree.run(["sh", "-c", &script]).success().unwrap();
        let volume = root.tree.path("volume");
        let judged = Head::of(&volume).examine(&Rules::default()).unwrap();
        assert_eq!((judged.cipher, judged.tokens.len()), (Cipher::AesXts, 1));
        let image = image(&volume, Extent::Unlocking, &Rules::default());
        assert!(opens(&volume, image.path(), "first"), "{script}");
    }
}
