// SPDX-License-Identifier: Apache-2.0

//! Which words an Ignition understands: its specification versions, and by which name each lets a volume be
//! bound to a pin that it has never heard of.

use super::Error;
use std::fmt;

/// A version of the Ignition configuration specification that can describe a LUKS volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// Ignition 2.7 to 2.10.
    V3_2,
    /// Ignition 2.11 to 2.14.
    V3_3,
    /// Ignition 2.15 to 2.19.
    V3_4,
    /// Ignition 2.20 to 2.24.
    V3_5,
    /// Ignition 2.25, and no other: 2.26 refuses this string.
    V3_6Experimental,
    /// Ignition 2.26 and newer.
    V3_6,
}

/// How a config names the pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `"pin": "trustee"`.
    Direct,
    /// `"pin": "sss"` with `trustee` as its only share. Validation before 3.6 knows the pins `tang`, `tpm2`
    /// and `sss` only, but does not look into the configuration of `sss`, and `clevis-encrypt-sss` runs
    /// whatever pin it finds there.
    Wrapped,
}

impl SpecVersion {
    /// The newest version that this Ignition accepts, from what `ignition --version` prints, such as
    /// `Ignition 2.26.0` or `2.14.0+ds1`. An Ignition reads the versions before its newest as well.
    ///
    /// # Errors
    /// [`Error::Malformed`] where there is no version, [`Error::TooOld`] before 2.7.
    pub fn for_ignition(version: &str) -> Result<Self, Error> {
        let malformed = || Error::malformed("the version of Ignition", version, "like 2.26.0");
        let (major, minor) = version
            .split_whitespace()
            .find_map(|word| {
                let mut numbers = word.trim_start_matches('v').split(['.', '+', '-']);
                let mut next = || numbers.next()?.parse::<u32>().ok();
                Some((next()?, next()?))
            })
            .ok_or_else(malformed)?;
        match (major, minor) {
            (2, 7..=10) => Ok(Self::V3_2),
            (2, 11..=14) => Ok(Self::V3_3),
            (2, 15..=19) => Ok(Self::V3_4),
            (2, 20..=24) => Ok(Self::V3_5),
            (2, 25) => Ok(Self::V3_6Experimental),
            (2, 26..) => Ok(Self::V3_6),
            (0..=2, _) => Err(Error::TooOld {
                version: version.trim().to_owned(),
            }),
            (3.., _) => Err(malformed()),
        }
    }

    /// As a config spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3_2 => "3.2.0",
            Self::V3_3 => "3.3.0",
            Self::V3_4 => "3.4.0",
            Self::V3_5 => "3.5.0",
            Self::V3_6Experimental => "3.6.0-experimental",
            Self::V3_6 => "3.6.0",
        }
    }

    /// How this version lets the pin be named.
    pub fn form(self) -> Form {
        if self >= Self::V3_6Experimental {
            Form::Direct
        } else {
            Form::Wrapped
        }
    }

    /// Whether a volume has the members `discard` and `openOptions`.
    pub(super) fn has_open_options(self) -> bool {
        self >= Self::V3_4
    }

    /// All of them, oldest first.
    pub const ALL: [Self; 6] = [
        Self::V3_2,
        Self::V3_3,
        Self::V3_4,
        Self::V3_5,
        Self::V3_6Experimental,
        Self::V3_6,
    ];
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
