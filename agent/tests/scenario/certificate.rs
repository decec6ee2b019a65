// SPDX-License-Identifier: Apache-2.0

//! Server certificates, good and bad, each with an authority of its own.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;

pub(crate) struct Certificate {
    /// The authority, as `kbs.ca_pem` wants it.
    pub(crate) ca_pem: String,
    /// The digest of the server's key, as `kbs.spki_sha256` wants it.
    pub(crate) spki: String,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Certificate {
    pub(crate) fn good() -> Self {
        Self::new(&["127.0.0.1", "localhost"], 2000, 2099)
    }

    /// Good, of an authority whose name differs from that of all others here.
    pub(crate) fn of_a_stranger() -> Self {
        Self::with_authority("stranger", &["127.0.0.1"], 2000, 2099)
    }

    pub(crate) fn expired() -> Self {
        Self::new(&["127.0.0.1"], 2000, 2001)
    }

    pub(crate) fn not_yet_valid() -> Self {
        Self::new(&["127.0.0.1"], 2098, 2099)
    }

    pub(crate) fn for_another_name() -> Self {
        Self::new(&["kbs.example"], 2000, 2099)
    }

    fn new(names: &[&str], from: i32, to: i32) -> Self {
        Self::with_authority("authority", names, from, to)
    }

    fn with_authority(authority: &str, names: &[&str], from: i32, to: i32) -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(DnType::CommonName, authority);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);

        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.not_before = date_time_ymd(from, 1, 1);
        leaf.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let spki = Sha256::digest(key.subject_public_key_info()).iter().fold(
            String::new(),
            |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            },
        );
        let chain = vec![leaf.signed_by(&key, &issuer).unwrap().der().clone()];
        Self {
            ca_pem,
            spki,
            chain,
            key,
        }
    }

    pub(crate) fn server_config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap();
        Arc::new(config)
    }

    /// This certificate in the hands of somebody who has another key.
    pub(crate) fn stolen(&self) -> Arc<ServerConfig> {
        #[derive(Debug)]
        struct Thief(Arc<CertifiedKey>);
        impl ResolvesServerCert for Thief {
            fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
                Some(Arc::clone(&self.0))
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap().serialize_der();
        let key = PrivateKeyDer::try_from(key).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let thief = Thief(Arc::new(CertifiedKey::new(self.chain.clone(), key)));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(thief));
        Arc::new(config)
    }
}
