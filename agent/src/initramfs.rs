// SPDX-License-Identifier: Apache-2.0

//! Whether this process runs in an initramfs, and what it may believe there.
//!
//! In an initramfs the host can set variables of every service from the kernel command line
//! (`systemd.setenv=`), so that what was measured is the only configuration. On a running system variables
//! are for people and tests.

use std::ffi::OsString;
use std::path::Path;

/// Whether this is an initramfs: systemd's mark, `/etc/initrd-release` (os-release(5)).
pub fn here() -> bool {
    Path::new(MARK).exists()
}

/// A variable of the environment; in an initramfs there is none.
pub fn variable(name: &str) -> Option<OsString> {
    if here() { None } else { std::env::var_os(name) }
}

const MARK: &str = "/etc/initrd-release";
