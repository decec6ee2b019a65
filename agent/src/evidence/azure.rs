// SPDX-License-Identifier: Apache-2.0

//! Evidence of Azure's confidential machines. The guest runs above a paravisor that keeps the processor to itself and
//! offers a vTPM instead. What the processor says about the paravisor lies in an NV index of that vTPM: a report over
//! a JSON text that holds the vTPM's attestation key, and what the guest wrote into another index.
//!
//! So one handshake is: write the digest, wait until the paravisor has a report with it, read that, quote the PCRs
//! over the same digest, and fetch what makes the report worth something from Azure's metadata service: the
//! certificate of the processor's key (SNP), or a quote in place of the report (TDX).

use super::azure_metadata::Metadata;
use super::tee_error::TeeError;
use super::tpm::TpmAttester;
use super::tpm_error::TpmError;
use super::{Attester, EvidenceError, tpm_nv};
use crate::config::Sources;
use kbs_protocol::Tee;
use kbs_protocol::encoding::{b64u_padded, hex};
use kbs_protocol::evidence::{
    AZ_EVIDENCE_VERSION, AzSnpVtpmEvidence, AzTdxVtpmEvidence, AzTpmQuote, HclKind, HclReport,
    SnpReport, TdQuote,
};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tpm::public::rsa_spki_der;
use kbs_protocol::tpm::rsassa_sha256_signature;
use serde_json::{Value, json};
use std::time::Duration;

/// A guest above a paravisor, with its vTPM open.
pub struct AzureAttester {
    tpm: TpmAttester,
    kind: Kind,
    metadata: Metadata,
    /// The certificate does not change while the machine runs.
    vcek: Option<Vec<u8>>,
}

/// The processor below the paravisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl AzureAttester {
    /// Opens the vTPM and looks at the report that lies there.
    ///
    /// # Errors
    /// [`TeeError::Missing`] without a paravisor's key or report, [`TeeError::Provider`] with a report of another
    /// processor; whatever keeps init-data out of PCR 8.
    pub fn open(
        kind: Kind,
        sources: &Sources,
        tcti: &str,
        init_data: Option<&InitDataToml>,
    ) -> Result<Self, EvidenceError> {
        let tee = kind.tee();
        let missing = |why: String| TeeError::Missing {
            tee,
            why,
            cure: CURE,
        };
        let mut tpm = TpmAttester::open_existing(tcti, AK_HANDLE)?.ok_or_else(|| {
            missing(format!(
                "the TPM has no key at {AK_HANDLE:#010x}, where a paravisor keeps one"
            ))
        })?;
        if !tpm_nv::is_defined(tpm.context(), REPORT)? {
            return Err(
                missing(format!("the TPM has no report in NV index {REPORT:#010x}")).into(),
            );
        }
        let report = HclReport::parse(&tpm_nv::read_as_owner(tpm.context(), REPORT)?)?;
        if report.kind != kind.report() {
            return Err(TeeError::Provider {
                tee,
                found: name(report.kind).to_owned(),
                expected: name(kind.report()),
            }
            .into());
        }
        if let Some(init_data) = init_data {
            tpm.bind_init_data(init_data)?;
        }
        Ok(Self {
            tpm,
            kind,
            metadata: Metadata::new(tee, &sources.metadata)?,
            vcek: None,
        })
    }

    /// The paravisor's report over this digest, byte for byte and read.
    fn report(&mut self, digest: &[u8]) -> Result<(Vec<u8>, HclReport), EvidenceError> {
        let mut user_data = digest.to_vec();
        user_data.resize(USER_DATA_SIZE, 0);
        tpm_nv::write_as_owner(self.tpm.context(), USER_DATA, &user_data)?;
        for _ in 0..READS {
            std::thread::sleep(REFRESH);
            let bytes = tpm_nv::read_as_owner(self.tpm.context(), REPORT)?;
            let report = HclReport::parse(&bytes)?;
            let fresh = report.user_data.as_ref();
            if fresh.is_some_and(|data| data.starts_with(digest)) {
                self.check(&report)?;
                return Ok((bytes, report));
            }
            log::info!("the paravisor's report is not about this handshake yet");
        }
        Err(TeeError::Stale {
            tee: self.kind.tee(),
        }
        .into())
    }

    /// Looks at a report as a verifier will, where the reason can be told better here.
    fn check(&self, report: &HclReport) -> Result<(), EvidenceError> {
        let named = rsa_spki_der(exponent(&report.ak.e), &report.ak.n)?;
        if named != self.tpm.ak_spki_der() {
            return Err(TpmError::KeyReplaced { handle: AK_HANDLE }.into());
        }
        Ok(())
    }

    fn quote(&mut self, digest: &[u8]) -> Result<AzTpmQuote, EvidenceError> {
        let quote = self.tpm.quote(digest)?;
        Ok(AzTpmQuote {
            signature: hex::encode(rsassa_sha256_signature(&quote.signature)?),
            message: hex::encode(&quote.message),
            pcrs: quote.pcrs.iter().map(hex::encode).collect(),
        })
    }

    fn snp(&mut self, digest: &[u8]) -> Result<AzSnpVtpmEvidence, EvidenceError> {
        let (bytes, report) = self.report(digest)?;
        let hardware = SnpReport::parse(&report.hardware_report)?;
        let signed = &hardware.fields().report_data;
        require_covered(Tee::AzSnpVtpm, signed, &report)?;
        let vcek = match &self.vcek {
            Some(vcek) => vcek.clone(),
            None => self.vcek.insert(self.metadata.vcek()?).clone(),
        };
        Ok(AzSnpVtpmEvidence {
            version: AZ_EVIDENCE_VERSION,
            tpm_quote: self.quote(digest)?,
            hcl_report: b64u_padded::encode(bytes),
            vcek: b64u_padded::encode(vcek),
        })
    }

    fn tdx(&mut self, digest: &[u8]) -> Result<AzTdxVtpmEvidence, EvidenceError> {
        let (bytes, report) = self.report(digest)?;
        let td_report = report.hardware_report.get(..TD_REPORT_SIZE);
        let quote = self.metadata.td_quote(td_report.unwrap_or_default())?;
        require_covered(
            Tee::AzTdxVtpm,
            &TdQuote::parse(&quote)?.report_data,
            &report,
        )?;
        Ok(AzTdxVtpmEvidence {
            version: AZ_EVIDENCE_VERSION,
            tpm_quote: self.quote(digest)?,
            hcl_report: b64u_padded::encode(bytes),
            td_quote: b64u_padded::encode(quote),
        })
    }
}

