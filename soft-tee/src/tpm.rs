// SPDX-License-Identifier: Apache-2.0

//! A TPM's attestation key without a TPM around it: quotes over whatever PCRs a test wants (TPM 2.0 Library Part 2,
//! TPMS_ATTEST). Where the TPM itself is of interest the tests use `swtpm`; here it is the verifier.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::NodeId;
use rsa::pkcs8::EncodePublicKey as _;
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::traits::PublicKeyParts as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

/// An attestation key and the PCRs it will sign for.
#[derive(Clone)]
pub struct SoftTpm {
    /// RSA-2048.
    pub ak: rsa::RsaPrivateKey,
    /// PCR 0 to 23 of the SHA-256 bank.
    pub pcrs: Vec<[u8; 32]>,
    /// TPML_PCR_SELECTION as quoted, in hex.
    pub selection: &'static str,
    /// TPMS_CLOCK_INFO.clock, in milliseconds.
    pub clock: u64,
    /// TPMS_CLOCK_INFO.resetCount: how often it was started.
    pub resets: u32,
}

/// A quote: TPMS_ATTEST, and the RSASSA signature without a structure around it.
pub struct Quote {
    /// What is signed.
    pub message: Vec<u8>,
    /// As long as the key.
    pub signature: Vec<u8>,
}

/// Exactly one selection: SHA-256, all 24 PCRs.
pub const FULL_SELECTION: &str = "00000001000b03ffffff";

static AKS: LazyLock<[rsa::RsaPrivateKey; 3]> = LazyLock::new(|| {
    [(); 3].map(|()| rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap())
});

impl SoftTpm {
    /// One of three TPMs that are the same for all tests of a file.
    pub fn number(index: usize) -> Self {
        let pcrs = (0..24).map(|number| [number; 32]).collect();
        Self {
            ak: AKS[index].clone(),
            pcrs,
            selection: FULL_SELECTION,
            clock: 1,
            resets: 2,
        }
    }

    fn spki(&self) -> Vec<u8> {
        let key = self.ak.to_public_key();
        key.to_public_key_der().unwrap().into_vec()
    }

    /// Base64 of the key's SubjectPublicKeyInfo.
    pub fn ak_public(&self) -> String {
        STANDARD.encode(self.spki())
    }

    /// The id of the node with this key.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_spki_der(&self.spki())
    }

    /// A PCR's value in hex.
    pub fn pcr(&self, number: usize) -> String {
        hex(&self.pcrs[number])
    }

    /// What is usually approved of a boot.
    pub fn boot_tuple(&self) -> Value {
        json!({ "pcr04": self.pcr(4), "pcr07": self.pcr(7), "pcr14": self.pcr(14) })
    }

    /// In a machine that has booted what shows these PCRs, spelt as in [`Self::boot_tuple`].
    pub fn showing(mut self, boot_tuple: &Value) -> Self {
        for (name, value) in boot_tuple.as_object().unwrap() {
            let number: usize = name.trim_start_matches("pcr").parse().unwrap();
            self.pcrs[number] = unhex(value.as_str().unwrap()).try_into().unwrap();
        }
        self
    }

    /// TPM2_Quote with this qualifying data.
    pub fn quote(&self, extra_data: &[u8]) -> Quote {
        let digest = Sha256::digest(self.pcrs.concat());
        let length = u16::try_from(extra_data.len()).unwrap().to_be_bytes();
        let message = [
            &unhex("ff54434780180000")[..],
            &length,
            extra_data,
            &self.clock.to_be_bytes(),
            &self.resets.to_be_bytes(),
            &unhex("000000030100000000000000ff"),
            &unhex(self.selection),
            &[0, 32],
            &digest,
        ]
        .concat();
        let key = rsa::pkcs1v15::SigningKey::<Sha256>::new(self.ak.clone());
        let signature = key.sign(&message).to_vec();
        Quote { message, signature }
    }

    /// The quote as Azure's evidence spells it.
    pub fn azure_quote(&self, extra_data: &[u8]) -> Value {
        let quote = self.quote(extra_data);
        json!({
            "signature": hex(&quote.signature),
            "message": hex(&quote.message),
            "pcrs": self.pcrs.iter().map(|pcr| hex(pcr)).collect::<Vec<_>>(),
        })
    }

    /// Modulus and exponent of the key, big endian.
    pub fn numbers(&self) -> (Vec<u8>, Vec<u8>) {
        (self.ak.n().to_bytes_be(), self.ak.e().to_bytes_be())
    }

    /// The evidence of a bare TPM, as a KBS takes it.
    pub fn evidence(&self, extra_data: &[u8]) -> Value {
        let quote = self.quote(extra_data);
        let signature = [unhex("0014000b0100"), quote.signature].concat();
        json!({
            "ak_public": self.ak_public(),
            "tpm_quote": {
                "message": STANDARD.encode(quote.message),
                "signature": STANDARD.encode(signature),
                "pcrs": self.pcrs.iter().map(|pcr| hex(pcr)).collect::<Vec<_>>(),
            },
        })
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
