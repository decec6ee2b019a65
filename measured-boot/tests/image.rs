// SPDX-License-Identifier: Apache-2.0

//! Images made by hand, layer by layer: what hides what, how files come under their paths, and archives that no honest
//! tool writes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::pe_file::PeFile;
use measured_boot::Error;
use measured_boot::facts::ImageFacts;
use measured_boot::image::{Choice, Scanner};
use measured_boot::path::Route;
use measured_boot::pe::{PeFacts, stream};
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

/// One layer.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", content)
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn hard(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn program(text: &str) -> Vec<u8> {
    PeFile::new(vec![(".text", text.as_bytes().to_vec())])
        .build()
        .0
}

fn shim() -> Vec<u8> {
    let vendor: Vec<u8> = [3_u32, 0, 16, 19]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .chain(*b"abc")
        .collect();
    PeFile::new(vec![
        (".text", b"shim".to_vec()),
        (".vendor_cert", vendor),
        (".data.ident", b"UEFI SHIM\n$Version: 16.1 $\n".to_vec()),
    ])
    .build()
    .0
}

fn uki(text: &str) -> Vec<u8> {
    PeFile::new(vec![
        (".linux", text.as_bytes().to_vec()),
        (".osrel", b"ID=x".to_vec()),
    ])
    .build()
    .0
}

fn scan(layers: &[Vec<u8>]) -> Result<ImageFacts, Error> {
    scan_with(layers, &Choice::default())
}

fn scan_with(layers: &[Vec<u8>], choice: &Choice) -> Result<ImageFacts, Error> {
    let mut scanner = Scanner::new();
    for layer in layers {
        scanner.layer(&mut layer.as_slice())?;
    }
    scanner.finish("image", choice)
}

/// A whole image in one layer.
fn base() -> Layer {
    Layer::new()
        .directory("usr/")
        .file(
            "usr/lib/os-release",
            b"NAME=\"Test\"\nID=test\nVERSION_ID=\"7\"\nPRETTY_NAME=\"Test 7\"\n",
        )
        .file("./usr/lib/modules/6.1/vmlinuz", &program("kernel"))
        .file("usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI", &shim())
        .file(
            "usr/lib/bootupd/updates/EFI/BOOT/fbx64.efi",
            &program("fallback"),
        )
        .file("usr/lib/bootupd/updates/EFI/test/shimx64.efi", &shim())
        .file(
            "usr/lib/bootupd/updates/EFI/test/grubx64.efi",
            &program("grub"),
        )
        .file(
            "usr/lib/bootupd/updates/EFI/test/grub.cfg",
            b"configfile $prefix/x\n",
        )
        .file(
            "usr/lib/bootupd/updates/EFI/test/mmx64.efi",
            &program("mok manager"),
        )
}

fn digest(bytes: &[u8]) -> measured_boot::bank::Digests {
    PeFacts::read("", bytes).unwrap().authenticode
}

#[test]
fn an_image_has_its_parts() {
    let image = scan(&[base().end()]).unwrap();
    assert_eq!(image.route, Some(Route::ShimGrub));
    assert_eq!(image.kernel_release.as_deref(), Some("6.1"));
    let kernel = image.kernel.unwrap();
    assert_eq!(
        (kernel.name.as_str(), kernel.authenticode),
        ("usr/lib/modules/6.1/vmlinuz", digest(&program("kernel")))
    );
    assert_eq!(
        image.shim.unwrap().file.name,
        "usr/lib/bootupd/updates/EFI/test/shimx64.efi"
    );
    assert_eq!(
        image.boot_loader.unwrap().authenticode,
        digest(&program("grub"))
    );
    let os = image.os.unwrap();
    assert_eq!(
        (
            os.id.as_str(),
            os.version_id.as_str(),
            os.pretty_name.as_str()
        ),
        ("test", "7", "Test 7")
    );
    assert_eq!(
        image.grub_configs[0].path,
        "usr/lib/bootupd/updates/EFI/test/grub.cfg"
    );
    assert!(image.extras.is_empty());
}

#[test]
fn compressions_do_not_matter() {
    let plain = base().end();
    let expected = scan(std::slice::from_ref(&plain)).unwrap();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let (a, b) = plain.split_at(plain.len() / 3);
    // A skippable frame, as zstd:chunked has at the end and some tools at the start.
    let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".as_slice(), &zstd(&plain)].concat();
    for layer in [
        gzip(&plain),
        [gzip(a), gzip(b)].concat(),
        zstd(&plain),
        [zstd(a), zstd(b)].concat(),
        skipped,
    ] {
        assert_eq!(scan(&[layer]).unwrap(), expected);
    }
    let cut = gzip(&plain);
    let error = scan(&[cut[..cut.len() / 2].to_vec()])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("tar archive cannot be read after"),
        "{error}"
    );
    // A window of 128 MiB is memory that somebody else decides about.
    let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.include_contentsize(false).unwrap();
    wide.write_all(&plain).unwrap();
    assert!(scan(&[wide.finish().unwrap()]).is_err());
}

