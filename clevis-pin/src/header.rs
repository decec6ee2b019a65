// SPDX-License-Identifier: Apache-2.0

//! The protected header of a token: what it says about the pin, the servers, the path and the key.
//!
//! ```json
//! {"alg":"dir","enc":"A256GCM",
//!  "clevis":{"pin":"trustee",
//!            "servers":[{"url":"https://kbs.example:8080","cert":""}],
//!            "path":"default/NODE/root",
//!            "trustee":{"v":1,"cfg":"<SHA-256, hex>","kid":"<base64url>"}}}
//! ```
//!
//! The flat members are those of the older upstream pin, so that either can open the other's tokens;
//! `initdata`, `num_retries` and `attestation_key` are there when they were configured. The object `trustee`
//! is ours; it also makes `clevis luks list` and `clevis luks report` show the pin.

use serde::Serialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use crate::config::Config;
use crate::error::{Fault, Subject};
use crate::fields::{self, Cert, NumRetries, Server};
use crate::json::{self, Members, quoted};
use crate::jwe::{decode_b64u, encode_b64u};
use crate::secret::Cek;
use crate::{Binding, Purpose, SecretRequest};

/// What a token says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// KBS servers, in order of preference.
    pub servers: Vec<Server>,
    /// The path the key was read from.
    pub path: String,
    /// Init-data as TOML text, byte for byte as it was sent.
    pub init_data: Option<String>,
    /// Of use to the older pin only.
    pub num_retries: Option<NumRetries>,
    /// Of use to the older pin only.
    pub attestation_key: Option<Map<String, Value>>,
    /// Our own part; absent in tokens of the older pin.
    pub trustee: Option<Trustee>,
}

/// The part of the header that only this pin writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trustee {
    /// SHA-256 of the configuration that the key source ran with when the token was made.
    pub cfg: [u8; 32],
    /// Tells keys apart without telling anything about them: [`Cek::id`].
    pub kid: [u8; 16],
}

impl Header {
    /// The header of a new token.
    pub fn new(config: &Config, binding: Binding, cek: &Cek) -> Self {
        Self {
            servers: binding.servers,
            path: binding.path,
            init_data: binding.init_data,
            num_retries: config.num_retries,
            attestation_key: config.attestation_key.clone(),
            trustee: Some(Trustee {
                cfg: binding.cfg,
                kid: cek.id(),
            }),
        }
    }

    /// Reads the JSON text of a protected header. Any order of members; unknown ones are ignored.
    ///
    /// # Errors
    ///
    /// [`Fault::TokenForeign`] if it names another pin or a later version, [`Fault::Algorithm`] for anything
    /// but `dir` with `A256GCM`, [`Fault::TokenMalformed`] for the rest.
    pub fn parse(text: &[u8]) -> Result<Self, Fault> {
        let object = json::parse_object(text).map_err(|e| malformed(format!("header: {e}")))?;
        let top = Members::new("", &object);
        let clevis = top.object("clevis").map_err(malformed)?;
        let clevis = clevis.ok_or_else(|| foreign("the header has no `clevis`"))?;
        let clevis = Members::new("clevis", clevis);
        check_pin(&clevis)?;
        check_algorithms(&top)?;
        Ok(Self {
            servers: fields::servers(&clevis, Cert::MayBeAbsent)
                .map_err(malformed)?
                .0,
            path: fields::printable(&clevis, "path")
                .and_then(|path| clevis.required("path", path))
                .map_err(malformed)?
                .to_owned(),
            init_data: clevis
                .string("initdata")
                .map_err(malformed)?
                .map(str::to_owned),
            num_retries: fields::num_retries(&clevis).map_err(malformed)?,
            attestation_key: fields::attestation_key(&clevis).map_err(malformed)?,
            trustee: match clevis.object("trustee").map_err(malformed)? {
                Some(ours) => Some(Trustee::parse(&Members::new("clevis.trustee", ours))?),
                None => None,
            },
        })
    }

    /// The JSON text of the protected header.
    ///
    /// # Errors
    ///
    /// [`Fault::TooLarge`] above [`MAX_HEADER`] bytes: the LUKS2 metadata area has no room for more.
    pub fn to_json(&self) -> Result<String, Fault> {
        let written = Written {
            alg: ALG,
            enc: ENC,
            clevis: WrittenClevis {
                pin: PIN,
                servers: &self.servers,
                path: &self.path,
                initdata: self.init_data.as_deref(),
                num_retries: self.num_retries,
                attestation_key: self.attestation_key.as_ref(),
                trustee: self.trustee.as_ref().map(|ours| WrittenTrustee {
                    v: VERSION,
                    cfg: hex(&ours.cfg),
                    kid: encode_b64u(&ours.kid),
                }),
            },
        };
        let text = serde_json::to_string(&written).map_err(|e| malformed(e.to_string()))?;
        if text.len() > MAX_HEADER {
            return Err(Fault::TooLarge {
                what: Subject::Header,
                length: text.len(),
                limit: MAX_HEADER,
            });
        }
        Ok(text)
    }

