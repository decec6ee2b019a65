// SPDX-License-Identifier: Apache-2.0

//! What an image says about the boots it can lead to. Small and serialisable: computed once per image
//! digest, kept, and combined with platforms and other images without a second look at the image.

use crate::bank::Digests;
use crate::bytes::{Blob, Reader};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::path::Route;
use crate::pe::{self, PeFacts, Section};
use crate::sbat::SbatLevels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The bootable parts of an image. Which of them count depends on the boot path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// How to call the image: its reference with digest.
    pub name: String,
    /// The first stage, when the image boots through shim.
    #[serde(default)]
    pub shim: Option<ShimFacts>,
    /// GRUB or systemd-boot.
    #[serde(default)]
    pub boot_loader: Option<PeFacts>,
    /// `fbx64.efi`, when it lies beside shim on the removable-media path.
    #[serde(default)]
    pub fallback: Option<PeFacts>,
    /// The kernel that GRUB starts.
    #[serde(default)]
    pub kernel: Option<PeFacts>,
    /// The unified kernel image.
    #[serde(default)]
    pub uki: Option<UkiFacts>,
    /// Files that are measured on their way and may add trust: `revocations*.efi` and
    /// `shim_certificate*.efi` beside shim (16 and later), addons of systemd-stub. Not predicted, so that
    /// they must not be overlooked.
    #[serde(default)]
    pub extras: Vec<String>,
    /// The way that its parts suggest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Release of the kernel: the directory of modules that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// Which operating system, for people (os-release(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsRelease>,
    /// What its builder says that it measures: a hint to compare with, never a reference value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claimed_pcrs: BTreeMap<u8, String>,
    /// GRUB's configurations. GRUB measures what it reads into PCR 9 and what it runs into PCR 8, which depend on
    /// each node's disk too: nothing is predicted from these, but a log can be held against them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grub_configs: Vec<TextFacts>,
}

/// What os-release(5) says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsRelease {
    /// `ID`, such as `fedora`.
    pub id: String,
    /// `VERSION_ID`, such as `42`.
    #[serde(default)]
    pub version_id: String,
    /// `PRETTY_NAME`.
    #[serde(default)]
    pub pretty_name: String,
}

/// A file that is measured as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFacts {
    /// Its path.
    pub path: String,
    /// Digests of its content.
    pub digests: Digests,
}

/// shim, with what its vendor built into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimFacts {
    /// The program.
    pub file: PeFacts,
    /// Its version, which decides what it measures.
    pub version: ShimVersion,
    /// Keys that it trusts: one DER certificate, or signature lists (`.vendor_cert`, authorised part).
    pub vendor_authorized: Blob,
    /// Signature lists that it refuses (`.vendor_cert`, de-authorised part).
    pub vendor_deauthorized: Blob,
    /// Certificate of the key that signed MokManager and fallback of the same build; most vendors have
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_certificate: Option<Blob>,
    /// Its revocations; shim up to 15.6 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbat_levels: Option<SbatLevels>,
}

/// Version of shim, such as 15.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShimVersion {
    /// Before the dot.
    pub major: u16,
    /// After the dot; 0 without one.
    pub minor: u16,
}

/// A unified kernel image (UAPI group specification UKI).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UkiFacts {
    /// The program.
    pub file: PeFacts,
    /// Its sections up to the first `.profile`.
    pub sections: Vec<SectionFacts>,
    /// The sections of each profile, `.profile` first.
    #[serde(default)]
    pub profiles: Vec<Vec<SectionFacts>>,
}

/// A section, as systemd-stub measures it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionFacts {
    /// Name with its dot.
    pub name: String,
    /// Digests of its content in memory.
    pub digests: Digests,
}

impl ImageFacts {
    /// The way that the parts suggest: a unified kernel image is there to be booted.
    pub fn usual_route(&self) -> Option<Route> {
        let sbat = self.boot_loader.as_ref();
        let sbat = sbat.and_then(|loader| loader.sbat.as_deref());
        let is = |component| {
            sbat.is_some_and(|sbat| sbat.lines().any(|line| line.starts_with(component)))
        };
        match (&self.shim, &self.uki, &self.boot_loader) {
            (Some(_), Some(_), _) => Some(Route::ShimUki),
            (None, Some(_), Some(_)) if is("systemd-boot,") => Some(Route::SdbootUki),
            (None, Some(_), _) => Some(Route::Uki),
            (Some(_), None, Some(_)) if self.kernel.is_some() => Some(Route::ShimGrub),
            (None, None, Some(_)) if self.kernel.is_some() && is("grub,") => Some(Route::Grub),
            _ => None,
        }
    }
}

