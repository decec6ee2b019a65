// SPDX-License-Identifier: Apache-2.0

//! The attestation key (AK): finds it, creates it where there is none, refuses one that proves nothing;
//! called by the TPM attester before the handshake and by the status report.
//!
//! **Where a new key comes from.** It is a primary key of the *endorsement* hierarchy, made from the
//! template below and kept at a persistent handle. A primary key is a function of its hierarchy's seed
//! and its template (TPM 2.0 Library Part 1, "Primary seed properties"), and the endorsement seed survives
//! TPM2_Clear. So whoever clears the TPM, or removes the key, gets the same key and the same node id
//! back at the next boot, and the disk still opens; a key of the owner hierarchy would change with every
//! TPM2_Clear and lock the node out of its disk. For the same reason an interrupted creation is harmless
//! and two programs that race make the same key. The price: clearing the TPM does not retire the node;
//! whoever gives a machine away removes its registration from the KBS.
//!
//! **noDA.** A TPM counts a power cut as a failed authorization if a key under dictionary-attack
//! protection was in use (TPM 2.0 Library Part 1, "Dictionary attack protection"). The AK has no password
//! to guess, so it is exempt.

use super::tpm_error::TpmError;
use super::tpm_rc::{Meaning, Step};
use kbs_protocol::tpm::public::rsa_spki_der;
use std::fmt;
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    HashScheme, Public, PublicBuilder, PublicKeyRsa, PublicRsaParameters,
    PublicRsaParametersBuilder, RsaExponent, RsaScheme,
};

/// A good attestation key, loaded.
pub(super) struct AttestationKey {
    /// For TPM2_Quote.
    pub(super) handle: KeyHandle,
    /// DER SubjectPublicKeyInfo (RFC 5280 section 4.1, RFC 8017 appendix A.1).
    pub(super) spki_der: Vec<u8>,
    /// The public area, as enrolment shows it.
    pub(super) public: Public,
    /// Qualified name, as a quote names its signer (TPM 2.0 Library Part 1, "Names").
    pub(super) qualified_name: Vec<u8>,
}

/// The key at `ak_handle`, created if there is none.
///
/// # Errors
/// [`TpmError::WeakKey`] for a key there that would not do; otherwise what the TPM answered.
pub(super) fn find_or_create(
    context: &mut Context,
    ak_handle: u32,
) -> Result<AttestationKey, TpmError> {
    if let Some(key) = find(context, ak_handle)? {
        return Ok(key);
    }
    log::info!("the TPM has no key at {ak_handle:#010x}: creating the attestation key");
    create(context, ak_handle)?;
    // What counts is what the TPM kept, whoever was first.
    find(context, ak_handle)?.ok_or(TpmError::KeyReplaced { handle: ak_handle })
}

/// The key at `ak_handle`, or `None`. Two commands, or one if there is none.
pub(super) fn find(
    context: &mut Context,
    ak_handle: u32,
) -> Result<Option<AttestationKey>, TpmError> {
    look(context, ak_handle, strong_rsa_key)
}

/// Likewise, for a key that somebody else vouches for: that it is an RSA key is all that matters here.
pub(super) fn find_vouched(
    context: &mut Context,
    ak_handle: u32,
) -> Result<Option<AttestationKey>, TpmError> {
    look(context, ak_handle, rsa_key)
}

fn look(
    context: &mut Context,
    ak_handle: u32,
    judge: fn(&Public) -> Result<(&PublicRsaParameters, &PublicKeyRsa), Weakness>,
) -> Result<Option<AttestationKey>, TpmError> {
    let persistent = TpmHandle::Persistent(persistent_handle(ak_handle)?);
    let object = match context.tr_from_tpm_public(persistent) {
        Ok(object) => object,
        Err(error) => {
            let error = TpmError::response(Step::ReadKey, error);
            return match error.meaning() {
                Some(Meaning::NoSuchHandle) => Ok(None),
                _ => Err(error),
            };
        }
    };
    // The binding keeps the public area that it has just read to itself.
    let weak = |weakness| TpmError::WeakKey {
        handle: ak_handle,
        weakness,
    };
    let handle = KeyHandle::from(object);
    let (public, _, qualified_name) = match context.read_public(handle) {
        Ok(answer) => answer,
        Err(tss_esapi::Error::WrapperError(_)) => return Err(weak(Weakness::Unknown)),
        Err(error) => return Err(TpmError::response(Step::ReadKey, error)),
    };
    let spki_der = judge(&public)
        .and_then(|(parameters, modulus)| {
            let exponent = parameters.exponent().value();
            rsa_spki_der(exponent, modulus.value()).map_err(|_| Weakness::Unknown)
        })
        .map_err(weak)?;
    Ok(Some(AttestationKey {
        handle,
        spki_der,
        public,
        qualified_name: qualified_name.value().to_vec(),
    }))
}

