// SPDX-License-Identifier: Apache-2.0

//! Reading what a TPM signed, TPMS_ATTEST and TPMT_SIGNATURE, and what it says about its keys, see
//! [`public`] (TPM 2.0 Library, Part 2: Structures).
//!
//! The attester uses this to check its own quote before it sends it, the verifier to check everybody's.
//! All integers are big endian. Every length is checked in one place, [`Reader::take`].

pub mod public;

use crate::error::Error;
use sha2::{Digest as _, Sha256};

/// A quote: TPMS_ATTEST whose type is TPM_ST_ATTEST_QUOTE (Part 2, 10.12.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// Qualified name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// The caller's qualifying data: our hash over nonce and key.
    pub extra_data: Vec<u8>,
    /// Milliseconds during which the TPM had power.
    pub clock: u64,
    /// Number of TPM resets.
    pub reset_count: u32,
    /// Number of restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether `clock` was never lower than it is now.
    pub safe: bool,
    /// Vendor-specific.
    pub firmware_version: u64,
    /// Which PCRs the quote is about.
    pub pcr_selections: Vec<PcrSelection>,
    /// Hash over the concatenated values of these PCRs.
    pub pcr_digest: Vec<u8>,
}

/// One bank of a TPML_PCR_SELECTION (Part 2, 10.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    /// TPM_ALG_ID of the bank.
    pub hash_alg: u16,
    /// Bit `n % 8` of byte `n / 8` selects PCR `n`.
    pub bitmap: Vec<u8>,
}

impl Attest {
    /// Reads a marshalled TPMS_ATTEST, without a TPM2B length in front.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the magic is not TPM_GENERATED_VALUE (so that no TPM made it), the type is
    /// not a quote, a length exceeds the bytes that are there, or bytes are left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader {
            what: ATTEST,
            rest: bytes,
        };
        let magic = reader.u32()?;
        if magic != TPM_GENERATED_VALUE {
            return reader.wrong(format!(
                "magic {magic:#010x}, expected {TPM_GENERATED_VALUE:#010x}"
            ));
        }
        let kind = reader.u16()?;
        if kind != TPM_ST_ATTEST_QUOTE {
            return reader.wrong(format!(
                "type {kind:#06x}, expected a quote {TPM_ST_ATTEST_QUOTE:#06x}"
            ));
        }
        let attest = Self {
            qualified_signer: reader.sized()?.to_vec(),
            extra_data: reader.sized()?.to_vec(),
            clock: reader.u64()?,
            reset_count: reader.u32()?,
            restart_count: reader.u32()?,
            safe: reader.yes_no()?,
            firmware_version: reader.u64()?,
            pcr_selections: reader.pcr_selections()?,
            pcr_digest: reader.sized()?.to_vec(),
        };
        reader.end()?;
        Ok(attest)
    }

    /// Requires a quote over PCR 0 to 23 of the SHA-256 bank and nothing else.
    ///
    /// Without this a quote over other PCRs, or over several banks, could be presented as one over these
    /// 24: the digest alone does not say which registers it covers.
    ///
    /// # Errors
    /// [`Error::Quote`] that names the selection.
    pub fn require_full_sha256_selection(&self) -> Result<(), Error> {
        match self.pcr_selections.as_slice() {
            [one] if one.hash_alg == TPM_ALG_SHA256 && one.bitmap == [0xff; 3] => Ok(()),
            others => {
                let shown: Vec<String> = others
                    .iter()
                    .map(|s| {
                        format!(
                            "{:#06x}:{}",
                            s.hash_alg,
                            crate::encoding::hex::encode(&s.bitmap)
                        )
                    })
                    .collect();
                Err(Error::Quote {
                    why: format!("it covers [{}], expected [0x000b:ffffff]", shown.join(", ")),
                })
            }
        }
    }
}

