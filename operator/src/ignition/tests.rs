// SPDX-License-Identifier: Apache-2.0

//! The rendered texts are files in `golden/`, which the black-box tests also give to the real
//! `ignition-validate`. `SHEEPFOLD_BLESS=1` writes them anew.

use super::{
    Error, Existing, Filesystem, Form, Format, Fragment, Integrity, MetadataSize, OpenOption,
    Source, SpecVersion, Volume,
};
use kbs_protocol::Blame as _;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The root of a CoreOS image: what most nodes need.
fn root() -> Volume {
    let device: Source = "/dev/disk/by-partlabel/root".parse().unwrap();
    Volume {
        label: Some("luks-root".parse().unwrap()),
        filesystem: Some(Filesystem {
            format: Format::Xfs,
            label: Some("root".parse().unwrap()),
            path: None,
        }),
        ..Volume::new("root".parse().unwrap(), device)
    }
}

/// Everything but what old specifications lack.
fn data() -> Volume {
    let device = "/dev/disk/by-id/virtio-data".parse().unwrap();
    Volume {
        uuid: Some("3f0c0a52-7d8f-4c39-9d6a-0f6f1d1f3b11".parse().unwrap()),
        existing: Existing::Refuse,
        metadata: MetadataSize::K128,
        filesystem: Some(Filesystem {
            format: Format::Ext4,
            label: None,
            path: Some("/var/lib/data".parse().unwrap()),
        }),
        ..Volume::new("data".parse().unwrap(), device)
    }
}

fn authenticated(volume: Volume, integrity: Integrity) -> Volume {
    Volume {
        integrity,
        ..volume
    }
}

/// What specification 3.4 added.
fn fast(volume: Volume) -> Volume {
    Volume {
        discard: true,
        open_options: vec![OpenOption::NoReadWorkqueue, OpenOption::NoWriteWorkqueue],
        ..volume
    }
}

fn fragment(volumes: impl Into<Vec<Volume>>) -> Fragment {
    Fragment {
        volumes: volumes.into(),
    }
}

fn parsed(fragment: &Fragment, spec: SpecVersion) -> Value {
    serde_json::from_str(&fragment.render(spec).unwrap()).unwrap()
}

#[test]
fn golden_files() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/ignition/golden");
    let mut cases = Vec::new();
    for spec in SpecVersion::ALL {
        cases.push((format!("root-{spec}.ign"), fragment([root()]), spec));
        let second = match spec < SpecVersion::V3_4 {
            true => data(),
            false => fast(data()),
        };
        let both = fragment([root(), second]);
        cases.push((format!("root-and-data-{spec}.ign"), both, spec));
        let both = [
            authenticated(root(), Integrity::HmacSha256),
            authenticated(data(), Integrity::Aead),
        ];
        cases.push((format!("authenticated-{spec}.ign"), fragment(both), spec));
    }
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut names: Vec<_> = cases.iter().map(|(name, ..)| name.clone()).collect();
    names.sort();
    let bless = std::env::var_os("SHEEPFOLD_BLESS").is_some();
    for (name, fragment, spec) in cases {
        let text = fragment.render(spec).unwrap();
        if bless {
            std::fs::write(dir.join(&name), &text).unwrap();
        }
        let golden = std::fs::read_to_string(dir.join(&name)).unwrap();
        assert_eq!(text, golden, "{name}");
    }
    assert!(bless || files == names, "{files:?}");
}

#[test]
fn the_specification_decides_how_the_pin_is_named() {
    for spec in SpecVersion::ALL {
        let config = parsed(&fragment([root()]), spec);
        assert_eq!(config["ignition"]["version"], spec.as_str());
        let custom = &config["storage"]["luks"][0]["clevis"]["custom"];
        let inner: Value = serde_json::from_str(custom["config"].as_str().unwrap()).unwrap();
        let direct = spec >= SpecVersion::V3_6Experimental;
        let (pin, inside) = match spec.form() {
            Form::Direct => ("trustee", json!({})),
            Form::Wrapped => ("sss", json!({ "t": 1, "pins": { "trustee": {} } })),
        };
        assert_eq!((custom["pin"].as_str(), &inner), (Some(pin), &inside));
        assert_eq!(spec.form() == Form::Direct, direct, "{spec}");
    }
}

#[test]
fn the_pin_understands_its_configuration() {
    let config = parsed(&fragment([root()]), SpecVersion::V3_6);
    let text = config["storage"]["luks"][0]["clevis"]["custom"]["config"].as_str();
    let read = clevis_pin::Config::parse(text.unwrap()).unwrap();
    assert!(read.unknown.is_empty() && read.servers.is_empty() && read.path.is_none());
}

