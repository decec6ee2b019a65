// SPDX-License-Identifier: Apache-2.0

//! What there is to know about this machine's TPM, without changing it; for `status` and `doctor`.

use super::tcti;
use super::tpm::{active_banks, read_pcrs};
use super::tpm_error::TpmError;
use super::tpm_key::find;
use super::tpm_rc::Step;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::{Blame, NodeId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tss_esapi::Context;
use tss_esapi::constants::{CapabilityType, PropertyTag};
use tss_esapi::structures::{CapabilityData, TaggedTpmPropertyList};

/// A TPM at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TpmReport {
    /// The vendor's four letters (TCG Vendor ID Registry), such as `IBM`, `IFX`, `AMD`.
    pub manufacturer: String,
    /// Four numbers with dots, as vendors print it.
    pub firmware: String,
    /// Active PCR banks, lower-case hash names.
    pub banks: Vec<String>,
    /// The attestation key.
    pub ak: AkState,
    /// Whether the TPM refuses keys under dictionary-attack protection; ours is exempt.
    pub lockout: bool,
    /// PCR 0 to 23 of the SHA-256 bank in lower-case hex, if that bank is active.
    pub pcrs: Option<Vec<String>>,
}

/// The state of the attestation key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum AkState {
    /// None yet; the first attestation creates it.
    Absent,
    /// Ready.
    Ok {
        /// The node's id.
        node_id: String,
        /// SHA-256 of the key's DER SubjectPublicKeyInfo in lower-case hex.
        spki_sha256: String,
        /// Base64 of the DER SubjectPublicKeyInfo: what an administrator registers.
        ak_public: String,
    },
    /// A key that proves nothing.
    Weak {
        /// What is wrong with it.
        why: String,
        /// What to do about it.
        advice: String,
    },
}

/// Looks at the TPM that `tcti` names and at the key at `ak_handle`. Reads only: nine commands.
///
/// # Errors
/// The TPM cannot be reached or does not answer. A weak key is part of the report, not an error.
pub fn inspect(tcti: &str, ak_handle: u32) -> Result<TpmReport, TpmError> {
    let mut context = tcti::open(tcti)?;
    let properties = properties(&mut context, PropertyTag::Manufacturer, 8)?;
    let property = |tag| properties.find(tag).map_or(0, |property| property.value());
    let permanent = self::properties(&mut context, PropertyTag::Permanent, 1)?
        .find(PropertyTag::Permanent)
        .map_or(0, |property| property.value());
    // Asked first: tpm2-tss prints three lines about a handle that has nothing, and that is no error here.
    let found = if is_kept(&mut context, ak_handle)? {
        find(&mut context, ak_handle)
    } else {
        Ok(None)
    };
    let ak = match found {
        Ok(None) => AkState::Absent,
        Ok(Some(key)) => AkState::Ok {
            node_id: NodeId::from_spki_der(&key.spki_der).to_string(),
            spki_sha256: hex::encode(Sha256::digest(&key.spki_der)),
            ak_public: b64::encode(&key.spki_der),
        },
        Err(error @ TpmError::WeakKey { .. }) => AkState::Weak {
            why: error.to_string(),
            advice: error.advice(),
        },
        Err(error) => return Err(error),
    };
    let pcrs = match read_pcrs(&mut context) {
        Ok((values, _)) => Some(values.iter().map(hex::encode).collect()),
        Err(TpmError::NoSha256Bank { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(TpmReport {
        manufacturer: letters(property(PropertyTag::Manufacturer)),
        firmware: version(
            property(PropertyTag::FirmwareVersion1),
            property(PropertyTag::FirmwareVersion2),
        ),
        banks: active_banks(&mut context)?,
        ak,
        lockout: permanent & IN_LOCKOUT != 0,
        pcrs,
    })
}

/// Whether the TPM keeps anything at this handle.
fn is_kept(context: &mut Context, handle: u32) -> Result<bool, TpmError> {
    let (data, _) = context
        .get_capability(CapabilityType::Handles, handle, 1)
        .map_err(|error| TpmError::response(Step::Capability, error))?;
    let CapabilityData::Handles(handles) = data else {
        return Ok(true);
    };
    Ok(handles
        .as_ref()
        .iter()
        .any(|kept| u32::from(*kept) == handle))
}

fn properties(
    context: &mut Context,
    first: PropertyTag,
    count: u32,
) -> Result<TaggedTpmPropertyList, TpmError> {
    let (data, _) = context
        .get_capability(CapabilityType::TpmProperties, first.into(), count)
        .map_err(|error| TpmError::response(Step::Capability, error))?;
    match data {
        CapabilityData::TpmProperties(properties) => Ok(properties),
        _ => Err(TpmError::Unexpected {
            step: Step::Capability,
            why: "another capability came back".to_owned(),
        }),
    }
}

/// Four ASCII letters in a number, padded with zeros or blanks.
fn letters(value: u32) -> String {
    let text: String = value
        .to_be_bytes()
        .into_iter()
        .filter(u8::is_ascii_graphic)
        .map(char::from)
        .collect();
    text
}

/// Two numbers as four 16-bit halves.
fn version(high: u32, low: u32) -> String {
    let [a, b, c, d] = high.to_be_bytes();
    let [e, f, g, h] = low.to_be_bytes();
    let halves = [[a, b], [c, d], [e, f], [g, h]];
    halves
        .map(|half| u16::from_be_bytes(half).to_string())
        .join(".")
}

/// TPMA_PERMANENT, bit inLockout (TPM 2.0 Library Part 2 section 8.6).
const IN_LOCKOUT: u32 = 1 << 9;

#[cfg(test)]
mod tests {
    use super::{letters, version};

    #[test]
    fn numbers_read_as_vendors_print_them() {
        assert_eq!(letters(0x4942_4d00), "IBM");
        assert_eq!(letters(0x494e_5443), "INTC");
        assert_eq!(version(0x0007_0055, 0x0011_cb00), "7.85.17.51968");
    }
}