/// Reads a marshalled TPMT_SIGNATURE and returns the signature bytes of an RSASSA-SHA256 one
/// (Part 2, 11.3.4): `sigAlg` 0x0014, `hashAlg` 0x000b, TPM2B.
///
/// # Errors
/// [`Error::Algorithm`] for another scheme or hash, [`Error::Malformed`] for a wrong length.
pub fn rsassa_sha256_signature(bytes: &[u8]) -> Result<&[u8], Error> {
    let mut reader = Reader {
        what: SIGNATURE,
        rest: bytes,
    };
    for (expected, allowed) in [(TPM_ALG_RSASSA, "RSASSA"), (TPM_ALG_SHA256, "SHA-256")] {
        let algorithm = reader.u16()?;
        if algorithm != expected {
            return Err(Error::Algorithm {
                what: SIGNATURE,
                name: format!("{algorithm:#06x}"),
                allowed,
            });
        }
    }
    let signature = reader.sized()?;
    reader.end()?;
    Ok(signature)
}

/// What is inside a TPM2B, marshalled with its 16-bit length in front.
///
/// # Errors
/// [`Error::Malformed`] for a length that is not that of the rest; `what` names the message.
pub fn sized<'b>(what: &'static str, bytes: &'b [u8]) -> Result<&'b [u8], Error> {
    let mut reader = Reader { what, rest: bytes };
    let inside = reader.sized()?;
    reader.end()?;
    Ok(inside)
}

/// The digest that a quote over these PCRs must contain: SHA-256 over the concatenated values.
pub fn pcr_digest(pcrs: &[[u8; 32]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for pcr in pcrs {
        hash.update(pcr);
    }
    hash.finalize().into()
}

/// Walks over marshalled bytes; nothing else in this module touches an index.
struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let Some((head, rest)) = self.rest.split_at_checked(length) else {
            return self.wrong(format!("{length} bytes expected, {} left", self.rest.len()));
        };
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?
            .try_into()
            .map_err(|_| Error::malformed(self.what, "truncated"))
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    /// TPMI_YES_NO (Part 2, 9.2): a TPM writes nothing else.
    fn yes_no(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => self.wrong(format!("{other} where a TPM says 0 or 1")),
        }
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: a 16-bit length and that many bytes.
    fn sized(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// A TPML_PCR_SELECTION. No TPM has more banks than TPM_NUM_PCR_BANKS.
    fn pcr_selections(&mut self) -> Result<Vec<PcrSelection>, Error> {
        let count = self.u32()?;
        if count > TPM_NUM_PCR_BANKS {
            return self.wrong(format!(
                "{count} PCR selections, at most {TPM_NUM_PCR_BANKS} exist"
            ));
        }
        (0..count)
            .map(|_| {
                let hash_alg = self.u16()?;
                let size = self.u8()?;
                Ok(PcrSelection {
                    hash_alg,
                    bitmap: self.take(size.into())?.to_vec(),
                })
            })
            .collect()
    }

    fn end(&self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            left => self.wrong(format!("{left} bytes left over")),
        }
    }

    fn wrong<T>(&self, why: String) -> Result<T, Error> {
        Err(Error::malformed(self.what, why))
    }
}