#[test]
fn upper_layers_hide_lower_ones_and_not_themselves() {
    let kernels = |layers: &[Vec<u8>]| {
        let image = scan(layers)?;
        Ok::<_, Error>(image.kernel.map(|kernel| kernel.name))
    };
    let new = |layer: Layer| {
        layer
            .file("usr/lib/modules/6.2/vmlinuz", &program("new"))
            .end()
    };
    // Without a whiteout there are two.
    let two = kernels(&[base().end(), new(Layer::new())]).unwrap_err();
    assert_eq!(
        two.to_string(),
        "the image image has several kernels: usr/lib/modules/6.1/vmlinuz, usr/lib/modules/6.2/vmlinuz"
    );
    let chosen = Choice {
        select: vec!["usr/lib/modules/6.1/".to_owned()],
        ..Choice::default()
    };
    let chosen = scan_with(&[base().end(), new(Layer::new())], &chosen).unwrap();
    assert_eq!(chosen.kernel_release.as_deref(), Some("6.1"));
    let expected = Some("usr/lib/modules/6.2/vmlinuz".to_owned());
    for layer in [
        new(Layer::new().file("usr/lib/modules/.wh.6.1", b"")),
        new(Layer::new().file("usr/lib/modules/6.1/.wh.vmlinuz", b"")),
        new(Layer::new().file("usr/lib/modules/.wh..wh..opq", b"")),
        // A file in the place of a directory.
        new(Layer::new().file("usr/lib/modules/6.1", b"no directory")),
        // After what it must not hide.
        Layer::new()
            .file("usr/lib/modules/6.2/vmlinuz", &program("new"))
            .file("usr/lib/modules/.wh..wh..opq", b"")
            .end(),
        Layer::new()
            .file("usr/lib/modules/6.2/vmlinuz", &program("new"))
            .file("usr/lib/modules/.wh.6.2", b"")
            .file("usr/lib/modules/.wh.6.1", b"")
            .end(),
    ] {
        assert_eq!(kernels(&[base().end(), layer]).unwrap(), expected);
    }
    // The last of two entries counts, and a directory hides nothing.
    let again = base()
        .file("usr/lib/modules/6.1/vmlinuz", &program("again"))
        .end();
    let again = scan(&[again, Layer::new().directory("usr/lib/modules/6.1").end()]).unwrap();
    assert_eq!(
        again.kernel.unwrap().authenticode,
        digest(&program("again"))
    );
    // Gone altogether.
    let gone = Layer::new().file(".wh.usr", b"").end();
    let gone = scan(&[base().end(), gone]).unwrap();
    assert!(gone.kernel.is_none() && gone.shim.is_none() && gone.route.is_none());
}

