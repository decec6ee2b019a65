// SPDX-License-Identifier: Apache-2.0

//! The verifier's half of TPM quotes, alone or beside an Azure report. Only a KBS needs it.
//!
//! This is stricter than what a client may get away with elsewhere: exactly one selection, of the SHA-256
//! bank, over all 24 PCRs. Whether the key is *known* is not decided here; the attestation policy does
//! that, from `ak_public`.

use crate::encoding::{b64, hex};
use crate::error::Error;
use crate::evidence::{AzTpmQuote, RsaNumbers, TpmEvidence};
use crate::tpm::{Attest, pcr_digest, rsassa_sha256_signature};
use rsa::pkcs8::DecodePublicKey as _;
use rsa::signature::Verifier as _;
use rsa::traits::PublicKeyParts as _;

/// A quote whose signature, form and digest hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedQuote {
    /// What the TPM signed.
    pub attest: Attest,
    /// PCR 0 to 23 of the SHA-256 bank.
    pub pcrs: Vec<[u8; 32]>,
}

/// Checks a quote: signature first, so that nothing unsigned is parsed further than needed.
///
/// `expected_extra_data` is the runtime-data digest cut to 32 bytes.
///
/// # Errors
/// [`Error::Quote`] naming the check that failed, [`Error::Malformed`] or [`Error::Algorithm`] when a part
/// cannot be read.
pub fn tpm_quote(
    evidence: &TpmEvidence,
    expected_extra_data: &[u8],
) -> Result<VerifiedQuote, Error> {
    let message = decode("message", &evidence.tpm_quote.message)?;
    let signature = decode("signature", &evidence.tpm_quote.signature)?;
    let spki = decode("ak_public", &evidence.ak_public)?;
    let key = rsa::RsaPublicKey::from_public_key_der(&spki)
        .map_err(|_| Error::malformed(EVIDENCE, "ak_public is not an RSA SubjectPublicKeyInfo"))?;
    check_signature(key, &message, rsassa_sha256_signature(&signature)?)?;
    check_quote(&message, &evidence.tpm_quote.pcrs, expected_extra_data)
}

/// Checks the quote of an Azure vTPM, whose key the paravisor's report names. The checks are those of
/// [`tpm_quote`]; only the spelling differs.
///
/// `expected_extra_data` is the whole runtime-data digest, 48 bytes.
///
/// # Errors
/// As [`tpm_quote`].
pub fn az_tpm_quote(
    quote: &AzTpmQuote,
    ak: &RsaNumbers,
    expected_extra_data: &[u8],
) -> Result<VerifiedQuote, Error> {
    let decode = |member: &'static str, text: &str| {
        Error::check_size(EVIDENCE, text.as_bytes(), MEMBER_LIMIT)?;
        hex::decode(text)
            .ok_or_else(|| Error::malformed(EVIDENCE, format!("{member} is not hexadecimal")))
    };
    let message = decode("message", &quote.message)?;
    let signature = decode("signature", &quote.signature)?;
    let number = rsa::BigUint::from_bytes_be;
    let key = rsa::RsaPublicKey::new(number(&ak.n), number(&ak.e))
        .map_err(|_| Error::malformed(EVIDENCE, "HCLAkPub is not an RSA public key"))?;
    check_signature(key, &message, &signature)?;
    check_quote(&message, &quote.pcrs, expected_extra_data)
}

/// What a signed message must say.
fn check_quote(
    message: &[u8],
    pcrs: &[String],
    expected_extra_data: &[u8],
) -> Result<VerifiedQuote, Error> {
    let attest = Attest::parse(message)?;
    attest.require_full_sha256_selection()?;
    let pcrs = read_pcrs(pcrs)?;
    if attest.pcr_digest != pcr_digest(&pcrs) {
        return refuse("the PCR values are not the ones that were quoted".to_owned());
    }
    if attest.extra_data != expected_extra_data {
        return refuse(format!(
            "its extra data is {}, expected {}: it belongs to another session or key",
            hex::encode(&attest.extra_data),
            hex::encode(expected_extra_data)
        ));
    }
    Ok(VerifiedQuote { attest, pcrs })
}

/// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2) by a key of at least 2048 bits.
fn check_signature(key: rsa::RsaPublicKey, message: &[u8], signature: &[u8]) -> Result<(), Error> {
    let bits = key.n().bits();
    if bits < MINIMUM_AK_BITS {
        return refuse(format!(
            "the attestation key has {bits} bits, at least 2048 are expected"
        ));
    }
    let unsigned = || Error::Quote {
        why: "the signature is not by the attestation key".to_owned(),
    };
    let signature = rsa::pkcs1v15::Signature::try_from(signature).map_err(|_| unsigned())?;
    rsa::pkcs1v15::VerifyingKey::<sha2::Sha256>::new(key)
        .verify(message, &signature)
        .map_err(|_| unsigned())
}

fn read_pcrs(texts: &[String]) -> Result<Vec<[u8; 32]>, Error> {
    if texts.len() != PCR_COUNT {
        return refuse(format!(
            "{} PCR values came, expected {PCR_COUNT}",
            texts.len()
        ));
    }
    texts
        .iter()
        .map(|text| {
            hex::decode(text)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| {
                    Error::malformed(EVIDENCE, "a PCR value is not 64 hexadecimal digits")
                })
        })
        .collect()
}

fn decode(member: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    Error::check_size(EVIDENCE, text.as_bytes(), MEMBER_LIMIT)?;
    b64::decode(text).ok_or_else(|| Error::malformed(EVIDENCE, format!("{member} is not base64")))
}

fn refuse<T>(why: String) -> Result<T, Error> {
    Err(Error::Quote { why })
}

const EVIDENCE: &str = "the TPM evidence";
const PCR_COUNT: usize = 24;
const MINIMUM_AK_BITS: usize = 2048;
/// A TPMS_ATTEST is under 200 bytes, an RSA-4096 key under 600.
const MEMBER_LIMIT: usize = 8192;

#[cfg(test)]
mod tests {
    use super::{az_tpm_quote, tpm_quote};
    use crate::encoding::{b64, hex};
    use crate::evidence::{AzTpmQuote, RsaNumbers, TpmEvidence, TpmQuote};
    use crate::tpm::pcr_digest;
    use rsa::pkcs8::EncodePublicKey as _;
    use rsa::signature::{SignatureEncoding as _, Signer as _};
    use rsa::traits::PublicKeyParts as _;
    use std::sync::LazyLock;

    static AK: LazyLock<rsa::RsaPrivateKey> = LazyLock::new(|| key(2048));
    const NONCE: [u8; 32] = [0x22; 32];

    fn key(bits: usize) -> rsa::RsaPrivateKey {
        rsa::RsaPrivateKey::new(&mut rand_core::OsRng, bits).unwrap()
    }

    /// A TPMS_ATTEST over these PCRs with this selection.
    fn message(pcrs: &[[u8; 32]], selection: &str) -> Vec<u8> {
        let digest = hex::encode(pcr_digest(pcrs));
        hex::decode(&format!(
            "ff5443478018 0000 0020{} 000000000000000100000002000000030100000000000000ff {selection} 0020{digest}",
            hex::encode(NONCE),
        )
        .replace(' ', ""))
        .unwrap()
    }

    fn sign(ak: &rsa::RsaPrivateKey, message: &[u8], pcrs: &[[u8; 32]]) -> TpmEvidence {
        let signature = rsa::pkcs1v15::SigningKey::<sha2::Sha256>::new(ak.clone()).sign(message);
        let signature = signature.to_vec();
        let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
        let spki = ak.to_public_key().to_public_key_der().unwrap();
        TpmEvidence {
            ak_public: b64::encode(spki),
            tpm_quote: TpmQuote {
                message: b64::encode(message),
                signature: b64::encode([&[0, 0x14, 0, 0x0b][..], &length, &signature].concat()),
                pcrs: pcrs.iter().map(hex::encode).collect(),
            },
        }
    }

    fn good() -> TpmEvidence {
        let pcrs = [[7; 32]; 24];
        sign(&AK, &message(&pcrs, FULL), &pcrs)
    }

    fn refusal(evidence: &TpmEvidence) -> String {
        tpm_quote(evidence, &NONCE).unwrap_err().to_string()
    }

    const FULL: &str = "00000001000b03ffffff";

    #[test]
    fn a_good_quote_passes() {
        let verified = tpm_quote(&good(), &NONCE).unwrap();
        assert_eq!(verified.pcrs, [[7; 32]; 24]);
        assert_eq!(
            (verified.attest.reset_count, verified.attest.restart_count),
            (2, 3)
        );
    }

    #[test]
    fn another_session_or_key_is_refused() {
        let error = tpm_quote(&good(), &[0; 32]).unwrap_err().to_string();
        assert!(error.contains("another session"), "{error}");
    }

