// SPDX-License-Identifier: Apache-2.0

//! TPM2_MakeCredential without a TPM: wraps a secret so that only one TPM opens it, and only while the
//! key it is about is loaded there (TPM 2.0 Library, Part 1, 24 "Credential Protection", annexes B.10 and
//! C.6). The registrar calls [`make`] once for each enrolment.

use hmac::{Hmac, Mac as _};
use kbs_protocol::enroll::RefusalKind;
use kbs_protocol::tpm::public::{PublicArea, PublicKey};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _};
use p256::{EncodedPoint, PublicKey as P256PublicKey};
use rand_core::OsRng;
use rsa::{BigUint, Oaep, RsaPublicKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use aes::Aes128;
use cfb_mode::Encryptor;
use cfb_mode::cipher::{AsyncStreamCipher as _, KeyIvInit as _};

/// What the node hands to TPM2_ActivateCredential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT: the HMAC over, and then, the encrypted secret.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET: the seed of both keys, for the endorsement key alone.
    pub secret: Vec<u8>,
}

/// Why no credential can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The modulus, exponent or point is none.
    #[error("the endorsement key is not a usable public key")]
    Key,
    /// The secret is longer than the TPM opens.
    #[error("the secret is longer than 32 bytes")]
    TooLong,
    /// The operating system has no random numbers, or a cipher refused its key.
    #[error("the cryptography of this machine failed")]
    Failed,
}

impl CredentialError {
    /// What to tell the node.
    pub fn kind(self) -> RefusalKind {
        match self {
            Self::Key => RefusalKind::EkUnsuitable,
            Self::TooLong | Self::Failed => RefusalKind::Failure,
        }
    }
}

/// Wraps `secret`, at most 32 bytes, for the TPM with the endorsement key `ek`, bound to the key named
/// `name`. The EK's nameAlg is SHA-256 and its symmetric cipher AES-128-CFB.
///
/// ```text
/// symKey      = KDFa(seed, "STORAGE", name, -, 128)
/// encIdentity = AES-128-CFB(symKey, IV 0, TPM2B_DIGEST(secret))
/// HMACkey     = KDFa(seed, "INTEGRITY", -, -, 256)
/// blob        = TPM2B_DIGEST(HMAC(HMACkey, encIdentity ‖ name)) ‖ encIdentity
/// ```
///
/// # Errors
/// [`CredentialError`].
pub fn make(ek: &PublicArea, name: &[u8], secret: &[u8]) -> Result<Credential, CredentialError> {
    if secret.len() > DIGEST_LENGTH {
        return Err(CredentialError::TooLong);
    }
    let (seed, encrypted_seed) = share_seed(&ek.key)?;
    let storage = kdf_a(&*seed, "STORAGE", name, 128)?;
    let mut identity = sized(secret)?;
    let key = storage.get(..16).ok_or(CredentialError::Failed)?;
    Encryptor::<Aes128>::new_from_slices(key, &[0; 16])
        .map_err(|_| CredentialError::Failed)?
        .encrypt(&mut identity);
    let integrity = kdf_a(&*seed, "INTEGRITY", b"", 256)?;
    let outer = hmac(&*integrity, &[&identity, name])?;
    Ok(Credential {
        blob: sized(&[sized(&outer)?, identity].concat())?,
        secret: sized(&encrypted_seed)?,
    })
}

/// A new seed and the same for the endorsement key alone.
fn share_seed(ek: &PublicKey) -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), CredentialError> {
    match ek {
        PublicKey::Rsa { exponent, modulus } => share_by_rsa(*exponent, modulus),
        PublicKey::P256 { x, y } => share_by_ecdh(x, y),
    }
}

/// RSA-OAEP with the EK's nameAlg and the label "IDENTITY", whose terminating zero counts (annex B.4).
fn share_by_rsa(
    exponent: u32,
    modulus: &[u8],
) -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), CredentialError> {
    let key = RsaPublicKey::new(BigUint::from_bytes_be(modulus), exponent.into())
        .map_err(|_| CredentialError::Key)?;
    let mut seed = Zeroizing::new([0; 32]);
    rand_core::RngCore::try_fill_bytes(&mut OsRng, &mut *seed)
        .map_err(|_| CredentialError::Failed)?;
    let padding = Oaep::new_with_label::<Sha256, _>("IDENTITY\0");
    let encrypted = key
        .encrypt(&mut OsRng, padding, &*seed)
        .map_err(|_| CredentialError::Failed)?;
    Ok((seed, encrypted))
}

