// SPDX-License-Identifier: Apache-2.0

//! Images that boot, as far as firmware and boot loaders measure, and what machines show that booted them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::as_conversions
)]

#[path = "../../../measured-boot/tests/common/mod.rs"]
mod measured;
#[path = "../../../refvals/tests/common/mod.rs"]
pub mod registry;

use measured::pe_file::PeFile;
use measured_boot::bank::Bank;
use measured_boot::combine::Tuple;
use measured_boot::image::{Choice, Scanner};
use measured_boot::path::{BootPath, Route};
use measured_boot::predict::predict;
use refvals::platform;
use serde_json::{Value, json};

pub const PLATFORM: &str = "profile:debian13-ovmf";

/// Shim, GRUB and kernel, each with a digest of its own.
pub fn files(loader: &str, kernel: &str) -> Vec<(&'static str, Vec<u8>)> {
    let text = |content: &str| (".text", content.as_bytes().to_vec());
    let file = |sections| PeFile::new(sections).build().0;
    let shim = file(vec![
        text(&format!("shim of {loader}")),
        (".data.ident", b"$Version: 16.1 $\n".to_vec()),
        (
            ".vendor_cert",
            [[0; 4], [0; 4], [16, 0, 0, 0], [16, 0, 0, 0]].concat(),
        ),
    ]);
    vec![
        ("usr/lib/bootupd/updates/EFI/test/shimx64.efi", shim),
        (
            "usr/lib/bootupd/updates/EFI/test/grubx64.efi",
            file(vec![text(&format!("GRUB of {loader}"))]),
        ),
        (
            "usr/lib/modules/6.1/vmlinuz",
            file(vec![text(&format!("kernel of {kernel}"))]),
        ),
    ]
}

/// What machines show that boot this kernel behind this boot loader.
pub fn tuple(loader: &str, kernel: &str) -> Value {
    let mut scanner = Scanner::new();
    for (path, content) in files(loader, kernel) {
        let size = content.len() as u64;
        scanner.file(path, size, &mut content.as_slice()).unwrap();
    }
    let image = scanner.finish("image", &Choice::default()).unwrap();
    let path = BootPath {
        kernel_measurements: Some(1),
        ..BootPath::new(Route::ShimGrub)
    };
    let prediction = predict(&image, &platform::load(PLATFORM, None).unwrap(), &path).unwrap();
    json!(Tuple::of(&prediction, Bank::Sha256).unwrap())
}