#[test]
fn files_come_under_their_paths_through_links() {
    let objects = "sysroot/ostree/repo/objects";
    let layer = Layer::new()
        .file(&format!("{objects}/aa/kernel.file"), &program("kernel"))
        .file(
            &format!("{objects}/bb/text.file"),
            b"NAME=x\nID=fedora\nVERSION_ID=42\n",
        )
        .hard(
            "usr/lib/modules/6.1/vmlinuz",
            &format!("{objects}/aa/kernel.file"),
        )
        .hard("usr/lib/os-release", &format!("./{objects}/bb/text.file"))
        .link("lib", "usr/lib")
        .link("usr/etc/os-release", "../lib/os-release")
        .end();
    let image = scan(std::slice::from_ref(&layer)).unwrap();
    assert_eq!(
        image.kernel.unwrap().authenticode,
        digest(&program("kernel"))
    );
    assert_eq!(image.os.unwrap().id, "fedora");
    // An engine follows the link of the lower layer; a link that leads out of the image stays inside.
    let through = Layer::new()
        .file("lib/modules/6.1/vmlinuz", &program("through"))
        .end();
    let image = scan(&[layer.clone(), through]).unwrap();
    assert_eq!(
        image.kernel.unwrap().authenticode,
        digest(&program("through"))
    );
    let outside = Layer::new()
        .link("out", "../../../usr/lib")
        .file("out/modules/6.1/vmlinuz", &program("outside"))
        .link("loop", "loop")
        .file("loop/x/vmlinuz", &program("loop"))
        .end();
    let image = scan(&[layer, outside]).unwrap();
    assert_eq!(
        image.kernel.unwrap().authenticode,
        digest(&program("outside"))
    );
}

#[test]
fn grub_that_firmware_starts() {
    let grub = |text: &str| {
        let sections = vec![
            (".text", text.as_bytes().to_vec()),
            (".sbat", b"sbat,1,x\ngrub,5,FSF,grub,2.12,url\n".to_vec()),
        ];
        PeFile::new(sections).build().0
    };
    let kernel = || Layer::new().file("boot/vmlinuz-6.1", &program("kernel"));
    let found = |layer: Layer, choice: &Choice| scan_with(&[layer.end()], choice).unwrap();
    let without = Choice {
        route: Some(Route::Grub),
        ..Choice::default()
    };
    // By its own name, under that of removable media, both, or as it is packaged.
    let (vendor, removable) = ("EFI/debian/grubx64.efi", "EFI/BOOT/BOOTX64.EFI");
    let packaged = "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi";
    for (paths, choice) in [
        (&[vendor][..], Choice::default()),
        (&[removable], Choice::default()),
        (&[vendor, removable], Choice::default()),
        (&[vendor, removable], without.clone()),
        (&[packaged], without.clone()),
    ] {
        let layer = paths
            .iter()
            .fold(kernel(), |layer, path| layer.file(path, &grub("grub")));
        let image = found(layer, &choice);
        assert_eq!(image.route, Some(Route::Grub), "{paths:?}");
        assert_eq!(
            image.boot_loader.unwrap().authenticode,
            digest(&grub("grub"))
        );
        assert!(image.shim.is_none() && image.kernel.is_some(), "{paths:?}");
    }
    // Two that differ: a person has to say which.
    let two = kernel()
        .file(vendor, &grub("one"))
        .file(removable, &grub("two"))
        .end();
    let error = scan_with(&[two], &without).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
    // Where shim is, it is passed over only by a person who says so.
    let both = || {
        kernel()
            .file("EFI/debian/shimx64.efi", &shim())
            .file(removable, &shim())
            .file(vendor, &grub("grub"))
    };
    assert_eq!(
        found(both(), &Choice::default()).route,
        Some(Route::ShimGrub)
    );
    let image = found(both(), &without);
    assert_eq!((image.route, image.shim), (Some(Route::Grub), None));
    assert_eq!(image.boot_loader.unwrap().name, vendor);
    // Another program in front of a kernel is nothing that we know.
    let other = kernel().file(removable, &program("who knows"));
    assert_eq!(found(other, &Choice::default()).route, None);
}

