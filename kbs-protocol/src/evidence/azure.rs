// SPDX-License-Identifier: Apache-2.0

//! Evidence of Azure's confidential machines: a quote by the vTPM, and the report of the paravisor (the host
//! compatibility layer, HCL) that ties the vTPM's key to the processor.
//!
//! The processor signs over a SHA-256 of the paravisor's JSON; the JSON holds the vTPM's attestation key and
//! what the guest wrote into an NV index. So the key is as genuine as the processor.

use crate::encoding::b64u;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The evidence of `az-snp-vtpm`, version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzSnpVtpmEvidence {
    /// 2: the paravisor's report carries the runtime-data digest too.
    pub version: u32,
    /// The vTPM's quote over the same digest.
    pub tpm_quote: AzTpmQuote,
    /// The paravisor's report, base64url with padding.
    pub hcl_report: String,
    /// DER of the VCEK, base64url with padding.
    pub vcek: String,
}

/// The evidence of `az-tdx-vtpm`, version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzTdxVtpmEvidence {
    /// 2: the paravisor's report carries the runtime-data digest too.
    pub version: u32,
    /// The vTPM's quote over the same digest.
    pub tpm_quote: AzTpmQuote,
    /// The paravisor's report, base64url with padding.
    pub hcl_report: String,
    /// The DCAP quote over the TD report inside `hcl_report`, base64url with padding.
    pub td_quote: String,
}

/// A quote in the spelling of the Azure evidence: hexadecimal throughout, the signature without a TPM structure
/// around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzTpmQuote {
    /// RSASSA-PKCS1-v1_5 with SHA-256, as long as the key.
    pub signature: String,
    /// TPMS_ATTEST.
    pub message: String,
    /// PCR 0 to 23 of the SHA-256 bank.
    pub pcrs: Vec<String>,
}

/// The only version of the evidence that binds the paravisor's report to the session.
pub const AZ_EVIDENCE_VERSION: u32 = 2;

/// A report of the paravisor, read and not verified. Integers are little endian: 32 bytes of header, 1184
/// bytes for the processor's report, five numbers, then the JSON that the processor's report covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HclReport {
    /// The processor's report: 1184 bytes, of which a TD report fills the first 1024.
    pub hardware_report: Vec<u8>,
    /// Which processor.
    pub kind: HclKind,
    /// The JSON, byte for byte.
    pub variable_data: Vec<u8>,
    /// Modulus and exponent (big endian) of the vTPM's attestation key, from the JSON.
    pub ak: RsaNumbers,
    /// What the guest asked to have included, from the JSON.
    pub user_data: Option<Vec<u8>>,
}

/// Which processor made the report inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HclKind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

/// An RSA public key in big-endian numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaNumbers {
    /// The modulus.
    pub n: Vec<u8>,
    /// The exponent.
    pub e: Vec<u8>,
}

impl HclReport {
    /// Reads a report as it lies in the NV index; padding after the JSON is ignored.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`], or [`Error::Algorithm`] when the JSON is not covered by
    /// SHA-256.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Error::check_size(HCL, bytes, LIMIT)?;
        let number = |offset: usize| -> Result<u32, Error> {
            let bytes = bytes.get(offset..).and_then(<[u8]>::first_chunk);
            bytes
                .map(|bytes| u32::from_le_bytes(*bytes))
                .ok_or_else(|| Error::malformed(HCL, "it ends early"))
        };
        let kind = match number(REPORT_TYPE)? {
            2 => HclKind::Snp,
            4 => HclKind::Tdx,
            other => {
                return Err(Error::malformed(
                    HCL,
                    format!("it holds a report of type {other}, expected 2 (SNP) or 4 (TDX)"),
                ));
            }
        };
        let hash = number(HASH_TYPE)?;
        if hash != HASH_SHA256 {
            return Err(Error::Algorithm {
                what: HCL,
                name: format!("hash type {hash}"),
                allowed: "SHA-256 (hash type 1)",
            });
        }
        let length = usize::try_from(number(VARIABLE_SIZE)?).unwrap_or(usize::MAX);
        let part = |from: usize, length: usize| {
            bytes
                .get(from..from.saturating_add(length))
                .map(<[u8]>::to_vec)
                .ok_or_else(|| Error::malformed(HCL, "it ends early"))
        };
        let variable_data = part(VARIABLE, length)?;
        let json: Variable = crate::message::parse(HCL_JSON, &variable_data, LIMIT)?;
        let ak = json
            .keys
            .iter()
            .find(|key| key.kid.as_deref() == Some(AK_NAME))
            .and_then(|key| {
                let number = |text: &Option<String>| b64u::decode(text.as_deref()?);
                Some(RsaNumbers {
                    n: number(&key.n)?,
                    e: number(&key.e)?,
                })
            })
            .ok_or_else(|| Error::malformed(HCL_JSON, "it names no RSA key HCLAkPub"))?;
        let user_data = json.user_data.map(|text| {
            crate::encoding::hex::decode(&text)
                .ok_or_else(|| Error::malformed(HCL_JSON, "its user-data is not hexadecimal"))
        });
        Ok(Self {
            hardware_report: part(HARDWARE, HARDWARE_SIZE)?,
            kind,
            variable_data,
            ak,
            user_data: user_data.transpose()?,
        })
    }

    /// What the processor's report must begin its report data with.
    pub fn variable_data_sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.variable_data).into()
    }
}

