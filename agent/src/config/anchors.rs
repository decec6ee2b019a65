// SPDX-License-Identifier: Apache-2.0

//! Trust anchors: the certificates and public keys by which a KBS is recognised.

use super::{ConfigError, Problem};
use kbs_protocol::encoding::{b64, hex};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// The names of the keys that give anchors, for messages about them.
pub(super) struct Keys {
    pub(super) ca_file: &'static str,
    pub(super) ca_pem: &'static str,
    pub(super) spki_sha256: &'static str,
}

/// Those of the KBS.
pub(super) const KBS: Keys = Keys {
    ca_file: "kbs.ca_file",
    ca_pem: "kbs.ca_pem",
    spki_sha256: "kbs.spki_sha256",
};

/// Those of the registrar.
pub(super) const ENROLL: Keys = Keys {
    ca_file: "enroll.ca_file",
    ca_pem: "enroll.ca_pem",
    spki_sha256: "enroll.spki_sha256",
};

/// What a server's certificate must satisfy; every kind that is present must be.
///
/// * `ca`: it chains to one of these certificates, is valid now and bears the server's name.
/// * `spki`: its public key has one of these digests (SHA-256 over the DER SubjectPublicKeyInfo, as in
///   RFC 7469 section 2.4). Validity dates are then not looked at, because the clock of a guest belongs to
///   its host; without `ca`, names and issuers are not looked at either: the key is the identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchors {
    ca: Vec<CertificateDer<'static>>,
    spki: Vec<[u8; 32]>,
}

impl Anchors {
    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.ca.is_empty() && self.spki.is_empty()
    }

    /// The certificates.
    pub fn ca(&self) -> &[CertificateDer<'static>] {
        &self.ca
    }

    /// The digests of public keys.
    pub fn spki(&self) -> &[[u8; 32]] {
        &self.spki
    }

    /// SHA-256 of each certificate's DER form, in sorted lower-case hexadecimal.
    pub(crate) fn ca_digests(&self) -> Vec<String> {
        let mut digests: Vec<String> = self.ca.iter().map(|ca| sha256_hex(ca)).collect();
        digests.sort_unstable();
        digests
    }

    /// The key digests, likewise.
    pub(crate) fn spki_digests(&self) -> Vec<String> {
        let mut digests: Vec<String> = self.spki.iter().map(hex::encode).collect();
        digests.sort_unstable();
        digests
    }

    /// Certificates only.
    pub(crate) fn from_certificates(ca: Vec<CertificateDer<'static>>) -> Self {
        Self {
            ca,
            spki: Vec::new(),
        }
    }

    pub(super) fn parse(
        keys: &Keys,
        ca_pem: Option<&str>,
        spki: &[String],
    ) -> Result<Self, ConfigError> {
        let mut anchors = Self::default();
        if let Some(pem) = ca_pem {
            anchors.add_pem(keys.ca_pem, pem, pem)?;
        }
        for text in spki {
            let digest = digest(text).ok_or_else(|| {
                let what = "expected a SHA-256 digest in hexadecimal or base64";
                let cure = "openssl x509 -in server.pem -noout -pubkey | openssl pkey -pubin -outform der \
                            | sha256sum";
                ConfigError::value(keys.spki_sha256, text, Problem::new(what, cure))
            })?;
            anchors.spki.push(digest);
        }
        Ok(anchors)
    }

    pub(super) fn add_pem(
        &mut self,
        key: &'static str,
        value: &str,
        pem: &str,
    ) -> Result<(), ConfigError> {
        self.ca
            .extend(certificates(pem).map_err(|problem| ConfigError::value(key, value, problem))?);
        Ok(())
    }
}

/// The certificates in a PEM text: at least one, each usable as a root.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let cure = "give one or more \"-----BEGIN CERTIFICATE-----\" blocks, of the authority that signed the \
                server's certificate";
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::new(format!("not PEM: {error}"), cure))?;
    if found.is_empty() {
        return Err(Problem::new("no certificate inside", cure));
    }
    for certificate in &found {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| Problem::new(format!("a certificate is unusable: {error}"), cure))?;
    }
    Ok(found)
}

/// Lower-case hexadecimal of SHA-256.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn digest(text: &str) -> Option<[u8; 32]> {
    hex::decode(text)
        .or_else(|| b64::decode(text))?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn digests_in_both_spellings() {
        let hex = "00010203".repeat(8);
        let base64 = "AAECAwABAgMAAQIDAAECAwABAgMAAQIDAAECAwABAgM=";
        assert_eq!(digest(&hex), digest(base64));
        assert_eq!(digest(&hex).unwrap()[..4], [0, 1, 2, 3]);
        for bad in [
            "",
            "00",
            &hex[1..],
            &hex.replace('0', "g"),
            &hex.replace("00", "+0"),
            "AAEC",
            &base64[1..],
        ] {
            assert!(digest(bad).is_none(), "{bad}");
        }
    }
}
