// SPDX-License-Identifier: Apache-2.0

//! Init-data on a TPM: PCR 8 is extended with its digest, once a boot; the attester calls it before it quotes.
//!
//! The register itself says whether that has happened: it is zero, or what one extend makes of zero, or somebody
//! else's. GRUB measures its commands there, so under GRUB there is no room for init-data, and guessing
//! would only make the KBS refuse later and for less reason.

use super::EvidenceError;
use super::tee_error::TeeError;
use super::tpm::read_pcrs;
use super::tpm_error::TpmError;
use super::tpm_rc::Step;
use kbs_protocol::encoding::hex;
use kbs_protocol::init_data::InitDataToml;
use tss_esapi::Context;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, DigestValues};

/// Makes PCR 8 carry this init-data.
///
/// # Errors
/// [`TeeError::Pcr8Taken`] when something else was measured there; [`kbs_protocol::Error::Algorithm`] for
/// init-data whose digest no PCR can carry.
pub(super) fn bind(context: &mut Context, init_data: &InitDataToml) -> Result<(), EvidenceError> {
    let expected = init_data.expected_pcr8()?;
    let value = pcr8(context)?;
    if value == expected {
        return Ok(());
    }
    if value != [0; 32] {
        return Err(TeeError::Pcr8Taken {
            found: hex::encode(value),
        }
        .into());
    }
    extend(context, &init_data.digest())
        .map_err(|error| TpmError::response(Step::Extend, error))?;
    // Somebody may have been faster: then the register is lost until the next boot, and this says so.
    match pcr8(context)? {
        value if value == expected => Ok(()),
        value => Err(TeeError::Pcr8Taken {
            found: hex::encode(value),
        }
        .into()),
    }
}

fn extend(context: &mut Context, digest: &[u8]) -> tss_esapi::Result<()> {
    let mut values = DigestValues::new();
    values.set(HashingAlgorithm::Sha256, Digest::try_from(digest)?);
    context.execute_with_session(Some(AuthSession::Password), |context| {
        context.pcr_extend(PcrHandle::Pcr8, values)
    })
}

fn pcr8(context: &mut Context) -> Result<[u8; 32], TpmError> {
    let (pcrs, _) = read_pcrs(context)?;
    pcrs.get(8).copied().ok_or_else(|| TpmError::Unexpected {
        step: Step::ReadPcrs,
        why: "there is no PCR 8".to_owned(),
    })
}