#[derive(Deserialize)]
struct Variable {
    keys: Vec<Jwk>,
    #[serde(rename = "user-data")]
    user_data: Option<String>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

const HCL: &str = "the paravisor's report";
const HCL_JSON: &str = "the JSON in the paravisor's report";
const AK_NAME: &str = "HCLAkPub";
const HARDWARE: usize = 32;
const HARDWARE_SIZE: usize = super::SNP_REPORT_SIZE;
const REPORT_TYPE: usize = 1224;
const HASH_TYPE: usize = 1228;
const HASH_SHA256: u32 = 1;
const VARIABLE_SIZE: usize = 1232;
const VARIABLE: usize = 1236;
/// The NV index is 2600 bytes long.
const LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::{AzSnpVtpmEvidence, AzTpmQuote, HclKind, HclReport};

    fn report(kind: u32, hash: u32, json: &str) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes.extend([7; 1184]);
        for number in [0, 1, kind, hash, u32::try_from(json.len()).unwrap()] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(json.as_bytes());
        bytes.resize(2600, 0);
        bytes
    }

    const JSON: &str = r#"{"keys":[{"kid":"HCLEkPub"},{"kid":"HCLAkPub","kty":"RSA","n":"AQID","e":"AQAB"}],"user-data":"00FF"}"#;

    #[test]
    fn a_report_tells_key_and_user_data() {
        for (number, kind) in [(2, HclKind::Snp), (4, HclKind::Tdx)] {
            let read = HclReport::parse(&report(number, 1, JSON)).unwrap();
            assert_eq!(read.kind, kind);
            assert_eq!(read.hardware_report, [7; 1184]);
            assert_eq!(
                (&read.ak.n[..], &read.ak.e[..]),
                (&[1, 2, 3][..], &[1, 0, 1][..])
            );
            assert_eq!(read.user_data.as_deref(), Some(&[0, 0xff][..]));
            assert_eq!(read.variable_data, JSON.as_bytes());
        }
        let silent = JSON.replace(r#","user-data":"00FF""#, "");
        let read = HclReport::parse(&report(2, 1, &silent)).unwrap();
        assert_eq!(read.user_data, None);
    }

    #[test]
    fn malformed_reports_are_refused() {
        let good = report(2, 1, JSON);
        for length in 0..1236 + JSON.len() {
            assert!(HclReport::parse(&good[..length]).is_err(), "{length}");
        }
        assert!(HclReport::parse(&[good, vec![0; 64 * 1024]].concat()).is_err());
        assert!(HclReport::parse(&report(3, 1, JSON)).is_err());
        for hash in [0, 2, 3] {
            let why = HclReport::parse(&report(2, hash, JSON))
                .unwrap_err()
                .to_string();
            assert!(why.contains("SHA-256"), "{why}");
        }
        for (from, to) in [
            ("HCLAkPub", "AkPub"),
            ("AQID", "!"),
            ("00FF", "0x"),
            ("{", ""),
        ] {
            let bad = JSON.replacen(from, to, if from == "{" { 1 } else { 9 });
            assert!(HclReport::parse(&report(2, 1, &bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn wire_form() {
        let evidence = AzSnpVtpmEvidence {
            version: 2,
            tpm_quote: AzTpmQuote {
                signature: "aa".to_owned(),
                message: "ff".to_owned(),
                pcrs: vec!["00".to_owned()],
            },
            hcl_report: "AA==".to_owned(),
            vcek: "MA==".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&evidence).unwrap(),
            r#"{"version":2,"tpm_quote":{"signature":"aa","message":"ff","pcrs":["00"]},"hcl_report":"AA==","vcek":"MA=="}"#
        );
    }
}