#[test]
fn what_stands_in_front_decides_about_the_way() {
    let uki = |layer: Layer| layer.file("EFI/Linux/a.efi", &uki("a")).end();
    assert_eq!(scan(&[uki(Layer::new())]).unwrap().route, Some(Route::Uki));
    let sdboot = PeFile::new(vec![(
        ".sbat",
        b"sbat,1,x\nsystemd-boot,1,systemd,systemd,257,url\n".to_vec(),
    )])
    .build()
    .0;
    let sdboot = Layer::new().file("EFI/BOOT/BOOTX64.EFI", &sdboot);
    assert_eq!(scan(&[uki(sdboot)]).unwrap().route, Some(Route::SdbootUki));
    let shim = |second: &[u8]| {
        Layer::new()
            .file("EFI/BOOT/BOOTX64.EFI", &shim())
            .file("EFI/BOOT/grubx64.efi", second)
    };
    let second = scan(&[shim(&self::uki("second")).end()]).unwrap();
    assert_eq!(second.route, Some(Route::ShimUki));
    assert_eq!(second.uki.unwrap().file.name, "EFI/BOOT/grubx64.efi");
    // Measured on their way.
    let extras = shim(&program("grub"))
        .file("EFI/BOOT/revocations_sbat.efi", &program("r"))
        .file("EFI/BOOT/shim_certificate_1.efi", &program("c"))
        .file(
            "EFI/BOOT/BOOTX64.CSV",
            &"shimx64.efi,x,\\other.efi,text\n"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>(),
        )
        .file("EFI/Linux/a.efi.extra.d/b.addon.efi", &program("addon"))
        .end();
    assert_eq!(scan(&[extras]).unwrap().extras.len(), 4);
    // Two different first stages: nobody guesses which one firmware starts.
    let other = base()
        .file(
            "usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI",
            &program("other"),
        )
        .end();
    let error = scan(&[other]).unwrap_err().to_string();
    assert!(
        error.contains("several programs that firmware may start"),
        "{error}"
    );
    // Components in versions.
    let version = |layer: Layer, version: &str| {
        layer.file(
            &format!("usr/lib/efi/shim/{version}/EFI/test/shimx64.efi"),
            &self::shim(),
        )
    };
    let one = version(Layer::new(), "15.8").file(
        "usr/lib/efi/grub2/2.12/EFI/test/grubx64.efi",
        &program("grub"),
    );
    assert!(scan(&[one.end()]).unwrap().boot_loader.is_some());
    let two = version(version(Layer::new(), "15.8"), "16.1").end();
    assert!(matches!(scan(&[two]), Err(Error::Ambiguous { .. })));
}

