// SPDX-License-Identifier: Apache-2.0

//! The TPM's non-volatile memory: the certificates of endorsement keys, where the TCG EK Credential Profile for TPM
//! Family 2.0 puts what a TPM's maker says about it (`tpm_enrol` reads them once), and the two indices through which
//! a paravisor and its guest talk (`azure`).

use super::tpm_error::TpmError;
use super::tpm_rc::Step;
use pkcs1::der::{Decode as _, Header, Reader as _, SliceReader};
use tss_esapi::Context;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{AsymmetricAlgorithm, HashingAlgorithm};
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, MaxNvBuffer, NvPublic, NvPublicBuilder};

/// What was found.
pub(super) struct EkCertificates {
    /// The kind of endorsement key that has a certificate, or the kind to use without.
    pub(super) algorithm: AsymmetricAlgorithm,
    /// Its certificate, DER.
    pub(super) leaf: Option<Vec<u8>>,
    /// Certificates between it and the maker's root, DER, in the maker's order.
    pub(super) chain: Vec<Vec<u8>>,
}

/// Reads the certificate of the RSA-2048 or the P-256 endorsement key, and the chain if it is stored.
///
/// # Errors
/// An index that is there and cannot be read.
pub(super) fn ek_certificates(context: &mut Context) -> Result<EkCertificates, TpmError> {
    let present = indices(context)?;
    let kinds = [
        (RSA_2048_CERTIFICATE, AsymmetricAlgorithm::Rsa),
        (P256_CERTIFICATE, AsymmetricAlgorithm::Ecc),
    ];
    let mut certified = None;
    for (index, algorithm) in kinds
        .into_iter()
        .filter(|(index, _)| present.contains(index))
    {
        if let Some(leaf) = split(&read(context, index)?).into_iter().next() {
            certified = Some((algorithm, leaf));
            break;
        }
    }
    let Some((algorithm, leaf)) = certified else {
        return Ok(EkCertificates {
            algorithm: AsymmetricAlgorithm::Rsa,
            leaf: None,
            chain: Vec::new(),
        });
    };
    // One chain, cut at the size of an index.
    let mut chain = Vec::new();
    for index in CHAIN_FIRST..=CHAIN_LAST {
        if !present.contains(&index) || chain.len() > CHAIN_LIMIT {
            break;
        }
        chain.extend(read(context, index)?);
    }
    Ok(EkCertificates {
        algorithm,
        leaf: Some(leaf),
        chain: split(&chain),
    })
}

/// The certificates one after the other; what follows them is padding.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((certificate, rest)) = first(bytes) {
        found.push(certificate.to_vec());
        bytes = rest;
    }
    found
}

/// The first DER value, if it is a SEQUENCE and all there.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    header.tag.assert_eq(pkcs1::der::Tag::Sequence).ok()?;
    let head = usize::try_from(reader.position()).ok()?;
    bytes.split_at_checked(head.checked_add(usize::try_from(header.length).ok()?)?)
}

/// The indices that the TCG reserves for endorsement keys and that this TPM has.
fn indices(context: &mut Context) -> Result<Vec<u32>, TpmError> {
    let (data, _) = context
        .get_capability(CapabilityType::Handles, RESERVED_FIRST, MOST_HANDLES)
        .map_err(|error| TpmError::response(Step::Capability, error))?;
    let CapabilityData::Handles(handles) = data else {
        return Ok(Vec::new());
    };
    Ok(handles.into_inner().into_iter().map(u32::from).collect())
}

/// Whether there is such an index.
///
/// # Errors
/// The TPM does not say.
pub(super) fn is_defined(context: &mut Context, index: u32) -> Result<bool, TpmError> {
    let (data, _) = context
        .get_capability(CapabilityType::Handles, index, 1)
        .map_err(|error| TpmError::response(Step::Capability, error))?;
    Ok(match data {
        CapabilityData::Handles(handles) => {
            let first = handles.into_inner().into_iter().next();
            first.map(u32::from) == Some(index)
        }
        _ => false,
    })
}

/// The whole index, by the owner, who has no password.
///
/// # Errors
/// It is not there, or the owner may not read it.
pub(super) fn read_as_owner(context: &mut Context, index: u32) -> Result<Vec<u8>, TpmError> {
    read_with(context, index, |_| NvAuth::Owner, Step::ReadIndex)
}

