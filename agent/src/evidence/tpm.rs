// SPDX-License-Identifier: Apache-2.0

//! Evidence from a TPM 2.0: a quote over all 24 SHA-256 PCRs with the attestation key, and the PCR values
//! behind it; opened once per handshake, before the KBS hands out its nonce.
//!
//! Once the key exists a handshake costs six commands in one context: two to read the key, one to quote,
//! three to read 24 PCRs. The authorization is an empty password: an HMAC session would cost three more
//! commands and protect nothing, because the quote itself is signed and carries the nonce.

use super::tpm_error::TpmError;
use super::tpm_key::{self, AttestationKey};
use super::tpm_rc::Step;
use super::{Attester, EvidenceError, tcti, tpm_pcr8};
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::evidence::{TpmEvidence, TpmQuote};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tpm::{Attest, pcr_digest};
use kbs_protocol::{NodeId, Tee};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, Data, HashScheme, PcrSelectSize, PcrSelectionList, PcrSlot, SignatureScheme,
};
use tss_esapi::traits::Marshall as _;

/// A TPM with its attestation key, ready to quote.
pub struct TpmAttester {
    context: Context,
    ak_handle: u32,
    key: AttestationKey,
}

impl TpmAttester {
    /// Opens the TPM that `tcti` names and its attestation key at `ak_handle`, which is created if there is
    /// none (see [`super::DEFAULT_TCTI`], [`super::DEFAULT_AK_HANDLE`]).
    ///
    /// # Errors
    /// No TPM, no access, or a key at the handle that proves nothing.
    pub fn open(tcti: &str, ak_handle: u32) -> Result<Self, TpmError> {
        let mut context = tcti::open(tcti)?;
        let key = tpm_key::find_or_create(&mut context, ak_handle)?;
        Ok(Self {
            context,
            ak_handle,
            key,
        })
    }

    /// The TPM and a key at `ak_handle` that somebody else made and vouches for; `None` without one.
    ///
    /// # Errors
    /// No TPM, no access, or no RSA key.
    pub(super) fn open_existing(tcti: &str, ak_handle: u32) -> Result<Option<Self>, TpmError> {
        let mut context = tcti::open(tcti)?;
        let key = tpm_key::find_vouched(&mut context, ak_handle)?;
        Ok(key.map(|key| Self {
            context,
            ak_handle,
            key,
        }))
    }

    /// For what is no quote.
    pub(super) fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// Makes PCR 8 carry this init-data, extending it where nothing has yet.
    ///
    /// # Errors
    /// Something else is measured there (GRUB does that), or the digest does not fit.
    pub fn bind_init_data(&mut self, init_data: &InitDataToml) -> Result<(), EvidenceError> {
        tpm_pcr8::bind(&mut self.context, init_data)
    }

    /// DER SubjectPublicKeyInfo of the attestation key.
    pub fn ak_spki_der(&self) -> &[u8] {
        &self.key.spki_der
    }