const ATTEST: &str = "the TPM quote (TPMS_ATTEST)";
const SIGNATURE: &str = "the TPM signature (TPMT_SIGNATURE)";
/// Part 2, 6.2: `ff` "TCG".
const TPM_GENERATED_VALUE: u32 = 0xff54_4347;
/// Part 2, 6.9.
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;
/// Part 2, 6.3.
pub const TPM_ALG_RSASSA: u16 = 0x0014;
/// Part 2, 6.3.
pub const TPM_ALG_SHA256: u16 = 0x000b;
/// Part 2, annex on implementation values: 16 in the reference code.
const TPM_NUM_PCR_BANKS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::{Attest, pcr_digest, rsassa_sha256_signature};
    use crate::encoding::hex;
    use proptest::prelude::{any, proptest};

    /// A quote with these selections, marshalled by hand.
    fn quote(selections: &str) -> Vec<u8> {
        hex::decode(&format!(
            "ff5443478018{signer}{extra}{clock}{selections}{digest}",
            signer = "0022000b".to_owned() + &"11".repeat(32),
            extra = "0020".to_owned() + &"22".repeat(32),
            clock = "00000000000b6f4a0000000300000000012019102300163636",
            digest = "0020".to_owned() + &"33".repeat(32),
        ))
        .unwrap()
    }

    #[test]
    fn reads_every_field() {
        let attest = Attest::parse(&quote("00000001000b03ffffff")).unwrap();
        assert_eq!(attest.qualified_signer.len(), 34);
        assert_eq!(attest.extra_data, [0x22; 32]);
        assert_eq!(
            (attest.clock, attest.reset_count, attest.restart_count),
            (0xb6f4a, 3, 0)
        );
        assert!(attest.safe);
        assert_eq!(attest.firmware_version, 0x2019_1023_0016_3636);
        assert_eq!(attest.pcr_digest, [0x33; 32]);
        attest.require_full_sha256_selection().unwrap();
    }

    #[test]
    fn safe_is_yes_or_no() {
        let mut bytes = quote("00000001000b03ffffff");
        // After magic, type, two sized fields of 34 and 32 bytes, clock and two counters.
        let safe = 6 + 36 + 34 + 16;
        assert!(Attest::parse(&bytes).unwrap().safe);
        bytes[safe] = 0;
        assert!(!Attest::parse(&bytes).unwrap().safe);
        bytes[safe] = 2;
        let error = Attest::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("0 or 1"), "{error}");
    }

    #[test]
    fn other_selections_are_named() {
        for selections in [
            "00000000",
            "00000001000b03fffffe",
            "00000001000b0400000000",
            "000000010004 03ffffff",
            "00000002000b03ffffff000b03ffffff",
            "00000002000b03ffffff000403ffffff",
            "00000001000b02ffff",
        ] {
            let attest = Attest::parse(&quote(&selections.replace(' ', ""))).unwrap();
            let error = attest
                .require_full_sha256_selection()
                .unwrap_err()
                .to_string();
            assert!(error.contains("expected [0x000b:ffffff]"), "{error}");
        }
    }

    #[test]
    fn malformed_quotes_are_refused() {
        let good = quote("00000001000b03ffffff");
        for cut in 0..good.len() {
            assert!(Attest::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(
            Attest::parse(&[good.clone(), vec![0]].concat()).is_err(),
            "a byte left over"
        );
        for (at, name) in [(0, "magic"), (5, "type")] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Attest::parse(&bad).unwrap_err().to_string().contains(name));
        }
        assert!(
            Attest::parse(&quote("ffffffff"))
                .unwrap_err()
                .to_string()
                .contains("selections")
        );
    }

    #[test]
    fn signatures() {
        let signature = hex::decode("0014000b0003aabbcc").unwrap();
        assert_eq!(
            rsassa_sha256_signature(&signature).unwrap(),
            [0xaa, 0xbb, 0xcc]
        );
        for (bad, reason) in [
            ("0016000b0003aabbcc", "RSASSA"),
            ("001400040003aabbcc", "SHA-256"),
            ("0014000b0004aabbcc", "4 bytes expected, 3 left"),
            ("0014000b0003aabbccdd", "left over"),
            ("0014", "2 bytes expected"),
        ] {
            let error = rsassa_sha256_signature(&hex::decode(bad).unwrap()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn pcr_digest_is_over_the_concatenation() {
        // sha256 of 64 zero bytes
        assert_eq!(
            hex::encode(pcr_digest(&[[0; 32], [0; 32]])),
            "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, head in any::<bool>()) {
            let mut input = if head { hex::decode("ff5443478018").unwrap() } else { vec![] };
            input.extend(bytes);
            let _ = Attest::parse(&input);
            let _ = rsassa_sha256_signature(&input);
        }
    }
}