/// Fills an index with this content, by the owner; makes it anew where it has another size.
///
/// # Errors
/// There is no room, or the owner may not.
pub(super) fn write_as_owner(
    context: &mut Context,
    index: u32,
    content: &[u8],
) -> Result<(), TpmError> {
    let failed = |error| TpmError::response(Step::WriteIndex, error);
    let defined = match is_defined(context, index)? {
        true => Some(handle(context, index).map_err(failed)?),
        false => None,
    };
    let mut write = || {
        let kept = match defined {
            None => None,
            Some(nv) => match context.nv_read_public(nv)?.0.data_size() == content.len() {
                true => Some(nv),
                false => {
                    context.execute_with_session(Some(AuthSession::Password), |context| {
                        context.nv_undefine_space(Provision::Owner, nv)
                    })?;
                    None
                }
            },
        };
        context.execute_with_session(Some(AuthSession::Password), |context| {
            let nv = match kept {
                Some(nv) => nv,
                None => context.nv_define_space(
                    Provision::Owner,
                    None,
                    owners(index, content.len())?,
                )?,
            };
            let content = MaxNvBuffer::try_from(content)?;
            context.nv_write(NvAuth::Owner, nv, content, 0)
        })
    };
    write().map_err(failed)
}

/// An index that the owner, and nobody else, reads and writes.
fn owners(index: u32, size: usize) -> tss_esapi::Result<NvPublic> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_owner_write(true)
        .with_owner_read(true)
        .build()?;
    NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(size)
        .build()
}

fn handle(context: &mut Context, index: u32) -> tss_esapi::Result<NvIndexHandle> {
    let handle = NvIndexTpmHandle::new(index)?;
    let object = context.tr_from_tpm_public(TpmHandle::NvIndex(handle))?;
    Ok(NvIndexHandle::from(object))
}

/// The whole certificate, with the index's own empty password, as its maker left it.
fn read(context: &mut Context, index: u32) -> Result<Vec<u8>, TpmError> {
    read_with(context, index, NvAuth::NvIndex, Step::ReadCertificate)
}

/// The whole index; nothing if it was never written, as some hypervisors leave theirs.
fn read_with(
    context: &mut Context,
    index: u32,
    auth: fn(NvIndexHandle) -> NvAuth,
    step: Step,
) -> Result<Vec<u8>, TpmError> {
    let failed = |error| TpmError::response(step, error);
    let nv = handle(context, index).map_err(failed)?;
    let (public, _) = context.nv_read_public(nv).map_err(failed)?;
    if !public.attributes().written() {
        return Ok(Vec::new());
    }
    let size = public.data_size().min(INDEX_LIMIT);
    let mut content = Vec::with_capacity(size);
    while let Some(left) = size.checked_sub(content.len()).filter(|left| *left > 0) {
        let wrong = |_| TpmError::Unexpected {
            step,
            why: format!("index {index:#010x} is {size} bytes long"),
        };
        let piece = u16::try_from(left.min(PIECE)).map_err(wrong)?;
        let offset = u16::try_from(content.len()).map_err(wrong)?;
        let bytes = context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_read(auth(nv), nv, piece, offset)
            })
            .map_err(failed)?;
        if bytes.value().is_empty() {
            break;
        }
        content.extend_from_slice(bytes.value());
    }
    Ok(content)
}

// TCG EK Credential Profile, 2.2.1.4 and 2.2.1.5.2.
const RESERVED_FIRST: u32 = 0x01c0_0000;
const RSA_2048_CERTIFICATE: u32 = 0x01c0_0002;
const P256_CERTIFICATE: u32 = 0x01c0_000a;
const CHAIN_FIRST: u32 = 0x01c0_0100;
const CHAIN_LAST: u32 = 0x01c0_010f;
const MOST_HANDLES: u32 = 254;
/// Every TPM reads so much at once (PC Client Platform TPM Profile, TPM_PT_NV_BUFFER_MAX).
const PIECE: usize = 512;
/// Certificates are 1 to 2 KiB.
const INDEX_LIMIT: usize = 8 * 1024;
const CHAIN_LIMIT: usize = 24 * 1024;

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn certificates_are_cut_apart_and_padding_is_dropped() {
        let one = [&[0x30, 0x03][..], &[1, 2, 3]].concat();
        let two = [&[0x30, 0x81, 0x80][..], &[7; 0x80]].concat();
        for padding in [&[][..], &[0; 20], &[0xff; 20]] {
            let stored = [&one[..], &two, padding].concat();
            assert_eq!(split(&stored), [one.clone(), two.clone()]);
        }
        // Cut short, or no certificate at all.
        assert_eq!(split(&two[..100]), Vec::<Vec<u8>>::new());
        assert_eq!(split(&[0x31, 0x01, 0x00]), Vec::<Vec<u8>>::new());
        assert_eq!(split(&[]), Vec::<Vec<u8>>::new());
        assert_eq!(
            split(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
            Vec::<Vec<u8>>::new()
        );
    }
}
