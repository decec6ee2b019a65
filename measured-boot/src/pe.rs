// SPDX-License-Identifier: Apache-2.0

//! What has to be known of an EFI program: its Authenticode digests, who signed it, its sections.
//!
//! Firmware and shim measure a program by its Authenticode digest (PFP 1.06, section 10.2.3, with "Windows
//! Authenticode Portable Executable Signature Format"): the file without checksum and signatures. So the
//! digest says nothing about *who* signed; that goes into PCR 7. PE files are walked by the crates `object`
//! and `authenticode`; this file sets the limits and refuses what they do not check.

pub mod stream;

use crate::bank::{Digests, Hashers};
use crate::bytes::check_size;
use crate::error::Error;
use crate::signature::SignatureFacts;
use authenticode::{AttributeCertificateIterator, PeTrait, authenticode_digest};
use object::LittleEndian as LE;
use object::pe::{ImageNtHeaders32, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders, PeFile};
use object::{FileKind, pe};
use serde::{Deserialize, Serialize};

/// An EFI program, as far as measurements are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeFacts {
    /// How to call it in messages: its path in the image.
    pub name: String,
    /// Its Authenticode digests.
    pub authenticode: Digests,
    /// Its signatures, in the order of the file. None: unsigned.
    #[serde(default)]
    pub signatures: Vec<SignatureFacts>,
    /// Content of `.sbat`: components and generations, one per line, in CSV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbat: Option<String>,
}

/// A section of a PE file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name; a long one resolved through the string table.
    pub name: String,
    /// Its length in memory.
    pub virtual_size: usize,
    /// Its bytes in the file, cut at `virtual_size`.
    pub data: &'a [u8],
}

impl PeFacts {
    /// Reads a program. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above 512 MiB; [`Error::Malformed`] for anything that is not a PE32 or PE32+
    /// file, whose parts lie outside of it, or whose signatures cannot be read;
    /// [`Error::ChangedAfterSigning`] when a signature was made for other content.
    pub fn read(name: &str, file: &[u8]) -> Result<Self, Error> {
        check_size(STRUCTURE, file, MAX_FILE)?;
        match FileKind::parse(file) {
            Ok(FileKind::Pe64) => Self::read_pe::<ImageNtHeaders64>(name, file),
            Ok(FileKind::Pe32) => Self::read_pe::<ImageNtHeaders32>(name, file),
            _ => malformed("neither PE32 nor PE32+"),
        }
    }

    fn read_pe<I: ImageNtHeaders>(name: &str, file: &[u8]) -> Result<Self, Error> {
        let pe = open::<I>(file)?;
        // Without this entry the specification hashes straight to the end of the headers, and the crate
        // would skip eight bytes of something else. No boot loader is like that.
        let Some(table) = pe
            .data_directories()
            .iter()
            .nth(pe::IMAGE_DIRECTORY_ENTRY_SECURITY)
        else {
            return malformed("no certificate table in the data directories");
        };
        // Firmware subtracts the size whatever the address is; `object` sees no table at address zero.
        if table.virtual_address.get(LE) == 0 && table.size.get(LE) != 0 {
            return malformed("a certificate table without an address");
        }
        let sections = sections_of(&pe)?;
        let mut hashers = Hashers::default();
        if authenticode_digest(&pe, &mut hashers).is_err() {
            return malformed("headers, sections or certificate table do not fit into the file");
        }
        let sbat = match find(&sections, ".sbat") {
            Some(section) => Some(text(section.data)?),
            None => None,
        };
        let facts = Self {
            name: name.to_owned(),
            authenticode: hashers.finish(),
            signatures: signatures(&pe)?,
            sbat,
        };
        facts.check_signed_digests()?;
        Ok(facts)
    }

