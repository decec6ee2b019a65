// SPDX-License-Identifier: Apache-2.0

//! Each rule of the model on its own: one thing is changed, and the events that follow are compared.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::made_up::{hashes, image, platform, set, story};
use measured_boot::bank::Bank;
use measured_boot::error::Error;
use measured_boot::facts::{ImageFacts, ShimVersion};
use measured_boot::path::{BootPath, Fallback, Route};
use measured_boot::platform::PlatformFacts;
use measured_boot::predict::{Measured, Prediction, candidates, predict};

const CALLING: &str = "Calling EFI Application from Boot Option";
const RETURNING: &str = "Returning from EFI Application from Boot Option";
const FIRMWARE: [&str; 6] = ["SecureBoot", "PK", "KEK", "db", "dbx", "|"];

fn grub() -> BootPath {
    BootPath {
        kernel_measurements: Some(1),
        ..BootPath::new(Route::ShimGrub)
    }
}

/// Predicts a boot of the made-up image, after a change.
fn boot(
    path: &BootPath,
    change: impl FnOnce(&mut ImageFacts, &mut PlatformFacts),
) -> Result<Prediction, Error> {
    let (mut image, mut platform) = (image(), platform());
    change(&mut image, &mut platform);
    predict(&image, &platform, path)
}

fn shim_version(image: &mut ImageFacts, major: u16, minor: u16) {
    image.shim.as_mut().unwrap().version = ShimVersion { major, minor };
}

