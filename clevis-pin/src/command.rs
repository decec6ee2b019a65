// SPDX-License-Identifier: Apache-2.0

//! The fixed texts of the two Clevis commands. The agent prints them.

/// The one line that `clevis-encrypt-trustee --summary` prints, so that `clevis` lists the pin.
/// `clevis-decrypt-trustee --summary` prints nothing and fails, so that it is not listed twice.
pub const SUMMARY: &str =
    "Encrypts with a key that a Trustee KBS gives only to an attested machine";

/// Printed to standard error, with exit status 2, when `clevis-encrypt-trustee` is called wrongly.
pub const ENCRYPT_USAGE: &str = r#"Usage: clevis encrypt trustee CONFIG [-y] < PLAINTEXT > JWE

Encrypts with a key that a Trustee KBS gives only to an attested machine.

CONFIG is a JSON object; {} uses what /etc/trustee/agent.toml says:

  servers          [{"url": "https://kbs:8080", "cert": ""}, ...], in order of preference
  path             "repository/type/tag" of the key in the KBS; may contain {node}; says which volume this
                   is where a node has several, such as "default/{node}/data"
  initdata         init-data: TOML text, or its data table as the text of a JSON object
  num_retries      a number from 1 up, or "infinity"; stored for the older pin
  attestation_key  an object; stored for the older pin

-y is accepted and changes nothing: this pin asks no questions.
"#;

/// Printed to standard error, with exit status 2, when `clevis-decrypt-trustee` is called wrongly.
pub const DECRYPT_USAGE: &str = "Usage: clevis decrypt < JWE > PLAINTEXT
";