    /// The node's id, derived from the attestation key.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_spki_der(self.ak_spki_der())
    }

    /// A quote over this extra data, as it travels.
    fn evidence(&mut self, extra_data: &[u8]) -> Result<TpmEvidence, TpmError> {
        let quote = self.quote(extra_data)?;
        Ok(TpmEvidence {
            ak_public: b64::encode(self.ak_spki_der()),
            tpm_quote: TpmQuote {
                message: b64::encode(quote.message),
                signature: b64::encode(quote.signature),
                pcrs: quote.pcrs.iter().map(hex::encode).collect(),
            },
        })
    }

    /// A quote and the PCR values it covers.
    ///
    /// The TPM cannot do both in one command, so a PCR may be extended in between: then the digest of
    /// what was read differs from the digest that was signed, and the attempt is repeated.
    pub(super) fn quote(&mut self, extra_data: &[u8]) -> Result<Quote, TpmError> {
        let mut counters = Vec::new();
        for _ in 0..ATTEMPTS {
            let (message, signature) = self.certify(extra_data)?;
            let signed_digest = self.check(&message)?;
            let (pcrs, counter) = read_pcrs(&mut self.context)?;
            if signed_digest == pcr_digest(&pcrs) {
                return Ok(Quote {
                    message,
                    signature,
                    pcrs,
                });
            }
            log::info!("a PCR changed while it was quoted, trying again");
            counters.push(counter);
        }
        if counters
            .iter()
            .all(|counter| Some(counter) == counters.first())
        {
            return Err(TpmError::Contradiction);
        }
        Err(TpmError::PcrsKeepChanging { attempts: ATTEMPTS })
    }

    /// TPM2_Quote: the marshalled TPMS_ATTEST and TPMT_SIGNATURE.
    fn certify(&mut self, extra_data: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let key = self.key.handle;
        let scheme = SignatureScheme::RsaSsa {
            hash_scheme: HashScheme::new(HashingAlgorithm::Sha256),
        };
        let mut quote = || {
            let extra_data = Data::try_from(extra_data.to_vec())?;
            let pcrs = select(&ALL_PCRS)?;
            let (attest, signature) = self
                .context
                .execute_with_session(Some(AuthSession::Password), |context| {
                    context.quote(key, extra_data, scheme, pcrs)
                })?;
            Ok((attest.marshall()?, signature.marshall()?))
        };
        quote().map_err(|error| TpmError::response(Step::Quote, error))
    }

    /// Looks at a quote as a verifier will, and returns the PCR digest in it.
    fn check(&mut self, message: &[u8]) -> Result<Vec<u8>, TpmError> {
        let attest = Attest::parse(message).map_err(|error| TpmError::Unexpected {
            step: Step::Quote,
            why: error.to_string(),
        })?;
        if attest.qualified_signer != self.key.qualified_name {
            return Err(TpmError::KeyReplaced {
                handle: self.ak_handle,
            });
        }
        // A TPM without a SHA-256 bank does not fail: it signs an empty selection.
        match attest.require_full_sha256_selection() {
            Ok(()) => Ok(attest.pcr_digest),
            Err(_) => Err(no_sha256_bank(&mut self.context)),
        }
    }
}

impl Attester for TpmAttester {
    fn tee(&self) -> Tee {
        Tee::Tpm
    }

    fn detect(&mut self) -> Result<String, EvidenceError> {
        let banks = active_banks(&mut self.context)?;
        Ok(format!("TPM quotes, PCR banks {}", banks.join(", ")))
    }

    fn node_key(&self) -> Option<&[u8]> {
        Some(self.ak_spki_der())
    }

    fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError> {
        Ok(json!(self.evidence(&digest.report_data(Tee::Tpm))?))
    }

    fn sign(&mut self, extra_data: &[u8; 32]) -> Option<Result<TpmEvidence, EvidenceError>> {
        Some(self.evidence(extra_data).map_err(EvidenceError::from))
    }
}

/// What a verifier gets to see.
pub(super) struct Quote {
    /// TPMS_ATTEST, without a size in front.
    pub(super) message: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub(super) signature: Vec<u8>,
    /// PCR 0 to PCR 23.
    pub(super) pcrs: Vec<[u8; 32]>,
}

/// The 24 values of the SHA-256 bank and the TPM's PCR update counter at the last read.
///
/// # Errors
/// [`TpmError::NoSha256Bank`] if the TPM leaves any of them out.
pub(super) fn read_pcrs(context: &mut Context) -> Result<(Vec<[u8; 32]>, u32), TpmError> {
    let mut values = BTreeMap::new();
    loop {
        let missing: Vec<u8> = ALL_PCRS
            .into_iter()
            .filter(|n| !values.contains_key(n))
            .collect();
        let (counter, selection, digests) =
            select(missing.chunks(PCRS_PER_READ).next().unwrap_or_default())
                .and_then(|selection| context.pcr_read(selection))
                .map_err(|error| TpmError::response(Step::ReadPcrs, error))?;
        // The TPM says which of them it returns; it may be fewer than were asked.
        let before = values.len();
        for (number, digest) in selected(&selection).into_iter().zip(digests.value()) {
            if let Ok(value) = <[u8; 32]>::try_from(digest.value()) {
                values.insert(number, value);
            }
        }
        if values.len() == ALL_PCRS.len() {
            return Ok((values.into_values().collect(), counter));
        }
        if values.len() == before {
            return Err(no_sha256_bank(context));
        }
    }
}

