// SPDX-License-Identifier: Apache-2.0

//! Who authorised a program: firmware's and shim's searches through their lists of keys. What they find
//! first is what PCR 7 measures (UEFI 2.10, section 32.5.3.3 "Authorization Process"; PFP 1.06, section
//! 3.3.4.8).

use crate::bank::Bank;
use crate::bytes::Blob;
use crate::certificate::leads_to;
use crate::error::Error;
use crate::facts::ShimFacts;
use crate::pe::PeFacts;
use crate::platform::PlatformFacts;
use crate::sbat;
use crate::signature::SignatureFacts;
use crate::uefi::{SignatureEntry, SignatureList, VariableData, guid};

/// What firmware measures when it loads `file`: the entry of db that authorised it.
///
/// Signatures in file order, for each of them the certificates of db in variable order, then its hashes; the
/// first match wins. So a file with two signatures is authorised by its first one, even when db lists the
/// authority of the second one first.
///
/// # Errors
/// [`Error::Revoked`] when dbx names the file or an authority of any signature, [`Error::NotAuthorised`]
/// when db does not know it, and what [`SignatureList::parse_all`] says about either variable.
pub fn by_firmware(file: &PeFacts, platform: &PlatformFacts) -> Result<VariableData, Error> {
    let db = Lists::read(platform.variable("db"), Reading::EveryEntry)?;
    let dbx = Lists::read(platform.variable("dbx"), Reading::EveryEntry)?;
    dbx.refuse(file, "dbx")?;
    let by_signature = |signature| db.certificate(signature).or_else(|| db.hash(file));
    file.signatures
        .iter()
        .find_map(by_signature)
        .or_else(|| db.hash(file))
        .map(|entry| VariableData::new(guid::IMAGE_SECURITY, "db", entry.to_bytes()))
        .ok_or_else(|| not_authorised(file, &platform.platform))
}

/// What shim measures when it loads or verifies `file`, each with the name under which it does.
///
/// A hash decides before any signature: in db, in the database of shim's vendor, in MokListRT. Otherwise each
/// signature is looked up in that order (MokListRT also holds a vendor's single certificate), then under the
/// keys of shim's own build; shim does not stop at the first signature that is good, so that a file with two
/// may have two authorities. `level` is SbatLevel as it is by then.
///
/// # Errors
/// [`Error::Revoked`] when dbx, MokListX or the vendor's list names the file, or the authorities of those
/// signatures that would be good otherwise, or when SbatLevel does; [`Error::NotAuthorised`];
/// what [`SignatureList::parse_all`] says about any of the lists.
pub fn by_shim(
    file: &PeFacts,
    shim: &ShimFacts,
    platform: &PlatformFacts,
    level: &Blob,
) -> Result<Vec<VariableData>, Error> {
    let first = Reading::FirstCertificate;
    let denied = [
        ("dbx", Lists::read(platform.variable("dbx"), first)?),
        ("MokListX", Lists::read(&mok_list_x(shim, platform), first)?),
    ];
    if let Some((by, _)) = denied.iter().find(|(_, lists)| lists.hash(file).is_some()) {
        return revoked(file, by);
    }
    refuse_by_sbat(file, level)?;

    let database = match shim.vendor_certificate() {
        Some(_) => &[],
        None => shim.vendor_authorized.as_ref(),
    };
    let mok_list = mok_list(shim, platform);
    let sources = [
        ("db", guid::IMAGE_SECURITY, platform.variable("db")),
        ("vendor_db", guid::IMAGE_SECURITY, database),
        ("MokListRT", guid::SHIM_LOCK, mok_list.as_slice()),
    ];
    let mut trusted = Vec::new();
    for (name, vendor, content) in sources {
        trusted.push((name, vendor, Lists::read(content, first)?));
    }
    let search = |look: &dyn Fn(&Lists) -> Option<Vec<u8>>| {
        trusted
            .iter()
            .find_map(|(name, vendor, lists)| Some(VariableData::new(*vendor, name, look(lists)?)))
    };
    if let Some(authority) = search(&|lists| lists.hash(file).map(SignatureEntry::to_bytes)) {
        return Ok(vec![authority]);
    }
    let mut authorities = Vec::new();
    let mut revoked_by = None;
    for signature in &file.signatures {
        let mut denied = denied.iter();
        if let Some((by, _)) = denied.find(|(_, lists)| lists.certificate(signature).is_some()) {
            revoked_by = Some(*by);
            continue;
        }
        let listed = |lists: &Lists| lists.certificate(signature).map(SignatureEntry::to_bytes);
        authorities.extend(search(&listed).or_else(|| own_key(shim, signature)));
    }
    match (authorities.is_empty(), revoked_by) {
        (false, _) => Ok(authorities),
        (true, Some(by)) => revoked(file, by),
        (true, None) => Err(not_authorised(
            file,
            &format!("{} and shim", platform.platform),
        )),
    }
}

