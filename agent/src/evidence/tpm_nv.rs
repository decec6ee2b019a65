// SPDX-License-Identifier: Apache-2.0

//! Certificates in the TPM's non-volatile memory: where the TCG EK Credential Profile for TPM Family 2.0
//! puts what a TPM's maker says about it. `tpm_enrol` reads them once.

use super::tpm_error::TpmError;
use super::tpm_rc::Step;
use pkcs1::der::{Decode as _, Header, Reader as _, SliceReader};
use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::AsymmetricAlgorithm;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::CapabilityData;

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

/// The whole index, with its own empty password, as its maker left it; nothing if it was never written,
/// as some hypervisors leave theirs.
fn read(context: &mut Context, index: u32) -> Result<Vec<u8>, TpmError> {
    let failed = |error| TpmError::response(Step::ReadCertificate, error);
    let handle = NvIndexTpmHandle::new(index).map_err(failed)?;
    let object = context
        .tr_from_tpm_public(TpmHandle::NvIndex(handle))
        .map_err(failed)?;
    let nv = NvIndexHandle::from(object);
    let (public, _) = context.nv_read_public(nv).map_err(failed)?;
    if !public.attributes().written() {
        return Ok(Vec::new());
    }
    let size = public.data_size().min(INDEX_LIMIT);
    let mut content = Vec::with_capacity(size);
    while let Some(left) = size.checked_sub(content.len()).filter(|left| *left > 0) {
        let wrong = |_| TpmError::Unexpected {
            step: Step::ReadCertificate,
            why: format!("index {index:#010x} is {size} bytes long"),
        };
        let piece = u16::try_from(left.min(PIECE)).map_err(wrong)?;
        let offset = u16::try_from(content.len()).map_err(wrong)?;
        let bytes = context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_read(NvAuth::NvIndex(nv), nv, piece, offset)
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
