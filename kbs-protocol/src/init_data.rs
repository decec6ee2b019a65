// SPDX-License-Identifier: Apache-2.0

//! Init-data: what a host or an image says about a node before it boots, as TOML.
//!
//! The digest is over the exact text. HOST_DATA (SNP), MRCONFIGID (TDX) or PCR 8 (TPM) carries it, so one
//! changed blank makes another identity: the text is stored and sent byte for byte.

use crate::encoding::printable;
use crate::error::{Error, INIT_DATA};
use crate::message::InitData;
use crate::node_id::NodeId;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::collections::BTreeMap;

/// Init-data that has been read, with the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitDataToml {
    text: String,
    /// The hash that the platform carries.
    pub algorithm: Algorithm,
    /// The `data` table; its values are all strings.
    pub data: BTreeMap<String, String>,
}

/// Hash algorithms for init-data. A TPM takes SHA-256 only: PCR 8 is extended with 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// 32 bytes.
    Sha256,
    /// 48 bytes.
    Sha384,
    /// 64 bytes.
    Sha512,
}

impl InitDataToml {
    /// Reads init-data.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Malformed`]: `version`, `algorithm` and `data` must be there, the
    /// algorithm must be known, and every value in `data` must be a string.
    pub fn parse(text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(rename = "version")]
            _version: String,
            algorithm: Algorithm,
            data: BTreeMap<String, String>,
        }
        Error::check_size(INIT_DATA, text.as_bytes(), LIMIT)?;
        let wire: Wire = toml::from_str(text)
            .map_err(|error| Error::malformed(INIT_DATA, printable(error.message(), SHOWN)))?;
        Ok(Self {
            text: text.to_owned(),
            algorithm: wire.algorithm,
            data: wire.data,
        })
    }

    /// The digest over the exact text.
    pub fn digest(&self) -> Vec<u8> {
        match self.algorithm {
            Algorithm::Sha256 => Sha256::digest(&self.text).to_vec(),
            Algorithm::Sha384 => Sha384::digest(&self.text).to_vec(),
            Algorithm::Sha512 => Sha512::digest(&self.text).to_vec(),
        }
    }

    /// The value PCR 8 must have when the node extended it once, from zero, with the digest.
    ///
    /// # Errors
    /// [`Error::Algorithm`] when the digest is not 32 bytes long: a KBS cannot compare such init-data with
    /// a PCR.
    pub fn expected_pcr8(&self) -> Result<[u8; 32], Error> {
        if self.algorithm != Algorithm::Sha256 {
            return Err(Error::Algorithm {
                what: INIT_DATA,
                name: format!("{:?}", self.algorithm).to_lowercase(),
                allowed: "sha256 (with a TPM)",
            });
        }
        Ok(Sha256::new()
            .chain_update([0; 32])
            .chain_update(self.digest())
            .finalize()
            .into())
    }

    /// What a register of `N` bytes that the host fills at launch must show: the digest, cut or padded with
    /// zeros. 32 bytes for HOST_DATA (SNP), 48 for MRCONFIGID (TDX).
    pub fn launch_register<const N: usize>(&self) -> [u8; N] {
        let mut register = [0; N];
        for (to, from) in register.iter_mut().zip(self.digest()) {
            *to = from;
        }
        register
    }

    /// The node that it names: the value of `uuid`, if there is one.
    ///
    /// # Errors
    /// [`Error::Malformed`] when that is no UUID in lower case.
    pub fn node_id(&self) -> Result<Option<NodeId>, Error> {
        let uuid = self.data.get("uuid").map(String::as_str);
        uuid.map(NodeId::assigned).transpose()
    }

    /// The message member that carries it.
    pub fn to_message(&self) -> InitData {
        InitData {
            format: "toml".to_owned(),
            body: self.text.clone(),
        }
    }
}

/// Room for a few small configuration files.
const LIMIT: usize = 256 * 1024;
/// The TOML reader quotes what it met, and init-data may come from a LUKS header.
const SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::InitDataToml;
    use crate::encoding::hex;

    const TEXT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"node\" = \"n1\"\n";

    #[test]
    fn digest_and_pcr8_vector() {
        let init_data = InitDataToml::parse(TEXT).unwrap();
        assert_eq!(
            hex::encode(init_data.digest()),
            "e9e79ce915a72cd2970b70ed352be5e674da829ec3e0cebbbb930b5061dafc52"
        );
        assert_eq!(
            hex::encode(init_data.expected_pcr8().unwrap()),
            "62c606a23f0c6f4cd3d7408f28f7ea58c2fab06894870b86f3317924cf68443e"
        );
        assert_eq!(init_data.data["node"], "n1");
        assert_eq!(init_data.to_message().body, TEXT);
    }

    #[test]
    fn one_more_newline_is_another_digest() {
        let longer = InitDataToml::parse(&format!("{TEXT}\n")).unwrap();
        assert_ne!(longer.digest(), InitDataToml::parse(TEXT).unwrap().digest());
    }

    #[test]
    fn launch_registers_hold_the_digest_cut_or_padded() {
        let short = InitDataToml::parse(TEXT).unwrap();
        assert_eq!(short.launch_register::<32>()[..], short.digest());
        let padded = short.launch_register::<48>();
        assert_eq!(
            (&padded[..32], &padded[32..]),
            (&short.digest()[..], &[0; 16][..])
        );
        let long = InitDataToml::parse(&TEXT.replace("sha256", "sha512")).unwrap();
        assert_eq!(long.launch_register::<32>(), long.digest()[..32]);
        assert_eq!(long.launch_register::<48>(), long.digest()[..48]);
    }

    #[test]
    fn a_node_is_named_by_its_uuid() {
        assert_eq!(InitDataToml::parse(TEXT).unwrap().node_id().unwrap(), None);
        let named = |uuid: &str| {
            let text = TEXT.replace("\"node\" = \"n1\"", &format!("uuid = \"{uuid}\""));
            InitDataToml::parse(&text).unwrap().node_id()
        };
        let uuid = "7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a01";
        assert_eq!(named(uuid).unwrap().unwrap().to_string(), uuid);
        assert!(named("n1").is_err() && named(&uuid.to_uppercase()).is_err());
    }

    #[test]
    fn a_tpm_takes_sha256_only() {
        for (name, length) in [("sha384", 48), ("sha512", 64)] {
            let other = InitDataToml::parse(&TEXT.replace("sha256", name)).unwrap();
            assert_eq!(other.digest().len(), length);
            assert!(
                other
                    .expected_pcr8()
                    .unwrap_err()
                    .to_string()
                    .contains(name)
            );
        }
    }

    #[test]
    fn what_init_data_says_cannot_write_on_the_console() {
        let evil = TEXT.replace("\"sha256\"", &format!("\"\\u001b[2J{}\"", "x".repeat(5000)));
        let message = InitDataToml::parse(&evil).unwrap_err().to_string();
        assert!(message.contains("[2J"), "{message}");
        assert!(
            !message.contains(char::is_control) && message.len() < 300,
            "{message:?}"
        );
    }

    #[test]
    fn malformed_init_data_is_refused() {
        for (from, to) in [
            ("version = \"0.1.0\"\n", ""),
            ("algorithm = \"sha256\"\n", ""),
            ("sha256", "md5"),
            ("[data]", "[date]"),
            ("\"n1\"", "1"),
            ("\"n1\"", "\"n1"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert!(InitDataToml::parse(&text).is_err(), "{text}");
        }
        assert!(InitDataToml::parse(&" ".repeat(300_000)).is_err());
    }
}