/// The certificate of shim's build, then its vendor's: measured bare, without an owner.
fn own_key(shim: &ShimFacts, signature: &SignatureFacts) -> Option<VariableData> {
    let built = shim.build_certificate.as_ref().map(AsRef::as_ref);
    [built, shim.vendor_certificate()]
        .into_iter()
        .flatten()
        .find(|key| leads_to(signature, key))
        .map(|key| VariableData::new(guid::SHIM_LOCK, "Shim", key))
}

/// Refuses a component whose generation is below SbatLevel.
///
/// # Errors
/// [`Error::Revoked`].
pub(crate) fn refuse_by_sbat(file: &PeFacts, level: &Blob) -> Result<(), Error> {
    let sbat = file.sbat.as_deref().unwrap_or_default();
    match sbat::revoked_component(level, sbat) {
        Some(_) => revoked(file, "SbatLevel"),
        None => Ok(()),
    }
}

/// The content of MokListRT: the vendor's keys, the build's, then what the owner enrolled. Never empty.
pub(crate) fn mok_list(shim: &ShimFacts, platform: &PlatformFacts) -> Vec<u8> {
    let wrap = |der: &[u8]| SignatureList::certificate(guid::SHIM_LOCK, der).to_bytes();
    let mut list = match shim.vendor_certificate() {
        Some(der) => wrap(der),
        None => shim.vendor_authorized.0.clone(),
    };
    if let Some(der) = &shim.build_certificate {
        list.extend(wrap(der.as_ref()));
    }
    list.extend_from_slice(platform.variable("MokList"));
    or_dummy(list)
}

/// The content of MokListXRT: the vendor's revocations, then the owner's. Never empty.
pub(crate) fn mok_list_x(shim: &ShimFacts, platform: &PlatformFacts) -> Vec<u8> {
    let mut list = shim.vendor_deauthorized.0.clone();
    list.extend_from_slice(platform.variable("MokListX"));
    or_dummy(list)
}

/// What owners enrolled, `MokList` and `MokListX`, from the lists that a running shim left for the system
/// (`MokListRT`, `MokListXRT`): these without what shim itself brought along. `None` when they are of another shim.
pub fn enrolled(shim: &ShimFacts, lists: [&[u8]; 2]) -> Option<[Blob; 2]> {
    let nothing = PlatformFacts::default();
    let own = [mok_list(shim, &nothing), mok_list_x(shim, &nothing)];
    let dummy = or_dummy(Vec::new());
    let without = |list: &[u8], own: &[u8]| match own == dummy && list != dummy {
        true => Some(Blob::from(list)),
        false => list.strip_prefix(own).map(Blob::from),
    };
    let [list, revoked] = lists;
    let [own_list, own_revoked] = &own;
    Some([without(list, own_list)?, without(revoked, own_revoked)?])
}

/// shim mirrors an empty list as one that matches nothing: a hash of zeros.
fn or_dummy(list: Vec<u8>) -> Vec<u8> {
    match list.is_empty() {
        true => SignatureList::sha256(guid::SHIM_LOCK, &[0; 32]).to_bytes(),
        false => list,
    }
}

/// Signature lists, with the entries that a reader of them looks at.
struct Lists {
    certificates: Vec<SignatureEntry>,
    hashes: Vec<SignatureEntry>,
}

#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// Firmware.
    EveryEntry,
    /// shim: of a list of certificates only the first one counts.
    FirstCertificate,
}

impl Lists {
    fn read(variable: &[u8], reading: Reading) -> Result<Self, Error> {
        let mut lists = Self {
            certificates: Vec::new(),
            hashes: Vec::new(),
        };
        for list in SignatureList::parse_all(variable)? {
            let count = match reading {
                Reading::EveryEntry => usize::MAX,
                Reading::FirstCertificate => 1,
            };
            match list.kind {
                guid::CERT_X509 => lists
                    .certificates
                    .extend(list.entries.into_iter().take(count)),
                guid::CERT_SHA256 => lists.hashes.extend(list.entries),
                // No other kind authorises or revokes programs on the platforms that we know.
                _ => {}
            }
        }
        Ok(lists)
    }

    fn certificate(&self, signature: &SignatureFacts) -> Option<&SignatureEntry> {
        self.certificates
            .iter()
            .find(|entry| leads_to(signature, &entry.data))
    }

    fn hash(&self, file: &PeFacts) -> Option<&SignatureEntry> {
        let digest = file.authenticode.get(Bank::Sha256)?;
        self.hashes
            .iter()
            .find(|entry| entry.data == digest.as_bytes())
    }

    fn refuse(&self, file: &PeFacts, by: &'static str) -> Result<(), Error> {
        let mut signatures = file.signatures.iter();
        match self.hash(file).is_some() || signatures.any(|s| self.certificate(s).is_some()) {
            true => revoked(file, by),
            false => Ok(()),
        }
    }
}

fn revoked<T>(file: &PeFacts, by: &'static str) -> Result<T, Error> {
    Err(Error::Revoked {
        file: file.name.clone(),
        by,
    })
}

fn not_authorised(file: &PeFacts, by: &str) -> Error {
    Error::NotAuthorised {
        file: file.name.clone(),
        by: by.to_owned(),
    }
}
