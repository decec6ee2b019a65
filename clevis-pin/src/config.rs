// SPDX-License-Identifier: Apache-2.0

//! The CONFIG argument of `clevis encrypt trustee`: a JSON object in which every member is optional.
//!
//! It is written by whoever writes the machine's Ignition config. Members that this pin does not know are
//! ignored, as the older pin does, but their names are kept so that the caller can warn: a setting that
//! looks effective and is not is worse than none.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::error::{Fault, Subject};
use crate::fields::{self, Cert, NumRetries, Server};
use crate::json::{self, Members};
use crate::{Purpose, SecretRequest};

/// What the pin was configured with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// KBS servers in order of preference; empty: the agent's own.
    pub servers: Vec<Server>,
    /// Resource path, may contain `{node}`; `None`: the agent's own.
    pub path: Option<String>,
    /// Init-data as TOML text.
    pub init_data: Option<String>,
    /// Stored in the token for the older pin.
    pub num_retries: Option<NumRetries>,
    /// Stored in the token for the older pin.
    pub attestation_key: Option<Map<String, Value>>,
    /// Names of members that were ignored, escaped for printing: warn about these.
    pub unknown: Vec<String>,
}

impl Config {
    /// Reads the CONFIG argument.
    ///
    /// # Errors
    ///
    /// [`Fault::TooLarge`] above [`MAX_CONFIG`] bytes, else [`Fault::Config`] with the member's name.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > MAX_CONFIG {
            return Err(Fault::TooLarge {
                what: Subject::Config,
                length: text.len(),
                limit: MAX_CONFIG,
            });
        }
        let object = json::parse_object(text.as_bytes()).map_err(Fault::Config)?;
        Self::from_members(&Members::new("", &object)).map_err(Fault::Config)
    }

    /// What this configuration asks of a [`crate::SecretSource`].
    pub fn request(&self) -> SecretRequest<'_> {
        SecretRequest {
            purpose: Purpose::Encrypt,
            servers: &self.servers,
            path: self.path.as_deref(),
            init_data: self.init_data.as_deref(),
            num_retries: self.num_retries,
            attestation_key: self.attestation_key.as_ref(),
            cfg: None,
            kid: None,
        }
    }

    fn from_members(members: &Members<'_>) -> Result<Self, String> {
        let (servers, unknown_in_servers) = fields::servers(members, Cert::Required)?;
        Ok(Self {
            servers,
            path: fields::printable(members, "path")?.map(str::to_owned),
            init_data: members.string("initdata")?.map(init_data).transpose()?,
            num_retries: fields::num_retries(members)?,
            attestation_key: fields::attestation_key(members)?,
            unknown: members.unknown(&KNOWN).chain(unknown_in_servers).collect(),
        })
    }
}

/// Init-data as TOML text, from either of the two forms that a configuration may hold.
///
/// The older pin takes the `data` table as the text of a JSON object and renders the TOML itself; so do we,
/// with the keys in order, because a verifier compares the digest of the text and two bindings of one
/// configuration must agree. TOML text is kept byte for byte.
fn init_data(text: &str) -> Result<String, String> {
    if text.trim_start().starts_with('{') {
        let data = json::parse_object(text.as_bytes()).map_err(|e| format!("`initdata`: {e}"))?;
        return render_init_data(&data);
    }
    let says_version = |line: &str| line.trim_start().starts_with("version");
    if text.lines().any(says_version) {
        Ok(text.to_owned())
    } else {
        Err("`initdata` has no line `version = ...`, expected init-data as TOML text, or its data table as the text of a JSON object".to_owned())
    }
}

fn render_init_data(data: &Map<String, Value>) -> Result<String, String> {
    let sorted: BTreeMap<&String, &Value> = data.iter().collect();
    let mut toml = String::from("version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n");
    for (key, value) in sorted {
        let Value::String(value) = value else {
            return Err(format!(
                "`initdata`: member {} is {}, expected a string",
                json::quoted(key),
                json::kind(value)
            ));
        };
        // Writing to a `String` cannot fail.
        let _ = writeln!(toml, "{} = {}", toml_string(key), toml_string(value));
    }
    Ok(toml)
}

/// A TOML basic string (TOML 1.0, "String"): JSON's escapes are among its own, but it wants DEL escaped too.
fn toml_string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The longest configuration, in bytes: what Linux allows for one argument.
pub const MAX_CONFIG: usize = 128 * 1024;

const KNOWN: [&str; 5] = [
    "servers",
    "path",
    "initdata",
    "num_retries",
    "attestation_key",
];

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::{Config, MAX_CONFIG};
    use crate::error::{Fault, Subject};
    use crate::fields::{NumRetries, Server};

    #[test]
    fn an_empty_object_leaves_everything_to_the_agent() {
        let config = Config::parse(" {}\n").unwrap();
        assert!(config.servers.is_empty() && config.unknown.is_empty());
        assert_eq!(config.path, None);
        assert_eq!(config.init_data, None);
        assert_eq!(config.num_retries, None);
        assert_eq!(config.attestation_key, None);
    }

    #[test]
    fn every_member_is_read_and_others_are_named() {
        let config = Config::parse(
            r#"{"servers":[{"url":"https://a:1","cert":"x","zap":1}],"path":"default/{node}/root",
                "num_retries":3,"attestation_key":{"registration":{"uuid":"u"}},"colour":"blue"}"#,
        )
        .unwrap();
        assert_eq!(
            config.servers,
            [Server {
                url: "https://a:1".into(),
                cert: "x".into()
            }]
        );
        assert_eq!(config.path.as_deref(), Some("default/{node}/root"));
        assert_eq!(
            config.num_retries,
            Some(NumRetries::Count(3.try_into().unwrap()))
        );
        assert_eq!(
            serde_json::to_string(&config.attestation_key).unwrap(),
            r#"{"registration":{"uuid":"u"}}"#
        );
        assert_eq!(config.unknown, [r#""colour""#, r#"servers[0]."zap""#]);
    }

    #[test]
    fn a_json_object_becomes_the_toml_that_the_kbs_protocol_describes() {
        let config = Config::parse(r#"{"initdata":"{\"node\":\"n1\"}"}"#).unwrap();
        let toml = config.init_data.unwrap();
        let digest: String = Sha256::digest(&toml)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            digest,
            "e9e79ce915a72cd2970b70ed352be5e674da829ec3e0cebbbb930b5061dafc52"
        );
    }

    #[test]
    fn rendered_init_data_is_ordered_and_escaped() {
        let config =
            Config::parse(r#"{"initdata":"{\"b\":\"q\\\"\\n\\u007f\",\"a k\":\"é\"}"}"#).unwrap();
        assert_eq!(
            config.init_data.unwrap(),
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"a k\" = \"é\"\n\"b\" = \"q\\\"\\n\\u007f\"\n"
        );
    }

    #[test]
    fn toml_text_is_kept_byte_for_byte() {
        let text = "# ours\nversion = '0.1.0'\nalgorithm = 'sha256'\n[data]\n\n";
        let config = Config::parse(&serde_json::json!({ "initdata": text }).to_string()).unwrap();
        assert_eq!(config.init_data.as_deref(), Some(text));
    }

    #[test]
    fn the_size_limit_holds_to_the_byte() {
        let padded = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
        assert!(Config::parse(&padded(MAX_CONFIG)).is_ok());
        assert_eq!(
            Config::parse(&padded(MAX_CONFIG + 1)),
            Err(Fault::TooLarge {
                what: Subject::Config,
                length: MAX_CONFIG + 1,
                limit: MAX_CONFIG
            })
        );
    }
}
