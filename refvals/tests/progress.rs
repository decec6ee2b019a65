// SPDX-License-Identifier: Apache-2.0

//! A pull takes minutes: somebody who watches sees how far it is, and a log does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;
#[path = "../../measured-boot/tests/common/mod.rs"]
mod measured;

use common::{Image, Registry, as_it_is};
use measured::pe_file::PeFile;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Stdio};

/// A registry with an image of a few MiB, and the program that pulls it.
fn pull() -> (Registry, Command) {
    // Nothing that gzip makes smaller.
    let mut number = 1_u64;
    let large: Vec<u8> = (0..500_000)
        .flat_map(|_| {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            number.to_le_bytes()
        })
        .collect();
    let kernel = PeFile::new(vec![(".text", b"kernel".to_vec())]).build().0;
    let files = [
        ("usr/share/large", large),
        ("usr/lib/modules/6.1/vmlinuz", kernel),
    ];
    let image = Image::of(&files, "");
    let root = image.root.clone();
    let registry = Registry::serve(image, as_it_is);
    let mut refvals = Command::new(env!("CARGO_BIN_EXE_refvals"));
    refvals
        .args(["image", "--no-cache", "--ca"])
        .arg(registry.directory.path().join("ca.pem"))
        .arg("--authfile")
        .arg(registry.directory.path().join("auth.json"))
        .arg(registry.name(&root))
        .env("TERM", "xterm")
        .stdout(Stdio::null());
    (registry, refvals)
}

#[test]
fn a_terminal_shows_progress() {
    let (_registry, mut refvals) = pull();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_bytes();
    let terminal = File::options()
        .write(true)
        .open(std::ffi::OsString::from_vec(name))
        .unwrap();
    let mut child = refvals.stderr(Stdio::from(terminal)).spawn().unwrap();
    // The last copy of the terminal goes with the program.
    drop(refvals);
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    let mut master = File::from(master);
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8_lossy(&shown);
    // Bytes, of how many: those of the layer.
    assert!(shown.contains("/4.0"), "{shown:?}");
    assert!(shown.contains(" left"), "{shown:?}");
    // In the end it is taken away.
    assert!(
        shown.trim_end_matches('\r').ends_with("\u{1b}[2K"),
        "{shown:?}"
    );
}

#[test]
fn a_pipe_does_not() {
    let (_registry, mut refvals) = pull();
    let output = refvals.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
