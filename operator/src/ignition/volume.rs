// SPDX-License-Identifier: Apache-2.0

//! What is wished for: a volume, where it comes from, what is put on it. Parsed once, so that rendering has
//! nothing to doubt.

use super::Error;
use kbs_protocol::encoding::hex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A LUKS2 volume that Ignition makes and binds to the pin.
///
/// Always AES-256, PBKDF2 and `needsNetwork`: without the last, first boot works and every later one waits for a
/// network that nobody starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The opened device is `/dev/mapper/NAME`.
    pub name: MapperName,
    /// What is encrypted.
    pub device: Source,
    /// Written into the LUKS2 header.
    pub label: Option<Label>,
    /// Written into the LUKS2 header; Ignition makes one up otherwise. An image whose kernel command line
    /// names the volume (`rd.luks.name=UUID=root`) needs it.
    pub uuid: Option<VolumeUuid>,
    /// What happens to what is on the device.
    pub existing: Existing,
    /// The LUKS2 metadata area.
    pub metadata: MetadataSize,
    /// What authenticates its sectors.
    pub integrity: Integrity,
    /// Pass discards to the device, which shows its owner which blocks are free. Specification 3.4; not with
    /// authenticated sectors.
    pub discard: bool,
    /// How the volume is opened, from now on. Specification 3.4.
    pub open_options: Vec<OpenOption>,
    /// What is put on the opened device.
    pub filesystem: Option<Filesystem>,
}

/// What happens to what is on the device. To keep it is no choice: Ignition reuses no volume that has a
/// Clevis binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Existing {
    /// It is lost. A root partition needs this, as its image is on it. A first boot that was interrupted
    /// starts over, and so does one that the host brings about.
    Wipe,
    /// The boot fails where there is anything.
    Refuse,
}

/// What authenticates each sector, so that a host which changes one is found out (dm-integrity). The words are those of
/// `unlock.integrity` in `agent.toml`, which demands it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// Nothing: AES in XTS mode.
    #[default]
    None,
    /// The same with HMAC-SHA-256 beside it.
    HmacSha256,
    /// AES in GCM, whose own tag it is.
    Aead,
}

/// A way to open a volume, persistent in its header (cryptsetup(8), `--perf-*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenOption {
    /// Decrypt in the thread that asks.
    NoReadWorkqueue,
    /// Encrypt in the thread that asks.
    NoWriteWorkqueue,
}

/// A file system on the opened volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its type.
    pub format: Format,
    /// Its label.
    pub label: Option<Label>,
    /// Where it is mounted while Ignition writes files. The root of a CoreOS image has none: its label says
    /// what it is.
    pub path: Option<MountPoint>,
}

/// A type of file system that Ignition makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// ext4(5).
    Ext4,
    /// xfs(5).
    Xfs,
    /// btrfs(5).
    Btrfs,
}

/// The size of the LUKS2 metadata area, of which there are two (LUKS2 On-Disk Format 2.1). A binding adds a
/// token of several KiB, and binding anew keeps the old token until the new one is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetadataSize {
    /// cryptsetup's default, and too small for two tokens.
    K16,
    /// 32 KiB.
    K32,
    /// 64 KiB.
    K64,
    /// 128 KiB.
    K128,
}

impl Volume {
    /// A volume with the defaults: what is there is wiped, 64 KiB of metadata, nothing authenticated, no discards.
    pub fn new(name: MapperName, device: Source) -> Self {
        Self {
            name,
            device,
            label: None,
            uuid: None,
            existing: Existing::Wipe,
            metadata: MetadataSize::K64,
            integrity: Integrity::None,
            discard: false,
            open_options: Vec::new(),
            filesystem: None,
        }
    }
}

impl fmt::Display for Integrity {
    /// As `agent.toml` and `cryptsetup --integrity` spell it; the latter has no word for nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::HmacSha256 => "hmac-sha256",
            Self::Aead => "aead",
        })
    }
}

impl OpenOption {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoReadWorkqueue => "--perf-no_read_workqueue",
            Self::NoWriteWorkqueue => "--perf-no_write_workqueue",
        }
    }
}

impl Format {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The longest label, in bytes (mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8)).
    pub(super) fn label_limit(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Btrfs => 255,
        }
    }
}

impl MetadataSize {
    /// In bytes, with the binary header of 4096 bytes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::K16 => 16 << 10,
            Self::K32 => 32 << 10,
            Self::K64 => 64 << 10,
            Self::K128 => 128 << 10,
        }
    }
}

impl fmt::Display for MetadataSize {
    /// As `cryptsetup --luks2-metadata-size` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::K16 => "16k",
            Self::K32 => "32k",
            Self::K64 => "64k",
            Self::K128 => "128k",
        })
    }
}

/// A text of one form.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $legal:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let legal: fn(&str) -> bool = $legal;
                match legal(text) {
                    true => Ok(Self(text.to_owned())),
                    false => Err(Error::malformed($what, text, $expected)),
                }
            }
        }
    };
}

text!(
    /// A name under `/dev/mapper`.
    MapperName,
    "the name of a volume",
    "1 to 100 of A-Z a-z 0-9 _ - and not begin with -",
    |text| {
        // A dot or a slash would be legal somewhere and escaped differently everywhere.
        (1..=100).contains(&text.len()) && !text.starts_with('-') && text.chars().all(plain)
    }
);

text!(
    /// A block device, by a path that is the same on every boot.
    Source,
    "a device",
    "a path below /dev without . and .. segments",
    |text| text.starts_with("/dev/") && clean_path(text)
);

text!(
    /// A label, of a volume or a file system.
    Label,
    "a label",
    "1 to 47 of A-Z a-z 0-9 _ - . and not begin with -",
    |text| {
        let legal = |c| plain(c) || c == '.';
        (1..=47).contains(&text.len()) && !text.starts_with('-') && text.chars().all(legal)
    }
);

text!(
    /// A UUID in lower case (RFC 9562 section 4).
    VolumeUuid,
    "the UUID of a volume",
    "8-4-4-4-12 lower-case hexadecimal digits",
    |text| {
        text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
            && text.bytes().all(|c| c == b'-' || hex::is_lower_digit(c))
    }
);

text!(
    /// A directory of the node.
    MountPoint,
    "a mount point",
    "an absolute path without . and .. segments",
    |text| text == "/" || (text.starts_with('/') && clean_path(text))
);

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// Segments of printable ASCII that go only down.
fn clean_path(text: &str) -> bool {
    let fine = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.chars().all(|c| c.is_ascii_graphic())
    };
    text.split('/').skip(1).all(fine)
}