    /// The signed digest is never *used*: an unsigned file has none, and a changed file has the wrong one.
    /// But when it differs, no firmware will run the file, and we should not approve it.
    pub(crate) fn check_signed_digests(&self) -> Result<(), Error> {
        for signature in &self.signatures {
            let computed = self.authenticode.get(signature.bank);
            if computed != Some(&signature.digest) {
                return Err(Error::ChangedAfterSigning {
                    file: self.name.clone(),
                    computed: computed.map(ToString::to_string).unwrap_or_default(),
                    signed: signature.digest.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// The sections of a PE32 or PE32+ file, in file order.
///
/// # Errors
/// As [`PeFacts::read`].
pub fn sections(file: &[u8]) -> Result<Vec<Section<'_>>, Error> {
    check_size(STRUCTURE, file, MAX_FILE)?;
    match FileKind::parse(file) {
        Ok(FileKind::Pe64) => sections_of(&open::<ImageNtHeaders64>(file)?),
        Ok(FileKind::Pe32) => sections_of(&open::<ImageNtHeaders32>(file)?),
        _ => malformed("neither PE32 nor PE32+"),
    }
}

/// The section with this name.
pub fn find<'s, 'a>(sections: &'s [Section<'a>], name: &str) -> Option<&'s Section<'a>> {
    sections.iter().find(|section| section.name == name)
}

impl Section<'_> {
    /// The digests of the section as it lies in memory: cut or filled with zeros to its virtual size.
    pub fn digests(&self) -> Digests {
        let mut hashers = Hashers::default();
        digest::Update::update(&mut hashers, self.data);
        zeros(
            &mut hashers,
            self.virtual_size.saturating_sub(self.data.len()),
        );
        hashers.finish()
    }
}

/// Hashes zeros that are in memory and not in the file.
fn zeros(hashers: &mut Hashers, mut missing: usize) {
    while missing > 0 {
        let zeros = ZEROS.get(..missing).unwrap_or(&ZEROS);
        digest::Update::update(hashers, zeros);
        missing = missing.saturating_sub(zeros.len());
    }
}

fn open<I: ImageNtHeaders>(file: &[u8]) -> Result<PeFile<'_, I>, Error> {
    let pe = match PeFile::<I>::parse(file) {
        Ok(pe) => pe,
        Err(error) => return malformed(error.to_string()),
    };
    match pe.section_table().len() {
        0..=MAX_SECTIONS => Ok(pe),
        many => malformed(format!(
            "{many} sections, at most {MAX_SECTIONS} are accepted"
        )),
    }
}

fn sections_of<'a, I: ImageNtHeaders>(pe: &PeFile<'a, I>) -> Result<Vec<Section<'a>>, Error> {
    let strings = match pe.nt_headers().symbols(pe.data()) {
        Ok(symbols) => symbols.strings(),
        Err(error) => return malformed(error.to_string()),
    };
    let mut sections = Vec::new();
    let (mut in_memory, mut in_file) = (0_usize, 0_usize);
    for header in pe.section_table().iter() {
        let Ok(name) = header.name(strings) else {
            return malformed("a section name outside of the string table");
        };
        let name = String::from_utf8_lossy(name).into_owned();
        let sizes = [
            header.virtual_size.get(LE),
            header.pointer_to_raw_data.get(LE),
            header.size_of_raw_data.get(LE),
        ]
        .map(usize::try_from);
        let [Ok(virtual_size), Ok(start), Ok(raw_size)] = sizes else {
            return malformed("a section beyond the address space");
        };
        // Sections may overlap; hashing the same bytes a hundred times over is not worth anybody's while.
        in_memory = in_memory.saturating_add(virtual_size);
        in_file = in_file.saturating_add(raw_size);
        if in_memory > MAX_FILE {
            return malformed_at(
                start,
                format!("sections of {in_memory} bytes in memory up to {name}"),
            );
        }
        let end = start.checked_add(raw_size);
        let raw = end.and_then(|end| pe.data().get(start..end));
        let Some(raw) = raw.filter(|_| in_file <= pe.data().len()) else {
            return malformed_at(
                start,
                format!("the section {name} lies outside of the file"),
            );
        };
        sections.push(Section {
            name,
            virtual_size,
            data: raw.get(..virtual_size).unwrap_or(raw),
        });
    }
    Ok(sections)
}

fn signatures<I: ImageNtHeaders>(pe: &PeFile<'_, I>) -> Result<Vec<SignatureFacts>, Error> {
    let readable: &dyn PeTrait = pe;
    let table = match AttributeCertificateIterator::new(readable) {
        Ok(table) => table,
        Err(error) => return malformed(error.to_string()),
    };
    let mut signatures = Vec::new();
    for entry in table.into_iter().flatten() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return malformed(error.to_string()),
        };
        if signatures.len() >= MAX_SIGNATURES {
            return malformed(format!("more than {MAX_SIGNATURES} signatures"));
        }
        if entry.certificate_type == authenticode::WIN_CERT_TYPE_PKCS_SIGNED_DATA {
            signatures.push(SignatureFacts::parse(entry.data)?);
        }
    }
    Ok(signatures)
}

/// Text of a section, without the zeros that fill it up.
pub(crate) fn text(data: &[u8]) -> Result<String, Error> {
    let end = data.iter().position(|byte| *byte == 0);
    let text = data.get(..end.unwrap_or(data.len())).unwrap_or(data);
    match String::from_utf8(text.to_vec()) {
        Ok(text) => Ok(text),
        Err(_) => malformed("a text section that is not UTF-8"),
    }
}

/// Something wrong in the headers, which begin the file.
fn malformed<T>(why: impl Into<String>) -> Result<T, Error> {
    malformed_at(0, why)
}

fn malformed_at<T>(offset: usize, why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Malformed {
        structure: STRUCTURE,
        offset,
        why: why.into(),
    })
}

const STRUCTURE: &str = "PE file";
/// A unified kernel image with a large initrd has a few hundred megabytes.
const MAX_FILE: usize = 512 * 1024 * 1024;
/// The limit of the PE format that Windows' loader enforces.
const MAX_SECTIONS: usize = 96;
const MAX_SIGNATURES: usize = 16;
static ZEROS: [u8; 4096] = [0; 4096];
