// SPDX-License-Identifier: Apache-2.0

//! A Secret with TLS as cert-manager makes it: `tls.crt`, `tls.key`, `ca.crt`.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// What such a Secret says, but for the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate authorities that nodes and the operator pin, PEM.
    pub ca: String,
    /// The certificate chain, PEM.
    pub chain: String,
    /// Names and addresses in the certificate.
    hosts: Vec<String>,
    ends: SystemTime,
}

impl Tls {
    /// Reads the entries of a Secret.
    ///
    /// # Errors
    /// A sentence: which entry is missing or is not what its name says.
    pub fn read(entries: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let entry = |name: &str| {
            let bytes = entries.get(name).filter(|bytes| !bytes.is_empty());
            bytes.ok_or_else(|| match name {
                CA => format!(
                    "it has no {CA}: nothing else says which KBS is the right one, so the issuer must be one \
                     that names its authority"
                ),
                name => format!("it has no {name}"),
            })
        };
        let text = |name: &str| {
            String::from_utf8(entry(name)?.clone()).map_err(|_| format!("its {name} is no PEM"))
        };
        entry(KEY)?;
        let (chain, ca) = (text(CERTIFICATE)?, text(CA)?);
        let first = |name: &str, text: &str| {
            CertificateDer::from_pem_slice(text.as_bytes())
                .map_err(|_| format!("its {name} has no certificate in PEM"))
        };
        first(CA, &ca)?;
        let der = first(CERTIFICATE, &chain)?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|_| format!("its {CERTIFICATE} is no X.509 certificate"))?;
        let ends = certificate.validity().not_after.timestamp();
        let ends = Duration::from_secs(u64::try_from(ends).unwrap_or_default());
        Ok(Self {
            hosts: hosts(&certificate),
            ends: UNIX_EPOCH.checked_add(ends).unwrap_or(UNIX_EPOCH),
            ca,
            chain,
        })
    }

    /// Whether the certificate is good for this name.
    pub fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| {
            let wild = own.strip_prefix('*').is_some_and(|rest| {
                host.split_once('.')
                    .is_some_and(|(_, parent)| rest.strip_prefix('.') == Some(parent))
            });
            wild || own.eq_ignore_ascii_case(host)
        })
    }

    /// Whether the certificate has ended by then.
    pub fn has_ended(&self, by: SystemTime) -> bool {
        self.ends <= by
    }
}

fn hosts(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice());
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    names.unwrap_or_default().iter().filter_map(host).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok()
}

/// The certificate chain, the server's own first.
pub const CERTIFICATE: &str = "tls.crt";
/// Its private key.
pub const KEY: &str = "tls.key";
/// Who vouches for it.
pub const CA: &str = "ca.crt";