/// Every reboot depends on it, and it can be forgotten by no caller.
#[test]
fn every_volume_asks_for_the_network() {
    for spec in SpecVersion::ALL {
        let config = parsed(&fragment([root(), data()]), spec);
        let volumes = config["storage"]["luks"].as_array().unwrap();
        assert_eq!(volumes.len(), 2);
        for volume in volumes {
            assert_eq!(volume["clevis"]["custom"]["needsNetwork"], true, "{spec}");
        }
    }
}

#[test]
fn what_is_on_the_device_is_wiped_or_respected() {
    let config = parsed(&fragment([root(), data()]), SpecVersion::V3_4);
    assert_eq!(config["storage"]["luks"][0]["wipeVolume"], true);
    assert_eq!(config["storage"]["luks"][1]["wipeVolume"], false);
}

#[test]
fn old_specifications_have_no_open_options() {
    let discards = Volume {
        discard: true,
        ..root()
    };
    let options = Volume {
        open_options: vec![OpenOption::NoReadWorkqueue],
        ..root()
    };
    for spec in [SpecVersion::V3_2, SpecVersion::V3_3] {
        for (volume, named) in [(&discards, "discard"), (&options, "openOptions")] {
            let error = fragment([volume.clone()]).render(spec).unwrap_err();
            assert!(
                matches!(&error, Error::NotInSpec { what, .. } if *what == named),
                "{error}"
            );
            assert!(error.advice().contains("2.15"), "{}", error.advice());
        }
    }
    for spec in [SpecVersion::V3_4, SpecVersion::V3_6] {
        let config = parsed(&fragment([fast(root())]), spec);
        assert_eq!(config["storage"]["luks"][0]["discard"], true);
        let options = &config["storage"]["luks"][0]["openOptions"];
        let both = json!(["--perf-no_read_workqueue", "--perf-no_write_workqueue"]);
        assert_eq!(options, &both);
    }
}

/// The words are those of `agent.toml`, and cryptsetup's.
#[test]
fn sectors_are_authenticated_as_it_is_wished() {
    for (integrity, word) in [
        (Integrity::None, "none"),
        (Integrity::HmacSha256, "hmac-sha256"),
        (Integrity::Aead, "aead"),
    ] {
        assert_eq!(integrity.to_string(), word);
        let read: Integrity = serde_json::from_value(json!(word)).unwrap();
        assert_eq!(read, integrity);
        for spec in SpecVersion::ALL {
            let config = parsed(&fragment([authenticated(root(), integrity)]), spec);
            let options = config["storage"]["luks"][0]["options"].as_array().unwrap();
            let after = |option: &str| {
                let place = options.iter().position(|found| found == option)?;
                options[place + 1].as_str()
            };
            let expected = (integrity != Integrity::None).then_some(word);
            assert_eq!(after("--integrity"), expected, "{spec}");
            assert_eq!(after("--sector-size"), expected.and(Some("4096")), "{spec}");
            let gcm = integrity == Integrity::Aead;
            let cipher = if gcm {
                "aes-gcm-random"
            } else {
                "aes-xts-plain64"
            };
            assert_eq!(after("--cipher"), Some(cipher));
            assert_eq!(after("--key-size"), Some(if gcm { "256" } else { "512" }));
        }
    }
    assert!(serde_json::from_value::<Integrity>(json!("hmac(sha256)")).is_err());
}

#[test]
fn authenticated_sectors_are_not_discarded() {
    for integrity in [Integrity::HmacSha256, Integrity::Aead] {
        let volume = authenticated(fast(root()), integrity);
        let error = fragment([volume.clone()])
            .render(SpecVersion::V3_6)
            .unwrap_err();
        assert!(matches!(error, Error::NoDiscards { .. }), "{error}");
        assert!(error.advice().contains("leave discard out"));
        let kept = Volume {
            discard: false,
            ..volume
        };
        fragment([kept]).render(SpecVersion::V3_6).unwrap();
    }
}