/// The hash names of the PCR banks that are active, lower case.
pub(super) fn active_banks(context: &mut Context) -> Result<Vec<String>, TpmError> {
    let (data, _) = context
        .get_capability(CapabilityType::AssignedPcr, 0, 1)
        .map_err(|error| TpmError::response(Step::Capability, error))?;
    let CapabilityData::AssignedPcr(banks) = data else {
        return Ok(Vec::new());
    };
    Ok(banks
        .get_selections()
        .iter()
        .filter(|bank| !bank.is_empty())
        .map(|bank| format!("{:?}", bank.hashing_algorithm()).to_lowercase())
        .collect())
}

/// The error that names the banks there are.
fn no_sha256_bank(context: &mut Context) -> TpmError {
    match active_banks(context) {
        Ok(banks) if banks.is_empty() => TpmError::NoSha256Bank {
            active: "none".to_owned(),
        },
        Ok(banks) => TpmError::NoSha256Bank {
            active: banks.join(", "),
        },
        Err(error) => error,
    }
}

/// The numbers of the selected SHA-256 PCRs; empty if there is not exactly that one bank.
fn selected(selection: &PcrSelectionList) -> Vec<u8> {
    match selection.get_selections() {
        [bank] if bank.hashing_algorithm() == HashingAlgorithm::Sha256 => {
            let slots = bank.selected();
            (0..=u8::MAX)
                .filter(|n| slot(*n).is_some_and(|slot| slots.contains(&slot)))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// A selection of SHA-256 PCRs by their numbers.
fn select(numbers: &[u8]) -> tss_esapi::Result<PcrSelectionList> {
    let slots: Vec<PcrSlot> = numbers.iter().filter_map(|number| slot(*number)).collect();
    PcrSelectionList::builder()
        .with_size_of_select(PcrSelectSize::ThreeOctets)
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
}

/// The binding's name for a PCR. Its numeric values are bits of a mask, not PCR numbers.
fn slot(number: u8) -> Option<PcrSlot> {
    let bit = 1_u32.checked_shl(number.into())?;
    PcrSlot::try_from(bit).ok()
}

/// What a verifier expects: every PCR of a PC client TPM.
const ALL_PCRS: [u8; 24] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/// TPML_DIGEST holds no more (TPM 2.0 Library Part 2 section 10.9.4).
const PCRS_PER_READ: usize = 8;

/// How often to quote while something extends PCRs; such bursts are short.
const ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::{ALL_PCRS, select, selected, slot};
    use tss_esapi::interface_types::algorithm::HashingAlgorithm;
    use tss_esapi::structures::{PcrSelectionList, PcrSlot};

    #[test]
    fn slots_are_masks() {
        for number in 0..=23 {
            assert_eq!(u32::from(slot(number).unwrap()), 1 << number);
        }
        assert_eq!(slot(0), Some(PcrSlot::Slot0));
        assert_eq!(slot(8), Some(PcrSlot::Slot8));
        assert_eq!(slot(23), Some(PcrSlot::Slot23));
        assert_eq!(slot(32), None);
    }

    #[test]
    fn selections_read_back_as_numbers() {
        for numbers in [&ALL_PCRS[..], &ALL_PCRS[8..16], &[7], &[]] {
            assert_eq!(selected(&select(numbers).unwrap()), numbers);
        }
    }

    #[test]
    fn another_bank_is_no_selection() {
        let sha1 = PcrSelectionList::builder()
            .with_selection(HashingAlgorithm::Sha1, &[PcrSlot::Slot0])
            .build()
            .unwrap();
        assert_eq!(selected(&sha1), Vec::<u8>::new());
        let both = PcrSelectionList::builder()
            .with_selection(HashingAlgorithm::Sha256, &[PcrSlot::Slot0])
            .with_selection(HashingAlgorithm::Sha1, &[PcrSlot::Slot0])
            .build()
            .unwrap();
        assert_eq!(selected(&both), Vec::<u8>::new());
    }
}
