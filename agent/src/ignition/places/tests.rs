// SPDX-License-Identifier: Apache-2.0

use super::{OF_OTHERS, Places};
use crate::ignition::IgnitionError;
use kbs_protocol::{Blame as _, Owner, Secret};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tempfile::TempDir;

/// A file system with a kernel command line and a vendor's base configs.
fn root(cmdline: &str) -> (TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "proc/cmdline", cmdline);
    write(dir.path(), "usr/lib/ignition/base.d/00-core.ign", "core");
    write(
        dir.path(),
        "usr/lib/ignition/base.platform.d/qemu/20.ign",
        "qemu",
    );
    // What a host has put there is no part of the vendor's base.
    write(dir.path(), "usr/lib/ignition/user.ign", "of the host");
    let places = Places::below(dir.path());
    (dir, places)
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

#[test]
fn both_places_are_filled_and_the_base_is_beside_the_older_one() {
    let (dir, places) = root("quiet ignition.firstboot ignition.platform.id=qemu");
    places.refuse_overrides().unwrap();
    let written = places.put(&secret("config")).unwrap();
    let expected = ["run/trustee/ignition/user.ign", "run/ignition/user.ign"];
    assert_eq!(written, expected.map(|name| dir.path().join(name)));
    let mode = |name: &str| {
        let metadata = fs::metadata(dir.path().join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    for name in expected {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"config");
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(mode("run/trustee/ignition"), 0o700);
    let ours = |name: &str| fs::read_to_string(dir.path().join("run/trustee/ignition").join(name));
    assert_eq!(ours("base.d/00-core.ign").unwrap(), "core");
    assert_eq!(ours("base.platform.d/qemu/20.ign").unwrap(), "qemu");
    let mut names: Vec<_> = fs::read_dir(dir.path().join("run/trustee/ignition"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["base.d", "base.platform.d", "user.ign"]);
}

#[test]
fn the_same_again_changes_nothing_and_another_is_refused() {
    let (dir, places) = root("");
    places.put(&secret("config")).unwrap();
    // A run that was killed before its rename.
    write(dir.path(), "run/ignition/user.part", "conf");
    places.refuse_overrides().unwrap();
    places.put(&secret("config")).unwrap();
    let error = places.put(&secret("another")).unwrap_err();
    assert!(matches!(error, IgnitionError::Present { .. }), "{error}");
    assert_eq!(error.owner(), Owner::Machine);

    let (dir, places) = root("");
    write(dir.path(), "run/ignition/user.ign", "of the host");
    let error = places.put(&secret("config")).unwrap_err();
    assert!(error.to_string().contains("user.ign"), "{error}");
    let there = fs::read_to_string(dir.path().join("run/ignition/user.ign")).unwrap();
    assert_eq!(there, "of the host", "left as evidence");
}

#[test]
fn a_link_in_the_way_is_not_followed() {
    let (dir, places) = root("");
    fs::create_dir_all(dir.path().join("run/ignition")).unwrap();
    let target = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&target, dir.path().join("run/ignition/user.part")).unwrap();
    places.put(&secret("config")).unwrap();
    assert!(!target.exists());
}

#[test]
fn what_would_win_over_us_is_refused() {
    for name in OF_OTHERS {
        let (dir, places) = root("");
        write(dir.path(), name, "of the host");
        let error = places.refuse_overrides().unwrap_err();
        assert!(
            error.to_string().contains(&format!("already /{name}")),
            "{error}"
        );
    }
    for argument in [
        "ignition.config.url=http://host.example/x.ign",
        "ignition.config.url=",
        "\"ignition.config.url=http://host.example/x.ign\"",
        "rd.ignition.config.url=x",
        "ignition.config.device=/dev/vda ignition.config.path=/x.ign",
        "ignition.config_url=x ignition.config.path=/x.ign",
    ] {
        let (_dir, places) = root(&format!("quiet {argument} ro"));
        let error = places.refuse_overrides().unwrap_err();
        assert!(
            matches!(error, IgnitionError::CommandLine(_)),
            "{argument}: {error}"
        );
        assert_eq!(error.owner(), Owner::Machine);
    }
    // The rest of the command line is the generator's business.
    let (_dir, places) = root("rd.break");
    places.refuse_overrides().unwrap();
    let (dir, places) = root("");
    fs::remove_file(dir.path().join("proc/cmdline")).unwrap();
    assert!(places.refuse_overrides().is_err(), "unread is not empty");
}