#[test]
fn the_metadata_area_has_room_to_bind_anew() {
    assert_eq!(
        super::render::token_bytes(Form::Direct),
        clevis_pin::header::MAX_HEADER.div_ceil(3) * 4 + 512,
        "the pin's limit for its header is another now"
    );
    let with = |metadata| fragment([Volume { metadata, ..root() }]);
    for spec in [SpecVersion::V3_3, SpecVersion::V3_6] {
        let error = with(MetadataSize::K16).render(spec).unwrap_err();
        let named = error.to_string();
        assert!(
            named.contains("a metadata size of 16k leaves 10240 bytes"),
            "{named}"
        );
        for enough in [MetadataSize::K32, MetadataSize::K64, MetadataSize::K128] {
            let options = &parsed(&with(enough), spec)["storage"]["luks"][0]["options"];
            let options: Vec<String> = serde_json::from_value(options.clone()).unwrap();
            assert!(options.ends_with(&["--luks2-metadata-size".to_owned(), enough.to_string()]));
        }
    }
}

#[test]
fn volumes_do_not_share() {
    assert_eq!(fragment([]).render(SpecVersion::V3_6), Err(Error::Empty));
    let same_name = Volume {
        device: "/dev/vdb".parse().unwrap(),
        ..root()
    };
    let same_device = Volume {
        name: "other".parse().unwrap(),
        ..root()
    };
    let same_uuid = |name: &str| Volume {
        name: name.parse().unwrap(),
        device: format!("/dev/{name}").parse().unwrap(),
        ..data()
    };
    for (first, second, shared) in [
        (root(), same_name, "name"),
        (root(), same_device, "device"),
        (same_uuid("a"), same_uuid("b"), "UUID"),
    ] {
        let error = fragment([first, second]).render(SpecVersion::V3_6);
        assert!(
            matches!(&error, Err(Error::Twice { what, .. }) if *what == shared),
            "{error:?}"
        );
    }
}

#[test]
fn a_label_fits_its_file_system() {
    let labelled = |format, length| {
        let label = Some("x".repeat(length).parse().unwrap());
        let filesystem = Some(Filesystem {
            format,
            label,
            path: None,
        });
        let volume = Volume {
            filesystem,
            ..root()
        };
        fragment([volume]).render(SpecVersion::V3_3)
    };
    for (format, limit) in [(Format::Ext4, 16), (Format::Xfs, 12)] {
        assert!(labelled(format, limit).is_ok());
        let error = labelled(format, limit + 1).unwrap_err();
        assert!(error.to_string().contains(&limit.to_string()), "{error}");
    }
    assert!(labelled(Format::Btrfs, 47).is_ok());
}

#[test]
fn texts_of_another_form_are_refused() {
    fn refused<T: std::str::FromStr<Err = Error>>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }
    let long = "x".repeat(101);
    refused::<super::MapperName>(&["", "-x", "a/b", "a.b", "a b", "é", &long]);
    refused::<Source>(&[
        "",
        "vda",
        "/vda",
        "/dev/",
        "/dev/../vda",
        "/dev//vda",
        "/dev/v da",
    ]);
    refused::<super::Label>(&["", "-x", "a b", "a/b", "a\n", &long]);
    refused::<super::VolumeUuid>(&[
        "",
        "3f0c0a52",
        "3F0C0A52-7d8f-4c39-9d6a-0f6f1d1f3b11",
        "3f0c0a527d8f-4c39-9d6a-0f6f1d1f3b11",
    ]);
    refused::<super::MountPoint>(&["", "var", "/var/", "/var/../etc", "/var lib"]);
    assert!("/".parse::<super::MountPoint>().is_ok());
}

#[test]
fn each_ignition_gets_its_newest_version() {
    for (ignition, spec) in [
        ("2.7.0", SpecVersion::V3_2),
        ("2.10.1", SpecVersion::V3_2),
        ("2.11.0", SpecVersion::V3_3),
        ("Ignition Debian 2.14.0+ds1-1+b6", SpecVersion::V3_3),
        ("2.15.0", SpecVersion::V3_4),
        ("v2.19.0", SpecVersion::V3_4),
        ("2.20.0", SpecVersion::V3_5),
        ("2.24.0", SpecVersion::V3_5),
        ("Ignition 2.25.1", SpecVersion::V3_6Experimental),
        ("2.26.0\n", SpecVersion::V3_6),
        ("2.99.0", SpecVersion::V3_6),
    ] {
        assert_eq!(SpecVersion::for_ignition(ignition), Ok(spec), "{ignition}");
    }
    for old in ["2.6.0", "0.35.0", "1.0"] {
        let error = SpecVersion::for_ignition(old).unwrap_err();
        assert!(matches!(error, Error::TooOld { .. }), "{old}: {error}");
    }
    for bad in ["", "new", "2", "3.0.0"] {
        let error = SpecVersion::for_ignition(bad).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{bad}: {error}");
    }
}
