// SPDX-License-Identifier: Apache-2.0

//! The hash that ties nonce, key and additional evidence to a quote or report.
//!
//! Two objects are hashed, both in the canonical form of RFC 8785: the *primary* one with
//! `additional-evidence`, for the evidence of the TEE named in the request, and the *device* one without
//! it, for each piece of additional evidence. The digest is SHA-384.

use crate::encoding::b64;
use crate::error::Error;
use crate::message::RuntimeData;
use crate::tee::Tee;
use serde_json::json;
use sha2::{Digest as _, Sha384};

/// A SHA-384 digest over canonical runtime data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeDigest([u8; 48]);

impl RuntimeDigest {
    /// The digest for the primary evidence, over nonce, key and the additional evidence as sent.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the data has no canonical form.
    pub fn primary(data: &RuntimeData, additional_evidence: &str) -> Result<Self, Error> {
        let mut object = json!(data);
        if let Some(members) = object.as_object_mut() {
            members.insert("additional-evidence".to_owned(), json!(additional_evidence));
        }
        Self::of(&object)
    }

    /// The digest for a piece of additional evidence, over nonce and key.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the data has no canonical form.
    pub fn device(data: &RuntimeData) -> Result<Self, Error> {
        Self::of(&json!(data))
    }

    /// All 48 bytes.
    pub fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }

    /// What goes into the signed structure of this TEE, cut or padded with zeros as the server does it:
    /// 32 bytes for a TPM quote, 64 for an SNP or TDX report, 48 elsewhere.
    pub fn report_data(&self, tee: Tee) -> Vec<u8> {
        let length = match tee {
            Tee::Tpm => 32,
            Tee::Snp | Tee::Tdx => 64,
            Tee::AzSnpVtpm | Tee::AzTdxVtpm | Tee::Sample => 48,
        };
        let mut bytes = self.0.to_vec();
        bytes.resize(length, 0);
        bytes
    }

    /// The digest as the `sample` evidence carries it.
    pub fn to_base64(&self) -> String {
        b64::encode(self.0)
    }

    fn of(object: &serde_json::Value) -> Result<Self, Error> {
        let canonical = serde_json_canonicalizer::to_vec(object)
            .map_err(|_| Error::malformed("the runtime data", "it has no canonical form"))?;
        Ok(Self(Sha384::digest(canonical).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::RuntimeDigest;
    use crate::encoding::{b64u, hex};
    use crate::message::RuntimeData;
    use crate::tee::Tee;
    use crate::tee_key::TeeKey;

    /// The recipient key and nonce of the published vector.
    fn vector() -> RuntimeData {
        let scalar = b64u::decode_array("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X5fCE9-E9LI").unwrap();
        RuntimeData {
            nonce: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned(),
            tee_pubkey: TeeKey::from_scalar(&scalar).unwrap().public(),
        }
    }

    #[test]
    fn primary_and_device_vectors() {
        let primary = RuntimeDigest::primary(&vector(), "").unwrap();
        assert_eq!(
            hex::encode(primary.as_bytes()),
            "c37657608a2566b605ca459975848bb9507bb4927646da14184e2508fc4c1f2b4b24b818b14a924d1629e5521a38d610"
        );
        let device = RuntimeDigest::device(&vector()).unwrap();
        assert_eq!(
            hex::encode(device.as_bytes()),
            "3fb2c55099c12b3a32f0aa4140a40541ab022f98556c7b4477f596c0730afb2ce603d58140efc061dcebf7fe44dacd73"
        );
    }

    #[test]
    fn report_data_per_tee() {
        let digest = RuntimeDigest::primary(&vector(), "").unwrap();
        assert_eq!(
            hex::encode(digest.report_data(Tee::Tpm)),
            "c37657608a2566b605ca459975848bb9507bb4927646da14184e2508fc4c1f2b"
        );
        let snp = digest.report_data(Tee::Snp);
        assert_eq!(snp, digest.report_data(Tee::Tdx));
        assert_eq!(
            (&snp[..48], &snp[48..]),
            (&digest.as_bytes()[..], &[0; 16][..])
        );
        assert_eq!(digest.report_data(Tee::AzSnpVtpm), digest.as_bytes());
        assert_eq!(
            digest.to_base64(),
            "w3ZXYIolZrYFykWZdYSLuVB7tJJ2RtoUGE4lCPxMHytLJLgYsUqSTRYp5VIaONYQ"
        );
    }

    #[test]
    fn additional_evidence_changes_only_the_primary_digest() {
        let data = vector();
        assert_ne!(
            RuntimeDigest::primary(&data, r#"{"tpm":{}}"#).unwrap(),
            RuntimeDigest::primary(&data, "").unwrap()
        );
    }
}