/// Creates the key and keeps it. A handle that another program filled meanwhile is not an error here.
fn create(context: &mut Context, ak_handle: u32) -> Result<(), TpmError> {
    let persistent = persistent_handle(ak_handle)?;
    let template = template().map_err(|error| TpmError::response(Step::CreateKey, error))?;
    context.execute_with_session(Some(AuthSession::Password), |context| {
        let primary = context
            .create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            .map_err(|error| TpmError::response(Step::CreateKey, error))?;
        let transient = ObjectHandle::from(primary.key_handle);
        let kept = context.evict_control(Provision::Owner, transient, persistent.into());
        // The transient copy goes in either case: a TPM has room for three.
        context
            .execute_without_session(|context| context.flush_context(transient))
            .map_err(|error| TpmError::response(Step::KeepKey, error))?;
        match kept.map_err(|error| TpmError::response(Step::KeepKey, error)) {
            Err(error) if error.meaning() == Some(Meaning::HandleTaken) => Ok(()),
            kept => kept.map(|_| ()),
        }
    })
}

/// RSA-2048, restricted signing with RSASSA and SHA-256, bound to this TPM, no password, noDA.
///
/// The template is part of every node's identity: another template is another key.
fn template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicRsaParametersBuilder::new()
        .with_scheme(RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_key_bits(RsaKeyBits::Rsa2048)
        .with_exponent(RsaExponent::default())
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::default())
        .build()
}

/// Why a key is no attestation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// A public area that the TSS binding cannot read.
    Unknown,
    /// Not RSA; KBS verifiers accept only RSASSA signatures.
    NotRsa,
    /// Fewer than 2048 bits.
    TooShort,
    /// A signature scheme other than RSASSA with SHA-256.
    Scheme,
    /// Attribute `restricted` is clear.
    NotRestricted,
    /// Attribute `sign` is clear.
    NotSigning,
    /// Attribute `decrypt` is set.
    Decrypting,
    /// Attribute `fixedTPM` is clear.
    NotFixedTpm,
    /// Attribute `fixedParent` is clear.
    NotFixedParent,
    /// Attribute `sensitiveDataOrigin` is clear.
    ImportedSecret,
    /// Attribute `userWithAuth` is clear.
    PolicyOnly,
    /// Attribute `noDA` is clear.
    LocksOut,
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "it is of a kind that this program cannot read",
            Self::NotRsa => "it is not an RSA key, and a KBS accepts only RSASSA signatures",
            Self::TooShort => "it has fewer than 2048 bits",
            Self::Scheme => "its signature scheme is not RSASSA with SHA-256",
            Self::NotRestricted => "its attribute restricted is clear, so it would sign a forged quote",
            Self::NotSigning => "its attribute sign is clear, so it cannot sign a quote",
            Self::Decrypting => "its attribute decrypt is set, so it is not for signing alone",
            Self::NotFixedTpm => {
                "its attribute fixedTPM is clear, so it could move to another machine"
            }
            Self::NotFixedParent => {
                "its attribute fixedParent is clear, so it could move to another machine"
            }
            Self::ImportedSecret => {
                "its attribute sensitiveDataOrigin is clear, so its private half was made outside the \
                 TPM"
            }
            Self::PolicyOnly => {
                "its attribute userWithAuth is clear, so it signs only under a policy"
            }
            Self::LocksOut => {
                "its attribute noDA is clear, so a few power cuts would lock this node out"
            }
        })
    }
}

fn rsa_key(public: &Public) -> Result<(&PublicRsaParameters, &PublicKeyRsa), Weakness> {
    match public {
        Public::Rsa {
            parameters, unique, ..
        } => Ok((parameters, unique)),
        _ => Err(Weakness::NotRsa),
    }
}

/// The RSA parameters and modulus of a key that makes a good AK, or the first thing wrong with it.
fn strong_rsa_key(public: &Public) -> Result<(&PublicRsaParameters, &PublicKeyRsa), Weakness> {
    let (parameters, unique) = rsa_key(public)?;
    if let Some(weakness) = weak_attribute(public.object_attributes()) {
        return Err(weakness);
    }
    // A restricted key never has a null scheme, so "null, and we choose" does not occur.
    if parameters.rsa_scheme() != RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)) {
        return Err(Weakness::Scheme);
    }
    if !matches!(
        parameters.key_bits(),
        RsaKeyBits::Rsa2048 | RsaKeyBits::Rsa3072 | RsaKeyBits::Rsa4096
    ) {
        return Err(Weakness::TooShort);
    }
    Ok((parameters, unique))
}

fn weak_attribute(attributes: ObjectAttributes) -> Option<Weakness> {
    let wanted = [
        (attributes.restricted(), Weakness::NotRestricted),
        (attributes.sign_encrypt(), Weakness::NotSigning),
        (!attributes.decrypt(), Weakness::Decrypting),
        (attributes.fixed_tpm(), Weakness::NotFixedTpm),
        (attributes.fixed_parent(), Weakness::NotFixedParent),
        (attributes.sensitive_data_origin(), Weakness::ImportedSecret),
        (attributes.user_with_auth(), Weakness::PolicyOnly),
        (attributes.no_da(), Weakness::LocksOut),
    ];
    wanted
        .into_iter()
        .find_map(|(holds, weakness)| (!holds).then_some(weakness))
}

