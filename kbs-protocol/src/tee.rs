// SPDX-License-Identifier: Apache-2.0

//! The kinds of attester a KBS knows, by their wire names.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A TEE or TPM, as named in the `tee` member of a request and in the claims of a token.
///
/// Only kinds with evidence that this project can collect or verify are listed; a server that meets
/// another name refuses the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tee {
    /// AMD SEV-SNP with the attestation report.
    Snp,
    /// Intel TDX with a DCAP quote.
    Tdx,
    /// SEV-SNP behind the vTPM of an Azure confidential machine.
    AzSnpVtpm,
    /// TDX behind the vTPM of an Azure confidential machine.
    AzTdxVtpm,
    /// A TPM 2.0 or vTPM alone.
    Tpm,
    /// No protection whatsoever; laboratories only. The agent never falls back to it.
    Sample,
}

impl Tee {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::AzSnpVtpm => "az-snp-vtpm",
            Self::AzTdxVtpm => "az-tdx-vtpm",
            Self::Tpm => "tpm",
            Self::Sample => "sample",
        }
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Tee;

    #[test]
    fn serde_and_as_str_agree() {
        for tee in [
            Tee::Snp,
            Tee::Tdx,
            Tee::AzSnpVtpm,
            Tee::AzTdxVtpm,
            Tee::Tpm,
            Tee::Sample,
        ] {
            assert_eq!(serde_json::to_value(tee).unwrap(), tee.as_str());
        }
    }
}