    /// What this header asks of a [`crate::SecretSource`]. Nothing in it is authenticated yet.
    pub fn request(&self) -> SecretRequest<'_> {
        SecretRequest {
            purpose: Purpose::Decrypt,
            servers: &self.servers,
            path: Some(&self.path),
            init_data: self.init_data.as_deref(),
            num_retries: self.num_retries,
            attestation_key: self.attestation_key.as_ref(),
            cfg: self.trustee.as_ref().map(|ours| &ours.cfg),
            kid: self.trustee.as_ref().map(|ours| &ours.kid),
        }
    }

    /// Whether this is the key that the token was made with; says yes if the token does not tell.
    ///
    /// # Errors
    ///
    /// [`Fault::KidMismatch`]: a replaced secret in the KBS gets a better message than "does not open".
    pub fn check_key(&self, cek: &Cek) -> Result<(), Fault> {
        match &self.trustee {
            Some(ours) if !bool::from(ours.kid.ct_eq(&cek.id())) => Err(Fault::KidMismatch {
                path: self.path.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Trustee {
    fn parse(members: &Members<'_>) -> Result<Self, Fault> {
        let version = members.get("v");
        if version.and_then(Value::as_u64) != Some(VERSION) {
            let found = version.map_or_else(|| "nothing".to_owned(), |v| quoted(&v.to_string()));
            return Err(foreign(&format!(
                "{} is {found}, this program reads version {VERSION}",
                members.at("v")
            )));
        }
        let cfg = members.string("cfg").map_err(malformed)?.and_then(unhex);
        let kid = members
            .string("kid")
            .map_err(malformed)?
            .and_then(decode_kid);
        match (cfg, kid) {
            (Some(cfg), Some(kid)) => Ok(Self { cfg, kid }),
            (None, _) => Err(malformed(format!(
                "{} is not 64 lower-case hexadecimal digits",
                members.at("cfg")
            ))),
            (_, None) => Err(malformed(format!(
                "{} is not 16 bytes of base64url",
                members.at("kid")
            ))),
        }
    }
}

fn check_pin(clevis: &Members<'_>) -> Result<(), Fault> {
    match clevis.string("pin").map_err(malformed)? {
        Some(PIN) => Ok(()),
        Some(other) => Err(foreign(&format!("it names the pin {}", quoted(other)))),
        None => Err(foreign("it names no pin")),
    }
}

/// One algorithm and no options. `crit` must not be ignored (RFC 7516 section 4.1.13); `zip` would let a
/// small token become a large plaintext.
fn check_algorithms(top: &Members<'_>) -> Result<(), Fault> {
    for (name, expected) in [("alg", ALG), ("enc", ENC)] {
        let found = top.string(name).map_err(malformed)?;
        let found = top.required(name, found).map_err(malformed)?;
        if found != expected {
            return Err(Fault::Algorithm(format!(
                "`{name}` is {}, expected {expected:?}",
                quoted(found)
            )));
        }
    }
    for name in ["crit", "zip"] {
        if top.contains(name) {
            return Err(Fault::Algorithm(format!("`{name}` is present")));
        }
    }
    Ok(())
}

fn malformed(detail: String) -> Fault {
    Fault::TokenMalformed(detail)
}

fn foreign(detail: &str) -> Fault {
    Fault::TokenForeign(detail.to_owned())
}

fn decode_kid(text: &str) -> Option<[u8; 16]> {
    decode_b64u(text.as_bytes())?.try_into().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // Writing it back refuses what the digits alone would let pass: signs, capitals, another length.
    (hex(&bytes) == text).then_some(bytes)
}

#[derive(Serialize)]
struct Written<'a> {
    alg: &'a str,
    enc: &'a str,
    clevis: WrittenClevis<'a>,
}

#[derive(Serialize)]
struct WrittenClevis<'a> {
    pin: &'a str,
    servers: &'a [Server],
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    initdata: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_retries: Option<NumRetries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation_key: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trustee: Option<WrittenTrustee>,
}

#[derive(Serialize)]
struct WrittenTrustee {
    v: u64,
    cfg: String,
    kid: String,
}

/// The longest header that is written, in bytes of JSON: a LUKS2 header of the usual size has 12 KiB for all
/// its metadata, and the token is stored in base64url.
pub const MAX_HEADER: usize = 4 * 1024;

const PIN: &str = "trustee";
const ALG: &str = "dir";
const ENC: &str = "A256GCM";
const VERSION: u64 = 1;