/// One-pass ECDH: seed = KDFe(Z, "IDENTITY", ephemeral.x, ek.x, 256); the secret is the ephemeral point,
/// TPMS_ECC_POINT (annex C.6.1).
///
/// TPMs differ in whether a coordinate keeps its leading zeros. A new ephemeral key is taken until none of
/// ours has any, so that both kinds compute the same; those of the EK are padded, as current TPMs do.
fn share_by_ecdh(
    x: &[u8; 32],
    y: &[u8; 32],
) -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), CredentialError> {
    let point = EncodedPoint::from_affine_coordinates(x.into(), y.into(), false);
    let ek = Option::<P256PublicKey>::from(P256PublicKey::from_encoded_point(&point))
        .ok_or(CredentialError::Key)?;
    for _ in 0..ATTEMPTS {
        let ephemeral = EphemeralSecret::random(&mut OsRng);
        let ours = ephemeral.public_key().to_encoded_point(false);
        let (Some(our_x), Some(our_y)) = (ours.x(), ours.y()) else {
            continue;
        };
        let shared = ephemeral.diffie_hellman(&ek);
        let z = shared.raw_secret_bytes();
        if [our_x, our_y, z].iter().any(|c| c.first() == Some(&0)) {
            continue;
        }
        return Ok((
            kdf_e(z, "IDENTITY", our_x, x),
            [sized(our_x)?, sized(our_y)?].concat(),
        ));
    }
    Err(CredentialError::Failed)
}

/// KDFa (Part 1, 11.4.10.2; SP 800-108 counter mode) of up to one block:
/// HMAC-SHA-256(key, 1 ‖ label ‖ 0 ‖ contextU ‖ bits), contextV empty.
fn kdf_a(
    key: &[u8],
    label: &str,
    context: &[u8],
    bits: u32,
) -> Result<Zeroizing<[u8; 32]>, CredentialError> {
    let block = hmac(
        key,
        &[
            &1_u32.to_be_bytes(),
            label.as_bytes(),
            &[0],
            context,
            &bits.to_be_bytes(),
        ],
    )?;
    Ok(Zeroizing::new(block))
}

/// KDFe (Part 1, 11.4.10.3; SP 800-56A) of one block: SHA-256(1 ‖ Z ‖ label ‖ 0 ‖ partyU ‖ partyV).
fn kdf_e(z: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> Zeroizing<[u8; 32]> {
    let digest = Sha256::new()
        .chain_update(1_u32.to_be_bytes())
        .chain_update(z)
        .chain_update(label)
        .chain_update([0])
        .chain_update(party_u)
        .chain_update(party_v)
        .finalize();
    Zeroizing::new(digest.into())
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32], CredentialError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| CredentialError::Failed)?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes().into())
}

/// A TPM2B: a 16-bit length and the bytes.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let length = u16::try_from(bytes.len()).map_err(|_| CredentialError::TooLong)?;
    Ok([&length.to_be_bytes()[..], bytes].concat())
}

const DIGEST_LENGTH: usize = 32;
/// One in about 85 ephemeral keys is thrown away.
const ATTEMPTS: usize = 32;

#[cfg(test)]
mod tests {
    use super::{CredentialError, kdf_a, make, share_by_ecdh, share_by_rsa};
    use kbs_protocol::encoding::hex;
    use kbs_protocol::tpm::public::PublicArea;

    /// Computed with Python's hmac module from the formula.
    #[test]
    fn kdf_a_is_one_hmac() {
        let key = kdf_a(&[0x0b; 32], "STORAGE", &[0x00, 0x0b], 128).unwrap();
        assert_eq!(
            hex::encode(*key),
            "2ee9967a1616730db2c24d8bbcaa51a6de09285c11763eb28624ce28ba915dc4"
        );
    }

    #[test]
    fn keys_that_are_none() {
        let off_curve = share_by_ecdh(&[1; 32], &[2; 32]);
        assert_eq!(off_curve.err(), Some(CredentialError::Key));
        // Even moduli and the exponent 1 are no keys.
        assert_eq!(
            share_by_rsa(1, &[0xc1; 256]).err(),
            Some(CredentialError::Key)
        );
    }

    #[test]
    fn a_secret_longer_than_a_digest_is_refused() {
        let ek = "0023000b000300b200000006008000430010000300100020".to_owned()
            + "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2960020"
            + "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let ek = PublicArea::parse(&hex::decode(&ek).unwrap()).unwrap();
        assert_eq!(make(&ek, &[], &[0; 33]), Err(CredentialError::TooLong));
        let good = make(&ek, &[], &[0; 32]).unwrap();
        // TPM2B { TPM2B { HMAC }, TPM2B { 32 bytes } encrypted }; TPM2B { TPM2B x, TPM2B y }
        assert_eq!(
            (good.blob.len(), good.secret.len()),
            (2 + 34 + 34, 2 + 34 + 34)
        );
        assert_ne!(
            good,
            make(&ek, &[], &[0; 32]).unwrap(),
            "a new seed each time"
        );
    }
}