impl Attester for AzureAttester {
    fn tee(&self) -> Tee {
        self.kind.tee()
    }

    fn detect(&mut self) -> Result<String, EvidenceError> {
        let processor = name(self.kind.report());
        Ok(format!(
            "{processor} below a paravisor, whose vTPM has a key and a report"
        ))
    }

    /// The policies of a KBS do not see the paravisor's key: init-data or a TPM beside it names the node.
    fn node_key(&self) -> Option<&[u8]> {
        None
    }

    fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError> {
        let digest = digest.as_bytes();
        Ok(match self.kind {
            Kind::Snp => json!(self.snp(digest)?),
            Kind::Tdx => json!(self.tdx(digest)?),
        })
    }
}

impl Kind {
    fn tee(self) -> Tee {
        match self {
            Self::Snp => Tee::AzSnpVtpm,
            Self::Tdx => Tee::AzTdxVtpm,
        }
    }

    fn report(self) -> HclKind {
        match self {
            Self::Snp => HclKind::Snp,
            Self::Tdx => HclKind::Tdx,
        }
    }
}

/// The processor signs over the JSON, so what it signed is about this JSON or worth nothing.
fn require_covered(tee: Tee, signed: &[u8], report: &HclReport) -> Result<(), TeeError> {
    match signed.starts_with(&report.variable_data_sha256()) {
        true => Ok(()),
        false => Err(TeeError::Stale { tee }),
    }
}

fn name(kind: HclKind) -> &'static str {
    match kind {
        HclKind::Snp => "SEV-SNP",
        HclKind::Tdx => "TDX",
    }
}

/// A big-endian number of up to four bytes; others are no exponent, and match no key of a TPM.
fn exponent(bytes: &[u8]) -> u32 {
    let number = bytes.iter().skip_while(|byte| **byte == 0);
    number.fold(0, |value, byte| value.wrapping_shl(8) | u32::from(*byte))
}

/// Where the paravisor keeps its key and its report, and where it looks for what the guest wants in that.
const AK_HANDLE: u32 = 0x8100_0003;
const REPORT: u32 = 0x0140_0001;
const USER_DATA: u32 = 0x0140_0002;
/// What the paravisor puts into its JSON, whatever is written of it.
const USER_DATA_SIZE: usize = 64;
/// The time that the paravisor takes to have a new report, and how often to look.
const REFRESH: Duration = Duration::from_secs(3);
const READS: usize = 3;
/// TDREPORT_STRUCT (Intel TDX Module ABI); the area is as long as an SNP report.
const TD_REPORT_SIZE: usize = 1024;
const CURE: &str = "start the machine as a confidential VM of Azure; or set evidence.primary in agent.toml to what this \
     machine is";

#[cfg(test)]
mod tests {
    use super::exponent;

    #[test]
    fn exponents_are_big_endian() {
        assert_eq!(exponent(&[1, 0, 1]), 65537);
        assert_eq!(exponent(&[0, 0, 0, 1, 0, 1]), 65537);
        assert_eq!((exponent(&[3]), exponent(&[])), (3, 0));
    }
}
