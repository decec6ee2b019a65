// SPDX-License-Identifier: Apache-2.0

//! Signatures that cosign keeps beside an image: a manifest tagged `sha256-<digest>.sig`, whose layers are payloads in
//! the "simple signing" format with the signature (ECDSA P-256 over SHA-256, ASN.1, base64) in an annotation (cosign,
//! specs/SIGNATURE_SPEC.md). Keys only: certificates and transparency logs are not looked at.

use super::oci::{Descriptor, Manifest, Store, bytes};
use crate::{Error, Given};
use kbs_protocol::encoding::b64;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use serde::Deserialize;

/// Reads a public key, PEM, as `cosign generate-key-pair` writes it.
pub(super) fn key(given: &Given) -> Result<VerifyingKey, Error> {
    let pem = given.read()?;
    VerifyingKey::from_public_key_pem(&String::from_utf8_lossy(&pem)).map_err(|error| {
        Error::document(
            given.to_string(),
            format!("not a public key on P-256: {error}"),
        )
    })
}

/// The tag of the signatures of this digest.
pub(super) fn tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// Whether one of the signatures was made with the key for this digest.
pub(super) fn check(
    store: &dyn Store,
    signatures: &Manifest,
    key: &VerifyingKey,
    digest: &str,
) -> Result<(), Error> {
    for layer in signatures.layers.iter().take(MAX_SIGNATURES) {
        if is_good(store, layer, key, digest)? {
            return Ok(());
        }
    }
    Err(Error::Unsigned {
        digest: digest.to_owned(),
        why: "no signature beside it was made with this key for this digest",
    })
}

fn is_good(
    store: &dyn Store,
    layer: &Descriptor,
    key: &VerifyingKey,
    digest: &str,
) -> Result<bool, Error> {
    let Some(signature) = layer
        .annotations
        .get(SIGNATURE)
        .and_then(|text| b64::decode(text))
    else {
        return Ok(false);
    };
    let Ok(signature) = Signature::from_der(&signature) else {
        return Ok(false);
    };
    let payload = bytes(store, layer, false, MAX_PAYLOAD)?;
    if key.verify(&payload, &signature).is_err() {
        return Ok(false);
    }
    // Signed, but for which image? The signature may have been copied from another one.
    let payload: Payload =
        serde_json::from_slice(&payload).map_err(|error| Error::document(&layer.digest, error))?;
    Ok(payload.critical.kind == TYPE && payload.critical.image.digest == digest)
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const TYPE: &str = "cosign container image signature";
const MAX_PAYLOAD: u64 = 64 * 1024;
const MAX_SIGNATURES: usize = 64;