impl ShimFacts {
    /// Reads shim.
    ///
    /// # Errors
    /// As [`PeFacts::read`]; [`Error::Malformed`] when it has no `.vendor_cert` section or does not name
    /// its version.
    pub fn read(name: &str, file: &[u8]) -> Result<Self, Error> {
        let facts = PeFacts::read(name, file)?;
        let sections = pe::sections(file)?;
        let Some(vendor) = pe::find(&sections, ".vendor_cert") else {
            return missing("no .vendor_cert section: not shim");
        };
        // Not from `.sbat`: there, upstream's line says version 1 in every release.
        let Some(version) = pe::find(&sections, ".data.ident").and_then(version_in) else {
            return missing("no version of shim in its .data.ident section");
        };
        let levels = pe::find(&sections, ".sbatlevel");
        let (vendor_authorized, vendor_deauthorized) = vendor_cert(vendor.data)?;
        Ok(Self {
            file: facts,
            version,
            vendor_authorized,
            vendor_deauthorized,
            build_certificate: None,
            sbat_levels: levels
                .map(|section| SbatLevels::parse(section.data))
                .transpose()?,
        })
    }

    /// The single certificate of a vendor who did not build a database in.
    pub(crate) fn vendor_certificate(&self) -> Option<&[u8]> {
        let der = self.vendor_authorized.as_ref();
        Certificate::parse(der).map(|_| der)
    }
}

/// `$Version: 16.1 $` in shim's identification text.
fn version_in(section: &Section<'_>) -> Option<ShimVersion> {
    let text = String::from_utf8_lossy(section.data).into_owned();
    let (_, after) = text.split_once("$Version: ")?;
    let (version, _) = after.split_once(' ')?;
    ShimVersion::try_from(version.to_owned()).ok()
}

/// The two halves of a `.vendor_cert` section: sizes, then offsets from its start.
///
/// # Errors
/// [`Error::Truncated`] for parts outside of the section.
pub fn vendor_cert(section: &[u8]) -> Result<(Blob, Blob), Error> {
    let mut reader = Reader::limited(VENDOR_CERT, section, MAX_VENDOR_CERT)?;
    let mut number = || reader.length(MAX_VENDOR_CERT);
    let (authorized, deauthorized) = (number()?, number()?);
    let (authorized_at, deauthorized_at) = (number()?, number()?);
    let part = |offset, size| {
        let mut reader = Reader::new(VENDOR_CERT, section);
        reader.take(offset)?;
        reader.take(size).map(Blob::from)
    };
    Ok((
        part(authorized_at, authorized)?,
        part(deauthorized_at, deauthorized)?,
    ))
}

impl UkiFacts {
    /// Reads a unified kernel image.
    ///
    /// # Errors
    /// As [`PeFacts::read`]; [`Error::Malformed`] when there is no `.linux` section.
    pub fn read(name: &str, file: &[u8]) -> Result<Self, Error> {
        let facts = PeFacts::read(name, file)?;
        let sections = pe::sections(file)?;
        if pe::find(&sections, ".linux").is_none() {
            return missing("no .linux section: not a unified kernel image");
        }
        let facts_of = |section: &Section<'_>| SectionFacts {
            name: section.name.clone(),
            digests: section.digests(),
        };
        let sections = sections.iter().map(facts_of).collect();
        Ok(Self::from_sections(facts, sections).unwrap_or_default())
    }

    /// From a program and its sections in file order; `None` when there is no `.linux` section.
    pub(crate) fn from_sections(file: PeFacts, sections: Vec<SectionFacts>) -> Option<Self> {
        sections.iter().find(|section| section.name == ".linux")?;
        let mut parts = sections
            .chunk_by(|_, next| next.name != ".profile")
            .map(<[SectionFacts]>::to_vec);
        Some(Self {
            file,
            sections: parts.next().unwrap_or_default(),
            profiles: parts.collect(),
        })
    }
}

impl TryFrom<String> for ShimVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (major, minor) = text.split_once('.').unwrap_or((&text, "0"));
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Ok(Self { major, minor }),
            _ => Err(format!("{text:?} is not a version of shim such as 15.8")),
        }
    }
}

impl From<ShimVersion> for String {
    fn from(version: ShimVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for ShimVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn missing<T>(why: &str) -> Result<T, Error> {
    Err(Error::Malformed {
        structure: "PE file",
        offset: 0,
        why: why.to_owned(),
    })
}

const VENDOR_CERT: &str = ".vendor_cert section";
const MAX_VENDOR_CERT: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{ShimVersion, vendor_cert};

    #[test]
    fn vendor_cert_parts_lie_inside() {
        let mut section = Vec::new();
        for number in [2_u32, 3, 16, 18] {
            section.extend(number.to_le_bytes());
        }
        section.extend([1, 2, 3, 4, 5]);
        let (authorized, deauthorized) = vendor_cert(&section).unwrap();
        assert_eq!(authorized.as_ref(), [1, 2]);
        assert_eq!(deauthorized.as_ref(), [3, 4, 5]);
        for end in 0..section.len() {
            assert!(vendor_cert(&section[..end]).is_err(), "{end}");
        }
        section[3] = 0xff;
        assert!(vendor_cert(&section).is_err());
    }

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| ShimVersion::try_from(text.to_owned()).unwrap();
        assert!(version("15.10") > version("15.8"));
        assert!(version("16") < version("16.1"));
        assert!(ShimVersion::try_from("16.1~rc".to_owned()).is_err());
    }
}
