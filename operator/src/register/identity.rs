// SPDX-License-Identifier: Apache-2.0

//! Which TPMs are let in: those whose maker vouches for them, those on a list, or whoever comes first.

use super::certificate::{self, Roots};
use super::keys::EkDigest;
use kbs_protocol::encoding::hex;
use kbs_protocol::enroll::{Begin, Refusal, RefusalKind};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// The rule, one of three. The word in the configuration is [`Identity::as_str`].
#[derive(Debug)]
pub enum Identity {
    /// The EK has a certificate that chains to one of these roots. It proves a genuine TPM, not *our*
    /// TPM: whoever owns one of the same make passes too, unless the list narrows it.
    EkCertificate {
        /// Certificates of TPM makers.
        roots: Roots,
        /// If not empty: the EK must be listed as well.
        also_listed: BTreeSet<EkDigest>,
    },
    /// The EK's digest is on this list.
    EkAllowList(BTreeSet<EkDigest>),
    /// Any EK. Proves only that all later visits are by the same TPM; a software TPM is as good as any.
    TrustOnFirstUse,
}

impl Identity {
    /// The word in the configuration and on the audit log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::EkCertificate { .. } => "ek-certificate",
            Self::EkAllowList(_) => "ek-allow-list",
            Self::TrustOnFirstUse => "trust-on-first-use",
        }
    }

    /// Requires that this rule knows the endorsement key.
    ///
    /// # Errors
    /// [`RefusalKind::EkNotTrusted`], or what is wrong with the certificate.
    pub fn require(&self, begin: &Begin, ek: &EkDigest, now: SystemTime) -> Result<(), Refusal> {
        match self {
            Self::EkCertificate { roots, also_listed } => {
                let Some(certificate) = &begin.ek_certificate else {
                    let detail = "identity is \"ek-certificate\" and none was sent";
                    return Err(Refusal::new(RefusalKind::EkCertificateMissing, detail));
                };
                certificate::require(
                    certificate,
                    &begin.ek_chain,
                    roots,
                    &begin.ek_public.key,
                    now,
                )?;
                match also_listed.is_empty() {
                    true => Ok(()),
                    false => require_listed(also_listed, ek),
                }
            }
            Self::EkAllowList(list) => require_listed(list, ek),
            Self::TrustOnFirstUse => Ok(()),
        }
    }
}

fn require_listed(list: &BTreeSet<EkDigest>, ek: &EkDigest) -> Result<(), Refusal> {
    if list.contains(ek) {
        return Ok(());
    }
    let detail = format!("the EK with SHA-256 {} is not on the list", hex::encode(ek));
    Err(Refusal::new(RefusalKind::EkNotTrusted, detail))
}