/// The setting as a handle under which the owner can keep keys.
fn persistent_handle(ak_handle: u32) -> Result<PersistentTpmHandle, TpmError> {
    let bad = TpmError::BadHandle { handle: ak_handle };
    if !(OWNER_FIRST..=OWNER_LAST).contains(&ak_handle) {
        return Err(bad);
    }
    PersistentTpmHandle::new(ak_handle).map_err(|_| bad)
}

/// Persistent handles that belong to the owner (TPM 2.0 Library Part 2, "TPM_HC Constants"); those above
/// belong to the platform firmware.
const OWNER_FIRST: u32 = 0x8100_0000;
const OWNER_LAST: u32 = 0x817f_ffff;

#[cfg(test)]
mod tests {
    use super::{Weakness, persistent_handle, strong_rsa_key, template, weak_attribute};
    use kbs_protocol::{Blame, Owner};
    use tss_esapi::attributes::ObjectAttributes;
    use tss_esapi::interface_types::algorithm::HashingAlgorithm;
    use tss_esapi::interface_types::key_bits::RsaKeyBits;
    use tss_esapi::structures::{
        HashScheme, Public, PublicRsaParameters, RsaExponent, RsaScheme, SymmetricDefinitionObject,
    };

    fn good_attributes() -> ObjectAttributes {
        let Public::Rsa {
            object_attributes, ..
        } = template().unwrap()
        else {
            panic!("RSA")
        };
        object_attributes
    }

    fn rsa(scheme: RsaScheme, bits: RsaKeyBits) -> Public {
        let Public::Rsa {
            object_attributes,
            name_hashing_algorithm,
            auth_policy,
            unique,
            ..
        } = template().unwrap()
        else {
            panic!("RSA")
        };
        Public::Rsa {
            object_attributes,
            name_hashing_algorithm,
            auth_policy,
            parameters: parameters(scheme, bits),
            unique,
        }
    }

    fn parameters(scheme: RsaScheme, bits: RsaKeyBits) -> PublicRsaParameters {
        let null = SymmetricDefinitionObject::Null;
        PublicRsaParameters::new(null, scheme, bits, RsaExponent::default())
    }

    #[test]
    fn what_we_create_is_what_we_accept() {
        assert!(strong_rsa_key(&template().unwrap()).is_ok());
    }

    /// TPMA_OBJECT, TPM 2.0 Library Part 2 section 8.3: each bit that matters, flipped alone.
    #[test]
    fn each_attribute_counts() {
        let good = u32::from(good_attributes());
        assert_eq!(weak_attribute(ObjectAttributes::from(good)), None);
        for (bit, weakness) in [
            (1, Weakness::NotFixedTpm),
            (4, Weakness::NotFixedParent),
            (5, Weakness::ImportedSecret),
            (6, Weakness::PolicyOnly),
            (10, Weakness::LocksOut),
            (16, Weakness::NotRestricted),
            (17, Weakness::Decrypting),
            (18, Weakness::NotSigning),
        ] {
            let changed = ObjectAttributes::from(good ^ (1 << bit));
            assert_eq!(weak_attribute(changed), Some(weakness), "bit {bit}");
        }
    }

    #[test]
    fn scheme_and_size_count() {
        let ssa = |hash| RsaScheme::RsaSsa(HashScheme::new(hash));
        let pss = RsaScheme::RsaPss(HashScheme::new(HashingAlgorithm::Sha256));
        let sha256 = HashingAlgorithm::Sha256;
        let check = |scheme, bits| strong_rsa_key(&rsa(scheme, bits)).err();
        assert_eq!(check(ssa(sha256), RsaKeyBits::Rsa3072), None);
        assert_eq!(
            check(ssa(sha256), RsaKeyBits::Rsa1024),
            Some(Weakness::TooShort)
        );
        assert_eq!(
            check(ssa(HashingAlgorithm::Sha1), RsaKeyBits::Rsa2048),
            Some(Weakness::Scheme)
        );
        assert_eq!(check(pss, RsaKeyBits::Rsa2048), Some(Weakness::Scheme));
        assert_eq!(
            check(RsaScheme::Null, RsaKeyBits::Rsa2048),
            Some(Weakness::Scheme)
        );
    }

    #[test]
    fn only_the_owners_persistent_handles_will_do() {
        for handle in [0x8100_0000, 0x8101_0002, 0x817f_ffff] {
            assert!(persistent_handle(handle).is_ok(), "{handle:#x}");
        }
        for handle in [0, 0x0100_0000, 0x8000_0000, 0x8180_0000, 0x4000_0001] {
            let error = persistent_handle(handle).unwrap_err();
            assert_eq!(error.owner(), Owner::Configuration, "{handle:#x}");
        }
    }
}
