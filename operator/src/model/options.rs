// SPDX-License-Identifier: Apache-2.0

//! What a cluster asks of its machines: which evidence, and where a machine's name comes from. Becomes the
//! reference value `sheepfold_options`.

use super::Pcr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;

/// A cluster's demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Kinds of evidence, each sufficient. None means that nothing is ever released.
    pub evidence: BTreeSet<Evidence>,
    /// Where a machine's name comes from.
    pub identity: Identity,
    /// The PCRs that every boot tuple must name. PCR 4 is always among them.
    pub pcrs: BTreeSet<Pcr>,
}

/// A kind of evidence: what a machine presents in one handshake, the primary piece first.
///
/// A processor's report and a TPM's quote that come together are bound to one handshake; nothing proves
/// that they come from one machine, so a software TPM on the host is worth nothing beside a report.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Evidence {
    /// A TPM, or a virtual one.
    #[serde(rename = "tpm")]
    Tpm,
    /// AMD SEV-SNP.
    #[serde(rename = "snp")]
    Snp,
    /// Intel TDX.
    #[serde(rename = "tdx")]
    Tdx,
    /// Azure's SEV-SNP with a TPM that the report vouches for.
    #[serde(rename = "az-snp-vtpm")]
    AzSnpVtpm,
    /// Azure's TDX with a TPM that the quote vouches for.
    #[serde(rename = "az-tdx-vtpm")]
    AzTdxVtpm,
    /// SEV-SNP, and a TPM that names the machine.
    #[serde(rename = "snp+tpm")]
    SnpTpm,
    /// TDX, and a TPM that names the machine.
    #[serde(rename = "tdx+tpm")]
    TdxTpm,
    /// Azure's SEV-SNP, and our own key in its TPM.
    #[serde(rename = "az-snp-vtpm+tpm")]
    AzSnpVtpmTpm,
    /// Azure's TDX, and our own key in its TPM.
    #[serde(rename = "az-tdx-vtpm+tpm")]
    AzTdxVtpmTpm,
}

/// Where a machine's name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Identity {
    /// From the attestation key of its TPM.
    #[serde(rename = "ak")]
    Ak,
    /// From the `uuid` in the init-data that it was started with.
    #[serde(rename = "init-data")]
    InitData,
}

impl Evidence {
    /// As policies spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::AzSnpVtpm => "az-snp-vtpm",
            Self::AzTdxVtpm => "az-tdx-vtpm",
            Self::SnpTpm => "snp+tpm",
            Self::TdxTpm => "tdx+tpm",
            Self::AzSnpVtpmTpm => "az-snp-vtpm+tpm",
            Self::AzTdxVtpmTpm => "az-tdx-vtpm+tpm",
        }
    }

    /// Whether a processor keeps the machine's memory from whoever runs the host.
    pub fn is_confidential(self) -> bool {
        self != Self::Tpm
    }

    /// Whether it contains a quote by an attestation key of ours.
    pub fn has_ak(self) -> bool {
        self.as_str().split('+').any(|piece| piece == "tpm")
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Identity {
    /// As policies spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ak => "ak",
            Self::InitData => "init-data",
        }
    }
}

impl Options {
    /// The reference value. Members at their default are left out, so that it stays readable.
    pub(crate) fn to_value(&self) -> Value {
        let evidence: Vec<_> = self.evidence.iter().map(|kind| kind.as_str()).collect();
        let mut value = json!({"evidence": evidence, "identity": self.identity.as_str()});
        if self.pcrs != Pcr::usual()
            && let Some(members) = value.as_object_mut()
        {
            let names: Vec<_> = self.pcrs.iter().map(ToString::to_string).collect();
            members.insert("pcrs".to_owned(), json!(names));
        }
        value
    }
}

impl Default for Options {
    /// A TPM that names the machine; tuples of PCR 4, 7 and 14.
    fn default() -> Self {
        Self {
            evidence: BTreeSet::from([Evidence::Tpm]),
            identity: Identity::Ak,
            pcrs: Pcr::usual(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Evidence, Identity, Options};
    use serde_json::json;

    #[test]
    fn words_are_the_same_everywhere() {
        use Evidence as E;
        for kind in [
            E::Tpm,
            E::Snp,
            E::Tdx,
            E::AzSnpVtpm,
            E::AzTdxVtpm,
            E::SnpTpm,
            E::TdxTpm,
            E::AzSnpVtpmTpm,
            E::AzTdxVtpmTpm,
        ] {
            assert_eq!(json!(kind), kind.as_str());
            assert_eq!(
                kind.has_ak(),
                kind == E::Tpm || kind.as_str().ends_with("+tpm")
            );
        }
        for identity in [Identity::Ak, Identity::InitData] {
            assert_eq!(json!(identity), identity.as_str());
        }
    }

    #[test]
    fn the_reference_value_is_what_the_policy_reads() {
        let mut options = Options::default();
        assert_eq!(
            options.to_value(),
            json!({"evidence": ["tpm"], "identity": "ak"})
        );
        options.pcrs = [4, 14].into_iter().filter_map(super::Pcr::new).collect();
        let expected = json!({"evidence": ["tpm"], "identity": "ak", "pcrs": ["pcr04", "pcr14"]});
        assert_eq!(options.to_value(), expected);
    }
}
