// SPDX-License-Identifier: Apache-2.0

//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)): what is mounted where.

use super::block::Number;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The device number of its files, unless the file system has one of its own.
    pub(super) number: Number,
    /// The file system's type.
    pub(super) kind: String,
    /// What it was mounted from, in the kernel's words.
    pub(super) source: String,
}

impl Mount {
    /// What a process sees at `point`: the last mount there is on top.
    pub(super) fn at(point: &Path, mountinfo: &str) -> Option<Self> {
        let line = mountinfo
            .lines()
            .rfind(|line| line.split(' ').nth(4).map(unescape).as_deref() == point.to_str())?;
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        Some(Self {
            number: front.split(' ').nth(2)?.parse().ok()?,
            kind: unescape(back.next()?),
            source: unescape(back.next()?),
        })
    }
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// The kernel writes blanks and backslashes as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                plain.push(char::from(code));
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Thousands of mounts; an initramfs has a dozen.
const LIMIT: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{Mount, unescape};
    use std::path::Path;

    const TABLE: &str = "\
1 1 0:2 / / rw shared:1 - rootfs rootfs rw
24 1 253:0 / /sysroot rw,relatime - ext4 /dev/mapper/root rw
25 24 254:1 / /sysroot/boot rw - ext4 /dev/vda1 rw
26 1 253:7 /sub /a\\040b rw master:2 propagate_from:1 - xfs /dev/mapper/x\\134y rw
";

    #[test]
    fn the_last_mount_is_on_top() {
        let at = |text: &str| Mount::at(Path::new("/sysroot"), text).unwrap();
        assert_eq!(at(TABLE).number.to_string(), "253:0");
        assert_eq!(at(TABLE).source, "/dev/mapper/root");
        let over = format!("{TABLE}30 24 0:40 / /sysroot rw - overlay composefs rw\n");
        assert_eq!(at(&over).kind, "overlay");
        assert_eq!(Mount::at(Path::new("/sysroo"), TABLE), None);
        let blank = Mount::at(Path::new("/a b"), TABLE).unwrap();
        assert_eq!(blank.source, "/dev/mapper/x\\y");
    }

    #[test]
    fn lines_of_another_form_are_no_mounts() {
        for line in [
            "",
            "24 1 253:0 / /sysroot rw",
            "24 1 x / /sysroot rw - ext4 /dev/x rw",
        ] {
            assert_eq!(Mount::at(Path::new("/sysroot"), line), None, "{line}");
        }
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("\\999"), "\\999");
    }
}
