// SPDX-License-Identifier: Apache-2.0

//! What only the operator can make for a Trustee: its own key as an administrator, the token signer's, and a
//! certificate authority with a server certificate where nobody gave one.

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, KeypairBytes,
};
use kbs_protocol::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use std::time::{Duration, SystemTime};

/// A private key and the certificate that goes with it, both PEM.
pub struct Pair {
    /// PKCS #8.
    pub key: Secret,
    /// X.509.
    pub certificate: String,
}

/// A new administrator's key: Ed25519, PKCS #8 PEM.
///
/// # Errors
/// A sentence, when this system has no random numbers.
pub fn admin() -> Result<Secret, String> {
    let key = SigningKey::generate(&mut rand_core::OsRng);
    // Without the public half: the first version of PKCS #8, which every tool reads.
    let bytes = KeypairBytes {
        secret_key: key.to_bytes(),
        public_key: None,
    };
    let pem = bytes.to_pkcs8_pem(LineEnding::LF).map_err(unmade)?;
    Ok(Secret::new(pem.as_bytes().to_vec()))
}

/// The public half of an administrator's key, PEM: all that a KBS needs.
///
/// # Errors
/// A sentence, when it is no such key. Nothing of it is quoted.
pub fn public(admin: &Secret) -> Result<String, String> {
    let key = std::str::from_utf8(admin.expose())
        .ok()
        .and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok())
        .ok_or("it is no Ed25519 key in PKCS #8 PEM (BEGIN PRIVATE KEY)")?;
    key.verifying_key()
        .to_public_key_pem(LineEnding::LF)
        .map_err(unmade)
}

/// A new token signer: EC P-256 and a certificate that vouches for itself (KBS protocol, EAR token). It does not
/// end: an ended one fails every request of every node, and whoever has the key has it for as long as it lies there.
///
/// # Errors
/// A sentence, when this system makes no keys.
pub fn token_signer() -> Result<Pair, String> {
    let key = generate()?;
    let mut params = named("Trustee token signer", Vec::new())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(unmade)?;
    Ok(pair(&key, certificate.pem()))
}

/// A new certificate authority. Nodes are told its certificate once, so it does not end.
///
/// # Errors
/// As [`token_signer`].
pub fn authority() -> Result<Pair, String> {
    let key = generate()?;
    let certificate = authority_params()?.self_signed(&key).map_err(unmade)?;
    Ok(pair(&key, certificate.pem()))
}

/// A server certificate for these names and addresses, signed by that authority, good for [`LIFE`].
///
/// # Errors
/// A sentence, when the authority's key is none of ours, or a host is neither a name nor an address.
pub fn server(authority: &Secret, hosts: &[String], now: SystemTime) -> Result<Pair, String> {
    let authority = std::str::from_utf8(authority.expose())
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .ok_or("the authority's key is no EC P-256 key in PKCS #8 PEM")?;
    let key = generate()?;
    let mut params = named("Trustee", hosts.to_vec())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let end = now.checked_add(LIFE).ok_or("the clock is out of range")?;
    params.not_after = end.into();
    let issuer = authority_params()?;
    let certificate = params
        .signed_by(&key, &Issuer::from_params(&issuer, &authority))
        .map_err(unmade)?;
    Ok(pair(&key, certificate.pem()))
}

/// The same each time: a certificate names its issuer by this subject.
fn authority_params() -> Result<CertificateParams, String> {
    let mut params = named("Trustee CA of sheepfold-operator", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn named(name: &str, hosts: Vec<String>) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(hosts)
        .map_err(|error| format!("a host is neither a name nor an address: {error}"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn generate() -> Result<KeyPair, String> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(unmade)
}

fn pair(key: &KeyPair, certificate: String) -> Pair {
    Pair {
        key: Secret::new(key.serialize_pem().into_bytes()),
        certificate,
    }
}

fn unmade(error: impl std::fmt::Display) -> String {
    format!("this system makes no keys: {error}")
}

/// Of a server certificate.
pub const LIFE: Duration = Duration::from_secs(397 * 86_400);
/// So long before its end another one takes its place.
pub const RENEWED_BEFORE: Duration = Duration::from_secs(60 * 86_400);
