// SPDX-License-Identifier: Apache-2.0

//! What an endorsement key and an attestation key must be like before the registrar spends a thought on
//! them. The public areas are claims until the TPM has opened a credential made for their names.

use kbs_protocol::enroll::{Refusal, RefusalKind};
use kbs_protocol::tpm::public::{PublicArea, PublicKey, Symmetric, TPM_ALG_CFB, attribute};
use kbs_protocol::tpm::{TPM_ALG_RSASSA, TPM_ALG_SHA256};
use sha2::{Digest as _, Sha256};

/// SHA-256 over the DER SubjectPublicKeyInfo of an endorsement key: how a TPM is named here.
pub type EkDigest = [u8; 32];

/// Requires an AK that signs nothing but what its TPM made, in the way KBS verifiers check: RSA-2048,
/// RSASSA with SHA-256, restricted, never outside this TPM.
///
/// # Errors
/// [`RefusalKind::AkUnsuitable`], naming the first thing that is wrong.
pub fn require_attestation_key(ak: &PublicArea) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::new(RefusalKind::AkUnsuitable, why));
    if let Some(why) = missing(
        ak,
        &[
            (
                attribute::RESTRICTED,
                "it is not restricted, so it would sign a forged quote",
            ),
            (attribute::SIGN, "it does not sign"),
            (
                attribute::FIXED_TPM,
                "fixedTPM is clear, so it could move to another TPM",
            ),
            (
                attribute::FIXED_PARENT,
                "fixedParent is clear, so it could move to another TPM",
            ),
            (
                attribute::SENSITIVE_DATA_ORIGIN,
                "sensitiveDataOrigin is clear, so its private half was made outside the TPM",
            ),
        ],
    ) {
        return refuse(why);
    }
    if ak.has(attribute::DECRYPT) {
        return refuse("it decrypts, so it is not for signing alone");
    }
    if ak.scheme != Some((TPM_ALG_RSASSA, Some(TPM_ALG_SHA256))) {
        return refuse("its scheme is not RSASSA with SHA-256");
    }
    match &ak.key {
        PublicKey::Rsa { modulus, .. } if modulus.len() == RSA_2048_LENGTH => Ok(()),
        _ => refuse("it is not an RSA-2048 key"),
    }
}

/// Requires an EK that can protect a credential, as templates L-1 (RSA-2048) and L-2 (NIST P-256) of the
/// TCG EK Credential Profile make them.
///
/// # Errors
/// [`RefusalKind::EkUnsuitable`], naming the first thing that is wrong.
pub fn require_endorsement_key(ek: &PublicArea) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::new(RefusalKind::EkUnsuitable, why));
    if let Some(why) = missing(
        ek,
        &[
            (
                attribute::RESTRICTED,
                "it is not restricted, so software can open credentials with it",
            ),
            (attribute::DECRYPT, "it does not decrypt"),
            (attribute::FIXED_TPM, "fixedTPM is clear"),
            (attribute::FIXED_PARENT, "fixedParent is clear"),
            (
                attribute::SENSITIVE_DATA_ORIGIN,
                "sensitiveDataOrigin is clear",
            ),
        ],
    ) {
        return refuse(why);
    }
    if ek.has(attribute::SIGN) {
        return refuse("it signs");
    }
    let aes_128_cfb = Symmetric {
        key_bits: 128,
        mode: TPM_ALG_CFB,
    };
    if ek.symmetric != Some(aes_128_cfb) || ek.scheme.is_some() {
        return refuse("it does not protect credentials with AES-128 in CFB mode");
    }
    match &ek.key {
        PublicKey::Rsa { modulus, .. } if modulus.len() != RSA_2048_LENGTH => {
            refuse("it is an RSA key of another length than 2048 bits")
        }
        _ => Ok(()),
    }
}

/// DER SubjectPublicKeyInfo.
///
/// # Errors
/// [`RefusalKind::Request`]; a parsed key has no way to cause it.
pub fn spki(key: &PublicArea) -> Result<Vec<u8>, Refusal> {
    key.spki_der()
        .map_err(|error| Refusal::new(RefusalKind::Request, error.to_string()))
}

/// How the TPM with this endorsement key is named here.
///
/// # Errors
/// As [`spki`].
pub fn digest(ek: &PublicArea) -> Result<EkDigest, Refusal> {
    Ok(Sha256::digest(spki(ek)?).into())
}

fn missing<'w>(key: &PublicArea, wanted: &[(u32, &'w str)]) -> Option<&'w str> {
    wanted
        .iter()
        .find_map(|(attribute, why)| (!key.has(*attribute)).then_some(*why))
}

const RSA_2048_LENGTH: usize = 256;
