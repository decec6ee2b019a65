// SPDX-License-Identifier: Apache-2.0

//! What a machine is known by: its name, its attestation key, its init-data. The planner puts these into
//! sharded maps, where the attestation policy looks them up.

use super::{Error, SEGMENT, segment};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::NodeId;
use kbs_protocol::encoding::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// A node's name: the second segment of its resource paths. Usually its [`NodeId`]; where names are
/// assigned (`identity: init-data`), the `uuid` of its init-data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// An attestation key: the base64 (RFC 4648 section 4) of its DER SubjectPublicKeyInfo, exactly as the
/// evidence spells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AkPublic(String);

/// SHA-256 of an init-data text. Other algorithms do not fit all the registers that carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InitDataDigest([u8; 32]);

impl AkPublic {
    /// From DER (RFC 5280 section 4.1).
    ///
    /// # Errors
    /// [`Error::Malformed`] when this is no RSA key of a size a TPM makes.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, Error> {
        STANDARD.encode(der).try_into()
    }

    /// The id of the node that holds this key.
    pub fn node_id(&self) -> NodeId {
        // Parsed at construction, so the default is never taken.
        NodeId::from_spki_der(&STANDARD.decode(&self.0).unwrap_or_default())
    }

    /// The name of the reference value that holds this key: `node_ak_` and two characters from inside the
    /// modulus, which are as good as random. `attestation.rego` computes the same.
    pub fn shard(&self) -> String {
        let characters = self.0.get(60..62).unwrap_or_default();
        format!(
            "{AK_SHARD}{}",
            characters.replace('+', "-").replace('/', "_")
        )
    }
}

impl InitDataDigest {
    /// Hashes the text as it is sent, to the byte.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// What the register shows that carries it, as the verifier spells the claim. A TPM's PCR 8 is extended
    /// once from zero; SEV-SNP puts the digest into HOST_DATA, TDX pads it to the 48 bytes of MRCONFIGID.
    pub fn registers(&self) -> [String; 3] {
        let pcr: [u8; 32] = Sha256::new_with_prefix([0; 32])
            .chain_update(self.0)
            .finalize()
            .into();
        let mut padded = [0; 48];
        padded
            .iter_mut()
            .zip(self.0)
            .for_each(|(to, from)| *to = from);
        [hex::encode(pcr), hex::encode(self.0), hex::encode(padded)]
    }

    /// The name of the reference value that holds a register: `node_init_` and its first two digits.
    pub fn shard(register: &str) -> String {
        format!("{INIT_SHARD}{}", register.get(..2).unwrap_or_default())
    }
}

impl TryFrom<String> for AkPublic {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let wrong = || {
            Error::malformed(
                "an attestation key",
                &text,
                "the base64 of a DER SubjectPublicKeyInfo (RSA)",
            )
        };
        let der = STANDARD.decode(&text).map_err(|_| wrong())?;
        // SEQUENCE with a two-byte length that covers the rest, then the AlgorithmIdentifier of RSA.
        let body = match der.as_slice() {
            [0x30, 0x82, high, low, body @ ..]
                if usize::from(u16::from_be_bytes([*high, *low])) == body.len() =>
            {
                body
            }
            _ => return Err(wrong()),
        };
        match body.starts_with(RSA_ENCRYPTION) {
            true => Ok(Self(text)),
            false => Err(wrong()),
        }
    }
}

impl From<AkPublic> for String {
    fn from(ak: AkPublic) -> Self {
        ak.0
    }
}

impl fmt::Display for AkPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        match segment(&text) {
            true => Ok(Self(text)),
            false => Err(Error::malformed("the name of a node", &text, SEGMENT)),
        }
    }
}

impl FromStr for NodeName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.to_owned().try_into()
    }
}

impl From<NodeId> for NodeName {
    fn from(id: NodeId) -> Self {
        Self(id.to_string())
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) const AK_SHARD: &str = "node_ak_";
pub(crate) const INIT_SHARD: &str = "node_init_";
/// AlgorithmIdentifier { rsaEncryption, NULL } (RFC 3279 section 2.3.1), then the BIT STRING's tag.
const RSA_ENCRYPTION: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x03,
];

#[cfg(test)]
mod tests {
    use super::{AkPublic, InitDataDigest, NodeName};
    use crate::testing::ak;
    use kbs_protocol::NodeId;

    #[test]
    fn init_data_vector_of_the_protocol() {
        let text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"node\" = \"n1\"\n";
        let [pcr, host_data, mr_config_id] = InitDataDigest::of(text).registers();
        assert_eq!(
            host_data,
            "e9e79ce915a72cd2970b70ed352be5e674da829ec3e0cebbbb930b5061dafc52"
        );
        assert_eq!(
            pcr,
            "62c606a23f0c6f4cd3d7408f28f7ea58c2fab06894870b86f3317924cf68443e"
        );
        assert_eq!(mr_config_id, format!("{host_data}{}", "0".repeat(32)));
        assert_eq!(InitDataDigest::shard(&pcr), "node_init_62");
    }

    #[test]
    fn keys_shard_by_characters_inside_the_modulus() {
        let key = ak(7);
        let text = key.to_string();
        assert_eq!(text.len(), 392);
        let expected = text[60..62].replace('+', "-").replace('/', "_");
        assert_eq!(key.shard(), format!("node_ak_{expected}"));
        let shards: std::collections::BTreeSet<_> = (0..200).map(|n| ak(n).shard()).collect();
        assert!(shards.len() > 180, "{}", shards.len());
    }

    #[test]
    fn other_keys_are_refused() {
        let good = ak(1).to_string();
        assert!(AkPublic::try_from(good.clone()).is_ok());
        let elliptic = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE".to_owned() + &"A".repeat(88);
        for bad in [
            String::new(),
            "MIIB".to_owned(),
            good[4..].to_owned(),
            good[..388].to_owned(),
            format!(" {good}"),
            format!("{good}\n"),
            good.replace("ANBgkqhkiG9w0BAQEF", "ANBgkqhkiG9w0BAQUF"),
            elliptic,
        ] {
            assert!(AkPublic::try_from(bad.clone()).is_err(), "{bad:?}");
        }
        let id = ak(1).node_id();
        assert_eq!(NodeName::from(id).to_string(), id.to_string());
        assert_ne!(id, ak(2).node_id());
        assert_ne!(id, NodeId::from_spki_der(b""));
    }
}