#[test]
fn grub_without_shim() {
    let (image, mut platform) = (image(), platform());
    let path = BootPath::new(Route::Grub);
    let predict = |platform: &PlatformFacts, path: &BootPath| candidates(&image, platform, path);
    // Firmware loads the kernel for GRUB, verifies and measures it, or GRUB reads it itself.
    let boots = predict(&platform, &path).unwrap();
    let four = |kernel: &[&'static str]| [&[CALLING, "|", "loader"], kernel].concat();
    let seven = |last: &[&'static str]| [&FIRMWARE[..], &["db:loader"], last].concat();
    assert_eq!(story(&boots[0], 4), four(&[]));
    assert_eq!(story(&boots[0], 7), seven(&[]));
    // The kernel of the made-up image is nothing that the firmware trusts: that boot does not start.
    assert_eq!(boots.len(), 1);
    set(&mut platform, "db", &hashes(&["loader", "kernel"]));
    let boots = predict(&platform, &path).unwrap();
    assert_eq!(story(&boots[1], 4), four(&["kernel"]));
    assert_eq!(story(&boots[1], 7), seven(&["db:kernel"]));
    assert_eq!(boots.len(), 2);
    for boot in &boots {
        assert_eq!(story(boot, 14), Vec::<String>::new());
        assert_eq!(boot.unobserved.len(), 1, "nobody has seen it");
        assert_eq!(boot.sbat_level, None);
    }
    // A person has counted.
    let counted = BootPath {
        kernel_measurements: Some(1),
        ..path.clone()
    };
    let boots = predict(&platform, &counted).unwrap();
    assert_eq!(boots.len(), 1);
    assert_eq!(story(&boots[0], 4), four(&["kernel"]));
    assert!(boots[0].unobserved.is_empty());
    // Secure Boot off: nobody is asked.
    platform.secure_boot = false;
    let boots = predict(&platform, &path).unwrap();
    assert_eq!(boots.len(), 2);
    assert_eq!(story(&boots[1], 7), FIRMWARE);
    // GRUB that nobody trusts does not start, however often it would measure.
    platform.secure_boot = true;
    set(&mut platform, "db", &hashes(&["kernel"]));
    let error = predict(&platform, &path).unwrap_err();
    assert!(matches!(error, Error::NotAuthorised { .. }), "{error}");
}

#[test]
fn an_ordinary_boot() {
    let boot = boot(&grub(), |_, _| {}).unwrap();
    assert_eq!(story(&boot, 4), [CALLING, "|", "shim", "loader", "kernel"]);
    let authorities = ["db:shim", "SbatLevel", "db:loader", "vendor_db:kernel"];
    assert_eq!(story(&boot, 7), [&FIRMWARE[..], &authorities].concat());
    let fourteen = story(&boot, 14);
    assert_eq!(fourteen.len(), 3);
    // An empty MokListX is one that matches nothing.
    assert_eq!(
        boot.events
            .iter()
            .filter(|e| e.pcr == 14)
            .nth(1)
            .unwrap()
            .what,
        "the content of MokListX"
    );
    assert_eq!(fourteen[2], "\u{1}");
    assert_eq!(boot.pcrs.iter().copied().collect::<Vec<_>>(), [4, 7, 14]);
    assert!(boot.unobserved.is_empty());
    assert_eq!(boot.sbat_level.unwrap().as_ref(), b"sbat,1,2021030218\n");
}

#[test]
fn the_routes_of_a_unified_kernel_image() {
    let direct = boot(&BootPath::new(Route::Uki), |_, _| {}).unwrap();
    assert_eq!(story(&direct, 4), [CALLING, "|", "uki"]);
    assert_eq!(story(&direct, 7), [&FIRMWARE[..], &["db:uki"]].concat());
    assert_eq!(
        story(&direct, 11),
        [".linux\0", "the content of the section .linux"]
    );
    assert_eq!(
        direct.pcrs.iter().copied().collect::<Vec<_>>(),
        [4, 7, 11, 12, 13, 14]
    );
    let pcrs = direct.pcrs(Bank::Sha512).unwrap();
    for untouched in [12, 13, 14] {
        assert_eq!(pcrs.get(untouched), Bank::Sha512.zero());
    }
    assert!(direct.unobserved.is_empty());
    assert!(direct.sbat_level.is_none());

    let through_shim = boot(&BootPath::new(Route::ShimUki), |_, _| {}).unwrap();
    assert_eq!(story(&through_shim, 4), [CALLING, "|", "shim", "uki"]);
    // Firmware's list and shim's are two: the entry that firmware did not need is shim's first.
    assert_eq!(
        story(&through_shim, 7)[6..],
        ["db:shim", "SbatLevel", "db:uki"]
    );

    let through_sdboot = boot(&BootPath::new(Route::SdbootUki), |_, _| {}).unwrap();
    assert_eq!(story(&through_sdboot, 4), [CALLING, "|", "loader", "uki"]);
    assert_eq!(story(&through_sdboot, 7)[6..], ["db:loader", "db:uki"]);
    assert!(!through_sdboot.unobserved.is_empty());

    let mut later = BootPath::new(Route::Uki);
    later.phases = vec!["enter-initrd".to_owned()];
    let later = boot(&later, |_, _| {}).unwrap();
    assert_eq!(story(&later, 11)[2..], ["enter-initrd"]);
    assert!(later.events.last().unwrap().runtime);
}

#[test]
fn secure_boot_off() {
    let mut path = grub();
    path.kernel_measurements = Some(0);
    let off = boot(&path, |image, platform| {
        platform.secure_boot = false;
        platform.variables.clear();
        set(platform, "SbatLevel", b"sbat,1,2025021800\n");
        // Nobody looks at authorities, so that nobody misses them.
        image.shim.as_mut().unwrap().vendor_authorized.0.clear();
    })
    .unwrap();
    assert_eq!(story(&off, 4), [CALLING, "|", "shim", "loader"]);
    assert_eq!(story(&off, 7), [&FIRMWARE[..], &["SbatLevel"]].concat());
    assert_eq!(off.sbat_level.unwrap().as_ref(), b"sbat,1,2021030218\n");
    let secure_boot = off
        .events
        .iter()
        .find(|event| event.what == "the variable SecureBoot");
    let on = boot(&grub(), |_, _| {}).unwrap();
    assert_ne!(
        secure_boot.unwrap().digest(Bank::Sha256),
        on.events[0].digest(Bank::Sha256)
    );
    let uki = boot(&BootPath::new(Route::Uki), |_, platform| {
        platform.secure_boot = false
    })
    .unwrap();
    assert!(!uki.unobserved.is_empty());
}

#[test]
fn what_happens_on_the_way() {
    let mut path = grub();
    path.failed_boot_options = 2;
    let failed = boot(&path, |_, _| {}).unwrap();
    assert_eq!(
        story(&failed, 4),
        [
            CALLING, "|", RETURNING, CALLING, RETURNING, CALLING, "shim", "loader", "kernel"
        ]
    );

    path = grub();
    path.fallback = Fallback::Continues;
    let fallback = boot(&path, |_, _| {}).unwrap();
    assert_eq!(
        story(&fallback, 4),
        [CALLING, "|", "shim", "fallback", "shim", "loader", "kernel"]
    );
    // Firmware remembers that it has measured shim's authority, the second shim remembers nothing.
    assert_eq!(
        story(&fallback, 7)[6..],
        [
            "db:shim",
            "SbatLevel",
            "vendor_db:fallback",
            "SbatLevel",
            "db:loader",
            "vendor_db:kernel"
        ]
    );
    assert!(!fallback.unobserved.is_empty());

    path = grub();
    path.kernel_measurements = Some(2);
    let twice = boot(&path, |_, _| {}).unwrap();
    assert_eq!(
        story(&twice, 4)[2..],
        ["shim", "loader", "kernel", "kernel"]
    );
}

#[test]
fn a_grub_that_nobody_has_counted() {
    let path = BootPath::new(Route::ShimGrub);
    let error = boot(&path, |_, _| {}).unwrap_err();
    assert!(
        matches!(&error, Error::Uncalibrated { candidates, .. } if *candidates == [1, 2]),
        "{error}"
    );
    let all = candidates(&image(), &platform(), &path).unwrap();
    let counts: Vec<u8> = all.iter().map(|one| one.kernel_measurements).collect();
    assert_eq!(counts, [1, 2]);
    assert!(all.iter().all(|one| !one.unobserved.is_empty()));

    let debian =
        "sbat,1,x\ngrub,5,FSF,grub,2.06,url\ngrub.debian,5,Debian,grub2,2.06-13+deb12u2,url\n";
    let known = boot(&path, |image, _| {
        image.boot_loader.as_mut().unwrap().sbat = Some(debian.to_owned());
    });
    assert_eq!(
        story(&known.unwrap(), 4)[2..],
        ["shim", "loader", "kernel", "kernel"]
    );
}

#[test]
fn versions_of_shim() {
    let of = |major, minor| boot(&grub(), |image, _| shim_version(image, major, minor));
    // Up to 15.7 an absent MokListTrusted is an authority as well.
    for minor in [6, 7] {
        let old = of(15, minor).unwrap();
        assert_eq!(
            story(&old, 7)[6..9],
            ["db:shim", "SbatLevel", "MokListTrusted"]
        );
        assert_eq!(story(&old, 14).len(), 3);
        assert!(!old.unobserved.is_empty());
    }
    for (major, minor) in [(15, 8), (16, 0), (16, 1)] {
        let new = of(major, minor).unwrap();
        assert_eq!(story(&new, 7)[6..9], ["db:shim", "SbatLevel", "db:loader"]);
        assert!(new.unobserved.is_empty());
    }
    assert!(!of(17, 0).unwrap().unobserved.is_empty());
    let error = of(15, 5).unwrap_err().to_string();
    assert!(error.contains("shim 15.5 cannot be predicted"), "{error}");
}

#[test]
fn variables_of_shim() {
    let with = |name: &'static str, content: &'static [u8]| {
        boot(&grub(), |_, platform| set(platform, name, content)).unwrap()
    };
    let trusted = with("MokListTrusted", &[1]);
    assert_eq!(story(&trusted, 14).len(), 2);

    let policy = with("MokPolicy", b"P");
    assert_eq!(story(&policy, 14)[3], "P");

    // Validation disabled: measured twice, and shim verifies nothing any more.
    let disabled = with("MokSBState", &[1]);
    assert_eq!(
        story(&disabled, 7)[6..],
        ["db:shim", "MokSBState", "SbatLevel"]
    );
    assert_eq!(story(&disabled, 14)[2..], ["\u{1}", "\u{1}"]);

    let plain = boot(&grub(), |_, _| {}).unwrap();
    let enrolled = hashes(&["something of the owner"]);
    let list = boot(&grub(), |_, platform| set(platform, "MokList", &enrolled)).unwrap();
    let measured = |boot: &Prediction| match &boot.events.iter().find(|e| e.pcr == 14).unwrap().data
    {
        Measured::Bytes(bytes) => bytes.0.clone(),
        Measured::File(_) => panic!("a list is bytes"),
    };
    assert_eq!(measured(&list), [measured(&plain), enrolled].concat());
    // Not signature lists: which of them shim would find something in is not for us to guess.
    let error = boot(&grub(), |_, platform| set(platform, "MokListX", b"broken")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("EFI_SIGNATURE_LIST is cut short"),
        "{error}"
    );
}

#[test]
fn variables_of_firmware() {
    let optional = boot(&grub(), |_, platform| {
        set(platform, "dbt", b"t");
        set(platform, "dbr", b"r");
        set(platform, "dbDefault", b"not measured");
    });
    assert_eq!(
        story(&optional.unwrap(), 7)[..8],
        ["SecureBoot", "PK", "KEK", "db", "dbx", "dbt", "dbr", "|"]
    );
    // An option ROM that the same entry authorised: before the separator, and once.
    let rom = boot(&grub(), |_, platform| {
        let entry = &hashes(&["shim"])[28..];
        platform.option_rom_authorities.push(common::blob(entry));
    });
    assert_eq!(
        story(&rom.unwrap(), 7)[5..9],
        ["db:shim", "|", "SbatLevel", "db:loader"]
    );
}

#[test]
fn what_is_refused() {
    let refusal =
        |change: fn(&mut ImageFacts, &mut PlatformFacts)| boot(&grub(), change).unwrap_err();
    for (error, text) in [
        (
            refusal(|_, p| p.preboot_actions.push("UEFI Debug Mode".to_owned())),
            "which measures \"UEFI Debug Mode\" cannot be predicted",
        ),
        (
            refusal(|i, _| i.extras.push("revocations_sbat.efi".to_owned())),
            "revocations_sbat.efi of the image image cannot be predicted",
        ),
        (refusal(|i, _| i.shim = None), "the image image has no shim"),
        (refusal(|i, _| i.boot_loader = None), "has no boot loader"),
        (refusal(|i, _| i.kernel = None), "has no kernel"),
    ] {
        assert!(error.to_string().contains(text), "{error}");
        assert!(!error.means_no_boot());
    }
    for (error, text) in [
        (
            refusal(|_, p| set(p, "db", &hashes(&["loader"]))),
            "shim is not authorised by any key of platform",
        ),
        (
            refusal(|i, p| {
                i.shim.as_mut().unwrap().vendor_authorized.0.clear();
                set(p, "db", &hashes(&["shim"]));
            }),
            "loader is not authorised by any key of platform and shim",
        ),
        (
            refusal(|_, p| set(p, "dbx", &hashes(&["shim"]))),
            "shim is revoked by dbx",
        ),
        (
            refusal(|_, p| set(p, "dbx", &hashes(&["kernel"]))),
            "kernel is revoked by dbx",
        ),
        (
            refusal(|_, p| set(p, "MokListX", &hashes(&["kernel"]))),
            "kernel is revoked by MokListX",
        ),
        (
            refusal(|i, _| {
                i.shim.as_mut().unwrap().vendor_deauthorized = common::blob(&hashes(&["loader"]));
            }),
            "loader is revoked by MokListX",
        ),
        (
            refusal(|i, p| {
                set(p, "SbatLevel", b"sbat,1,2025021800\nshim,4\n");
                i.shim.as_mut().unwrap().file.sbat = Some("shim,3,x\n".to_owned());
            }),
            "shim is revoked by SbatLevel",
        ),
        (
            refusal(|i, p| {
                set(p, "SbatLevel", b"sbat,1,2025021800\ngrub,5\n");
                i.boot_loader.as_mut().unwrap().sbat = Some("grub,4,x\n".to_owned());
            }),
            "loader is revoked by SbatLevel",
        ),
    ] {
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.means_no_boot());
    }
    let mut only_sha256 = image();
    only_sha256.kernel.as_mut().unwrap().authenticode =
        serde_json::from_value(serde_json::json!({"sha256": "1".repeat(64)})).unwrap();
    let mut platform = platform();
    set(&mut platform, "MokList", &{
        let mut list = hashes(&["x"]);
        let at = list.len() - 32;
        list[at..].fill(0x11);
        list
    });
    let prediction = predict(&only_sha256, &platform, &grub()).unwrap();
    assert!(prediction.pcrs(Bank::Sha256).is_ok());
    let error = prediction.pcrs(Bank::Sha384).unwrap_err().to_string();
    assert_eq!(error, "no sha384 digest is known of kernel");
}

#[test]
fn facts_survive_a_document() {
    let facts = image();
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<ImageFacts>(&json).unwrap(), facts);
    let path = r#"{"route":"shim-grub","kernelMeasurements":2,"fallback":"continues"}"#;
    let path: BootPath = serde_json::from_str(path).unwrap();
    assert_eq!(
        (path.kernel_measurements, path.fallback),
        (Some(2), Fallback::Continues)
    );
    assert!(serde_json::from_str::<BootPath>(r#"{"route":"uki","kernal":2}"#).is_err());
}