    #[test]
    fn changed_pcrs_are_refused() {
        let mut evidence = good();
        evidence.tpm_quote.pcrs[4] = "00".repeat(32);
        assert!(refusal(&evidence).contains("not the ones that were quoted"));
        evidence.tpm_quote.pcrs[4] = "0g".repeat(32);
        assert!(refusal(&evidence).contains("64 hexadecimal digits"));
        evidence.tpm_quote.pcrs.pop();
        assert!(refusal(&evidence).contains("23 PCR values"));
    }

    #[test]
    fn other_selections_are_refused_even_when_signed() {
        let pcrs = [[7; 32]; 24];
        for selection in [
            "00000001000b03fffffe",
            "00000002000b03ffffff000b03000000",
            "00000000",
        ] {
            let evidence = sign(&AK, &message(&pcrs, selection), &pcrs);
            assert!(refusal(&evidence).contains("expected [0x000b:ffffff]"));
        }
    }

    #[test]
    fn unsigned_or_foreign_messages_are_refused() {
        let mut altered = good();
        let mut bytes = b64::decode(&altered.tpm_quote.message).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        altered.tpm_quote.message = b64::encode(bytes);
        assert!(refusal(&altered).contains("not by the attestation key"));

        let mut foreign = good();
        foreign.ak_public = b64::encode(key(2048).to_public_key().to_public_key_der().unwrap());
        assert!(refusal(&foreign).contains("not by the attestation key"));

        let mut no_key = good();
        no_key.ak_public = b64::encode(b"not a key");
        assert!(refusal(&no_key).contains("SubjectPublicKeyInfo"));

        let pcrs = [[7; 32]; 24];
        let short = sign(&key(1024), &message(&pcrs, FULL), &pcrs);
        assert!(refusal(&short).contains("1024 bits"));
    }

    #[test]
    fn something_other_than_a_quote_is_refused_even_when_signed() {
        let pcrs = [[7; 32]; 24];
        let mut certify = message(&pcrs, FULL);
        certify[5] = 0x17;
        assert!(refusal(&sign(&AK, &certify, &pcrs)).contains("expected a quote"));
        let mut no_magic = message(&pcrs, FULL);
        no_magic[0] = 0;
        assert!(refusal(&sign(&AK, &no_magic, &pcrs)).contains("magic"));
    }

    #[test]
    fn azure_quotes_are_the_same_quotes_in_another_spelling() {
        let evidence = good();
        let bytes = |text: &str| b64::decode(text).unwrap();
        let signature = bytes(&evidence.tpm_quote.signature);
        let key = AK.to_public_key();
        let ak = RsaNumbers {
            n: key.n().to_bytes_be(),
            e: key.e().to_bytes_be(),
        };
        let good = AzTpmQuote {
            signature: hex::encode(&signature[6..]),
            message: hex::encode(bytes(&evidence.tpm_quote.message)),
            pcrs: evidence.tpm_quote.pcrs,
        };
        assert_eq!(
            az_tpm_quote(&good, &ak, &NONCE).unwrap().pcrs,
            [[7; 32]; 24]
        );

        let refusal = |change: &dyn Fn(&mut AzTpmQuote, &mut RsaNumbers)| {
            let (mut quote, mut ak) = (good.clone(), ak.clone());
            change(&mut quote, &mut ak);
            az_tpm_quote(&quote, &ak, &NONCE).unwrap_err().to_string()
        };
        assert!(refusal(&|q, _| q.signature = hex::encode(&signature)).contains("not by the"));
        assert!(refusal(&|q, _| q.pcrs[0] = "00".repeat(32)).contains("not the ones"));
        assert!(refusal(&|q, _| q.message = "AA==".to_owned()).contains("not hexadecimal"));
        assert!(refusal(&|q, _| q.message = "a".repeat(10_000)).contains("at most"));
        assert!(refusal(&|_, ak| ak.n = vec![0xff; 128]).contains("1024 bits"));
        assert!(refusal(&|_, ak| ak.e = vec![]).contains("HCLAkPub"));
        let other = az_tpm_quote(&good, &ak, &[0; 48]).unwrap_err().to_string();
        assert!(other.contains("another session"), "{other}");
    }

    #[test]
    fn encodings_and_sizes() {
        let mut evidence = good();
        evidence.tpm_quote.signature = "!".to_owned();
        assert!(refusal(&evidence).contains("signature is not base64"));
        evidence.tpm_quote.message = "A".repeat(10_000);
        assert!(refusal(&evidence).contains("at most"));
    }
}
