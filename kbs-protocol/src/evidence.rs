// SPDX-License-Identifier: Apache-2.0

//! Evidence as it stands in `primary_evidence`: one struct for each TEE, serialised as the server reads it.
//!
//! Adding a TEE means adding a struct here, a collector in the agent and a verifier in the server; the
//! messages carry evidence as an opaque JSON value and do not change.

mod azure;
mod snp;
mod tdx;

pub use azure::{
    AZ_EVIDENCE_VERSION, AzSnpVtpmEvidence, AzTdxVtpmEvidence, AzTpmQuote, HclKind, HclReport,
    RsaNumbers,
};
pub use snp::{CertTable, SNP_REPORT_SIZE, SnpEvidence, SnpReport};
pub use tdx::{TdQuote, TdxEvidence};

use serde::{Deserialize, Serialize};

/// A TPM 2.0 quote over the PCRs of the SHA-256 bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmEvidence {
    /// The attestation key: base64 (standard, padded) of its DER SubjectPublicKeyInfo.
    pub ak_public: String,
    /// The quote.
    pub tpm_quote: TpmQuote,
}

/// What `TPM2_Quote` returned, and the PCR values it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmQuote {
    /// Base64 of the marshalled TPMS_ATTEST, without a TPM2B length in front.
    pub message: String,
    /// Base64 of the marshalled TPMT_SIGNATURE.
    pub signature: String,
    /// PCR 0 to 23, each 64 hexadecimal digits.
    pub pcrs: Vec<String>,
}

/// No evidence at all, only the right hash: for laboratories. Policies keep it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleEvidence {
    /// A version, `"1"`.
    pub svn: String,
    /// Base64 of the runtime-data digest.
    pub report_data: String,
}
