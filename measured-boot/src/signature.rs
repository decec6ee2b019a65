// SPDX-License-Identifier: Apache-2.0

//! An Authenticode signature as far as it decides about PCR 7: which digest it covers, and the certificates
//! that lead from its signer upwards (RFC 5652 SignedData; "Windows Authenticode Portable Executable
//! Signature Format").
//!
//! We do not verify the signature itself: a file with a wrong one does not boot, and then there is no PCR
//! to predict. What we do verify is every step from certificate to certificate ([`crate::certificate`]),
//! because a name alone does not tell two authorities of one name apart.

use crate::bank::{Bank, Digest};
use crate::bytes::{Blob, check_size};
use crate::certificate::Certificate;
use crate::error::Error;
use authenticode::{SPC_INDIRECT_DATA_OBJID, SpcIndirectDataContent};
use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignerIdentifier, SignerInfos};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{ID_SHA_1, ID_SHA_256, ID_SHA_384, ID_SHA_512};
use const_oid::db::rfc6268::ID_SIGNED_DATA;
use der::asn1::AnyRef;
use der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};
use serde::{Deserialize, Serialize};

/// One signature of a PE file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureFacts {
    /// Hash algorithm of the signed digest.
    pub bank: Bank,
    /// The signed Authenticode digest.
    pub digest: Digest,
    /// The signer's certificate, DER.
    pub signer: Blob,
    /// The other certificates that the signature carries, DER, in its order.
    pub others: Vec<Blob>,
}

impl SignatureFacts {
    /// Reads the PKCS #7 content of one entry of the certificate table, without its WIN_CERTIFICATE header.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above 256 KiB, [`Error::Malformed`] for anything but a SignedData with one
    /// signer, whose certificate it contains, over an SpcIndirectDataContent.
    pub fn parse(pkcs7: &[u8]) -> Result<Self, Error> {
        check_size(STRUCTURE, pkcs7, MAX_SIGNATURE)?;
        let content = signed_data_of(pkcs7)?;
        let signed = SignedData::read(content).map_err(not_der)?;
        if signed.content.econtent_type != SPC_INDIRECT_DATA_OBJID {
            return malformed("its content is not an SpcIndirectDataContent");
        }
        let Some(content) = &signed.content.econtent else {
            return malformed("no content");
        };
        let indirect: SpcIndirectDataContent = content.decode_as().map_err(not_der)?;
        let oid = indirect.message_digest.digest_algorithm.oid;
        let Some(bank) = bank_of(oid) else {
            return malformed(format!("a digest of the unknown algorithm {oid}"));
        };
        let digest = indirect.message_digest.digest.as_bytes();
        if digest.len() != bank.size() {
            return malformed(format!("a {bank} digest of {} bytes", digest.len()));
        }
        let [signer] = signed.signers.0.as_slice() else {
            return malformed(format!("{} signers, expected one", signed.signers.0.len()));
        };
        let SignerIdentifier::IssuerAndSerialNumber(name) = &signer.sid else {
            return malformed("a signer that is not named by issuer and serial number");
        };
        let mut others: Vec<&[u8]> = signed.certificates;
        let Some(at) = others.iter().position(|der| is_named(der, name)) else {
            return malformed("the signer's certificate is not in it");
        };
        let signer = Blob::from(others.remove(at));
        Ok(Self {
            bank,
            digest: Digest::new(digest),
            signer,
            others: others.into_iter().map(Blob::from).collect(),
        })
    }
}

/// SignedData (RFC 5652, 5.1), with the certificates as they were written: measured and compared are their
/// bytes.
struct SignedData<'a> {
    content: EncapsulatedContentInfo,
    certificates: Vec<&'a [u8]>,
    signers: SignerInfos,
}

impl<'a> SignedData<'a> {
    fn read(der: AnyRef<'a>) -> der::Result<Self> {
        der.tag().assert_eq(Tag::Sequence)?;
        let mut reader = SliceReader::new(der.value())?;
        let _version = CmsVersion::decode(&mut reader)?;
        let _digest_algorithms = AnyRef::decode(&mut reader)?;
        let content = EncapsulatedContentInfo::decode(&mut reader)?;
        let mut certificates = Vec::new();
        let mut next = AnyRef::decode(&mut reader)?;
        // [0] certificates and [1] revocation lists, both optional, then the signers.
        while let Tag::ContextSpecific { number, .. } = next.tag() {
            if number == TagNumber::N0 {
                let mut set = SliceReader::new(next.value())?;
                while !set.is_finished() {
                    certificates.push(set.tlv_bytes()?);
                }
            }
            next = AnyRef::decode(&mut reader)?;
        }
        next.tag().assert_eq(Tag::Set)?;
        Ok(Self {
            content,
            certificates,
            signers: SignerInfos::from_der(&next.to_der()?)?,
        })
    }
}

/// The content of a ContentInfo of type signed-data. Padding to eight bytes may follow it.
fn signed_data_of(pkcs7: &[u8]) -> Result<AnyRef<'_>, Error> {
    let mut reader = SliceReader::new(pkcs7).map_err(not_der)?;
    let whole = reader.tlv_bytes().map_err(not_der)?;
    let info = ContentInfo::from_der(whole).map_err(not_der)?;
    if info.content_type != ID_SIGNED_DATA {
        return malformed("not a SignedData");
    }
    // The same again without a copy: SEQUENCE { OBJECT IDENTIFIER, [0] { content } }.
    let read = || -> der::Result<AnyRef<'_>> {
        let mut info = SliceReader::new(AnyRef::from_der(whole)?.value())?;
        ObjectIdentifier::decode(&mut info)?;
        AnyRef::from_der(AnyRef::decode(&mut info)?.value())
    };
    read().map_err(not_der)
}

fn is_named(der: &[u8], name: &IssuerAndSerialNumber) -> bool {
    Certificate::parse(der).is_some_and(|certificate| certificate.is_named(name))
}

fn bank_of(oid: ObjectIdentifier) -> Option<Bank> {
    [
        (ID_SHA_1, Bank::Sha1),
        (ID_SHA_256, Bank::Sha256),
        (ID_SHA_384, Bank::Sha384),
        (ID_SHA_512, Bank::Sha512),
    ]
    .into_iter()
    .find(|(known, _)| *known == oid)
    .map(|(_, bank)| bank)
}

fn not_der(error: der::Error) -> Error {
    let offset = error.position().map_or(0, u32::from);
    Error::Malformed {
        structure: STRUCTURE,
        offset: usize::try_from(offset).unwrap_or(usize::MAX),
        why: error.kind().to_string(),
    }
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Malformed {
        structure: STRUCTURE,
        offset: 0,
        why: why.into(),
    })
}

const STRUCTURE: &str = "Authenticode signature";
/// Signatures have about 10 KiB; their certificates are what grows.
const MAX_SIGNATURE: usize = 256 * 1024;
