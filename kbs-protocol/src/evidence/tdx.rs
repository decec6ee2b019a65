// SPDX-License-Identifier: Apache-2.0

//! TDX evidence: a DCAP quote and the event log behind its runtime registers.
//!
//! A node reads three fields of its own quote, to see that it got what it asked for. To believe a quote is the
//! server's work, with Intel's collateral.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// The evidence of `tdx`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdxEvidence {
    /// Base64 of the quote.
    pub quote: String,
    /// Base64 of the event log (TCG crypto-agile form, SHA-384), `null` where the firmware keeps none.
    pub cc_eventlog: Option<String>,
}

/// The fields of a quote that its maker looks at (Intel TDX DCAP Quoting Library API, appendix A.3). Not
/// verified in any way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdQuote {
    /// 4 or 5.
    pub version: u16,
    /// What the guest asked to have signed.
    pub report_data: [u8; 64],
    /// What the host attached at launch: the digest of init-data.
    pub mr_config_id: [u8; 48],
    /// The runtime registers.
    pub rtmrs: [[u8; 48]; 4],
}

impl TdQuote {
    /// Reads the head of a quote.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or [`Error::Malformed`] when it is no quote of a TD in version 4 or 5.
    pub fn parse(quote: &[u8]) -> Result<Self, Error> {
        Error::check_size(QUOTE, quote, LIMIT)?;
        let version = u16::from_le_bytes(array(quote, 0)?);
        let tee_type = u32::from_le_bytes(array(quote, 4)?);
        if tee_type != TEE_TYPE_TDX {
            return Err(Error::malformed(
                QUOTE,
                format!("its TEE type is {tee_type:#x}, expected {TEE_TYPE_TDX:#x}"),
            ));
        }
        let body: usize = match version {
            4 => HEADER,
            5 => match u16::from_le_bytes(array(quote, HEADER)?) {
                // TDX 1.0, 1.5, 1.5 with service TDs: each begins with the one before.
                2..=4 => HEADER_AND_BODY_TYPE,
                other => {
                    return Err(Error::malformed(
                        QUOTE,
                        format!("its body has type {other}"),
                    ));
                }
            },
            _ => {
                return Err(Error::malformed(
                    QUOTE,
                    format!("it has version {version}, expected 4 or 5"),
                ));
            }
        };
        let at = |offset: usize| body.saturating_add(offset);
        Ok(Self {
            version,
            report_data: array(quote, at(520))?,
            mr_config_id: array(quote, at(184))?,
            rtmrs: [
                array(quote, at(328))?,
                array(quote, at(376))?,
                array(quote, at(424))?,
                array(quote, at(472))?,
            ],
        })
    }
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Error> {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .ok_or_else(|| Error::malformed(QUOTE, "it ends early"))
}

const QUOTE: &str = "the TDX quote";
const TEE_TYPE_TDX: u32 = 0x81;
const HEADER: usize = 48;
/// Version 5 puts a type and a size before the body.
const HEADER_AND_BODY_TYPE: usize = HEADER + 6;
/// Quotes are about 5 KiB; the kernel's limit is 128 KiB.
const LIMIT: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::{TdQuote, TdxEvidence};
    use serde_json::json;

    fn quote(version: u16, body_type: Option<u16>) -> Vec<u8> {
        let mut header = vec![0; 48];
        header[..2].copy_from_slice(&version.to_le_bytes());
        header[4] = 0x81;
        if let Some(kind) = body_type {
            header.extend(kind.to_le_bytes());
            header.extend(648_u32.to_le_bytes());
        }
        let mut body = vec![0; 584];
        body[184..232].fill(0x18);
        for (register, byte) in body[328..].chunks_mut(48).take(4).zip(1_u8..) {
            register.fill(byte);
        }
        body[520..584].fill(0x52);
        [header, body].concat()
    }

    #[test]
    fn both_versions() {
        for (version, body_type) in [(4, None), (5, Some(2)), (5, Some(3)), (5, Some(4))] {
            let read = TdQuote::parse(&quote(version, body_type)).unwrap();
            assert_eq!(read.version, version);
            assert_eq!(
                (read.report_data, read.mr_config_id),
                ([0x52; 64], [0x18; 48])
            );
            assert_eq!(read.rtmrs, [[1; 48], [2; 48], [3; 48], [4; 48]]);
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = quote(5, Some(3));
        assert!(TdQuote::parse(&quote(3, None)).is_err());
        assert!(TdQuote::parse(&quote(6, Some(3))).is_err());
        assert!(TdQuote::parse(&quote(5, Some(1))).is_err());
        let mut sgx = good.clone();
        sgx[4] = 0;
        assert!(TdQuote::parse(&sgx).is_err());
        for length in 0..good.len() {
            assert!(TdQuote::parse(&good[..length]).is_err(), "{length}");
        }
        assert!(TdQuote::parse(&[good, vec![0; 128 * 1024]].concat()).is_err());
    }

    #[test]
    fn wire_form() {
        let evidence = TdxEvidence {
            quote: "AAEC".to_owned(),
            cc_eventlog: None,
        };
        assert_eq!(
            serde_json::to_string(&evidence).unwrap(),
            r#"{"quote":"AAEC","cc_eventlog":null}"#
        );
        let absent: TdxEvidence = serde_json::from_value(json!({"quote": "AAEC"})).unwrap();
        assert_eq!(absent, evidence);
    }
}