#[test]
fn archives_that_can_be_read_in_two_ways_are_refused_with_their_offset() {
    let layer = |kind: u8, path: &str, content: &[u8]| {
        Layer::new()
            .file("first", b"x")
            .entry(EntryType::new(kind), path, "", content)
            .file("last", b"y")
            .end()
    };
    let record = |text: &str| {
        let mut length = text.len();
        while length != text.len() + length.to_string().len() {
            length += 1;
        }
        format!("{length}{text}")
    };
    let pax = |text: &str| record(&format!(" {text}\n"));
    for (bytes, text) in [
        (layer(b'0', "a/../b", b""), "the path \"a/../b\""),
        (layer(b'S', "sparse", b""), "a sparse file"),
        (
            layer(b'x', "p", pax("GNU.sparse.major=1").as_bytes()),
            "a sparse file",
        ),
        (
            layer(b'x', "p", pax("size=7").as_bytes()),
            "two sizes of one file",
        ),
        (
            layer(b'x', "p", pax("size=many").as_bytes()),
            "a size that is no number",
        ),
        (
            layer(b'x', "p", b"no record"),
            "an extended header that cannot be read",
        ),
        (
            layer(b'g', "p", pax("path=elsewhere").as_bytes()),
            "a global header that names a path",
        ),
        (
            layer(b'x', "p", &vec![b' '; 2 << 20]),
            "an extended header of 2097152 bytes",
        ),
        (
            layer(b'L', "p", &vec![b'a'; 128 << 10]),
            "an extended header of 131072 bytes",
        ),
        (layer(b'0', ".wh.", b""), "a whiteout that hides nothing"),
    ] {
        let error = scan(&[bytes]).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert!(
            error.starts_with("tar archive is malformed at offset "),
            "{error}"
        );
    }
    let alone = Layer::new()
        .entry(EntryType::GNULongName, "p", "", b"name\0")
        .end();
    let twice = Layer::new()
        .entry(EntryType::GNULongName, "p", "", b"name\0")
        .entry(EntryType::GNULongName, "p", "", b"name\0")
        .file("x", b"")
        .end();
    for bytes in [alone, twice] {
        assert!(scan(&[bytes]).is_err());
    }
    // Honest long names are read.
    let long = format!("usr/lib/modules/{}/vmlinuz", "v".repeat(150));
    for layer in [
        Layer::new().entry(
            EntryType::GNULongName,
            "p",
            "",
            format!("{long}\0").as_bytes(),
        ),
        Layer::new().entry(
            EntryType::XHeader,
            "p",
            "",
            pax(&format!("path={long}")).as_bytes(),
        ),
    ] {
        let layer = layer.file("short", &program("kernel")).end();
        assert_eq!(scan(&[layer]).unwrap().kernel.unwrap().name, long);
    }
}

#[test]
fn archives_that_end_early_are_refused_wherever_they_end() {
    let whole = base().end();
    let end = whole.len() - 1024;
    for cut in (1..end).step_by(509).chain([512, 1024, end]) {
        let error = scan(&[whole[..cut].to_vec()]).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Malformed { .. } | Error::Truncated { .. } | Error::Read { .. }
            ),
            "{cut}: {error}"
        );
    }
    scan(&[whole[..end + 512].to_vec()]).unwrap();
    let mut changed = whole;
    changed[0] ^= 1;
    let error = scan(&[changed]).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
}

#[test]
fn a_program_that_passes_has_the_facts_of_one_that_is_held() {
    let mut file = PeFile::new(vec![
        (".text", vec![0x90; 700]),
        (".sbat", b"sbat,1,x\nsystemd-stub,1,y\n".to_vec()),
        (".linux", vec![7; 100_000]),
        (".initrd", vec![8; 200_001]),
    ]);
    file.sections[2].2 = 300_000;
    let (bytes, digests) = file.build();
    let (facts, sections) = stream::read("u", bytes.len() as u64, &mut bytes.as_slice()).unwrap();
    assert_eq!(facts.authenticode, digests);
    assert_eq!(facts, PeFacts::read("u", &bytes).unwrap());
    let held = measured_boot::facts::UkiFacts::read("u", &bytes).unwrap();
    assert_eq!(sections, held.sections);
    for cut in [1, 64, 500, 70_000, bytes.len() - 1] {
        assert!(
            stream::read("u", bytes.len() as u64, &mut &bytes[..cut]).is_err(),
            "{cut}"
        );
    }
    // A gap between sections: their order is no longer that of the file.
    let gap = bytes
        .windows(4)
        .position(|window| window == [7; 4])
        .unwrap();
    let mut moved = bytes.clone();
    let pointer = moved
        .windows(4)
        .position(|window| window == (gap as u32).to_le_bytes())
        .unwrap();
    moved[pointer..pointer + 4].copy_from_slice(&(gap as u32 + 512).to_le_bytes());
    let error = stream::read("u", moved.len() as u64, &mut moved.as_slice()).unwrap_err();
    assert!(error.to_string().contains("a gap or an overlap"), "{error}");
}
