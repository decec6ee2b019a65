// SPDX-License-Identifier: Apache-2.0

//! The Clevis pin `trustee`, without its surroundings: what the pin's configuration says, what a token
//! says, and how one is made and opened. `trustee-agent` calls this; it supplies the key.
//!
//! Clevis runs `clevis-encrypt-trustee CONFIG` with a plaintext (a LUKS passphrase, or one share of an
//! `sss` secret) on standard input and stores the token it prints; later it feeds the token to
//! `clevis-decrypt-trustee` and reads the plaintext back. The token is a compact JWE (RFC 7516) whose
//! content key never leaves the KBS except to a machine that attested.
//!
//! ```text
//! encrypt:  CONFIG --Config::parse--> Config --SecretSource--> Cek --jwe::seal--> token --decrypt--> token
//! decrypt:  token --CompactJwe::parse--> Header --SecretSource--> Cek --CompactJwe::open--> Plaintext
//! ```
//!
//! No file, socket or TPM is touched here. What a token says about servers, path and certificates is
//! written by whoever owns the disk, so it reaches the [`SecretSource`] as a hint and never as an order.

pub mod command;
pub mod config;
pub mod error;
mod fields;
pub mod header;
mod json;
pub mod jwe;
mod secret;
mod sss;

use subtle::ConstantTimeEq;

pub use crate::config::Config;
pub use crate::error::{Error, Fault};
pub use crate::fields::{NumRetries, Server};
pub use crate::header::Header;
pub use crate::jwe::CompactJwe;
pub use crate::secret::{Cek, Plaintext};
pub use crate::sss::Token;

/// Makes a token that carries `plaintext` (1 byte to [`jwe::MAX_PLAINTEXT`], any bytes).
///
/// The key and what the token will say about its origin come from `source`. Before the token is returned it
/// is read and opened as at any later boot, with a key that is fetched anew for what the token says: Ignition
/// throws its own key away as soon as `clevis luks bind` returns, and a disk must not be locked with a token that
/// nobody can open.
///
/// # Errors
///
/// [`Error::Source`] when no key could be had, else [`Error::Fault`].
pub fn encrypt<S: SecretSource>(
    config: &Config,
    plaintext: &[u8],
    source: &mut S,
) -> Result<String, Error<S::Error>> {
    jwe::check_plaintext_length(plaintext)?;
    let Fetched { cek, binding } = source.fetch(&config.request()).map_err(Error::Source)?;
    let header = Header::new(config, binding, &cek);
    let token = jwe::seal(&header, plaintext, &cek)?;
    drop(cek);
    prove_it_opens(&token, &header, plaintext, source)?;
    Ok(token)
}

/// Opens a token made by [`encrypt`] or by the older upstream pin, and returns what it carries.
///
/// # Errors
///
/// [`Error::Source`] when no key could be had, else [`Error::Fault`]. A token that is malformed, foreign or
/// too large is refused before the source is asked.
pub fn decrypt<S: SecretSource>(
    token: &[u8],
    source: &mut S,
) -> Result<Plaintext, Error<S::Error>> {
    let token = CompactJwe::parse(token)?;
    let Fetched { cek, .. } = source
        .fetch(&token.header().request())
        .map_err(Error::Source)?;
    token.header().check_key(&cek)?;
    Ok(token.open(&cek)?)
}

/// Whoever can get the content key: the agent's KBS client, or a fixed key in a test.
///
/// ```
/// use clevis_pin::{Binding, Cek, Config, Fetched, SecretRequest, SecretSource, Server};
///
/// struct FixedKey;
///
/// impl SecretSource for FixedKey {
///     type Error = std::convert::Infallible;
///
///     fn fetch(&mut self, request: &SecretRequest<'_>) -> Result<Fetched, Self::Error> {
///         let binding = Binding {
///             servers: vec![Server { url: "https://kbs.example:8080".into(), cert: String::new() }],
///             path: "default/node/root".into(),
///             init_data: request.init_data.map(str::to_owned),
///             cfg: [0; 32],
///         };
///         Ok(Fetched { cek: Cek::new(&[7; 32]), binding })
///     }
/// }
///
/// let token = clevis_pin::encrypt(&Config::parse("{}")?, b"passphrase", &mut FixedKey)?;
/// let plaintext = clevis_pin::decrypt(token.as_bytes(), &mut FixedKey)?;
/// assert_eq!(plaintext.expose(), b"passphrase");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait SecretSource {
    /// Why no key could be had.
    type Error: std::error::Error + 'static;

    /// Fetches the content key for one token.
    ///
    /// # Errors
    ///
    /// Whatever stood between this machine and the key, a request outside the measured configuration included.
    fn fetch(&mut self, request: &SecretRequest<'_>) -> Result<Fetched, Self::Error>;
}

/// What the configuration (when encrypting) or the token (when decrypting) says about the key.
///
/// Every member is a hint. On decrypt it was read from the disk before anything was authenticated: the
/// source follows its own, measured configuration and uses these to notice a disagreement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SecretRequest<'a> {
    /// Which of the two operations asks.
    pub purpose: Purpose,
    /// KBS servers in order of preference; empty: not said.
    pub servers: &'a [Server],
    /// Resource path. In a configuration it may contain `{node}`; in a token it is the path that was used.
    pub path: Option<&'a str>,
    /// Init-data as TOML text, to be sent byte for byte (KBS protocol, init-data).
    pub init_data: Option<&'a str>,
    /// How often the older pin would try again.
    pub num_retries: Option<NumRetries>,
    /// The older pin's `attestation_key` object, as found.
    pub attestation_key: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// SHA-256 of the source's configuration when the token was made; `None` in the older pin's tokens.
    pub cfg: Option<&'a [u8; 32]>,
    /// Which key the token was made with ([`Cek::id`]); `None` in the older pin's tokens.
    pub kid: Option<&'a [u8; 16]>,
}

/// Why the key is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new token is being made.
    Encrypt,
    /// An existing token is being opened.
    Decrypt,
}

/// A key, and where it came from.
pub struct Fetched {
    /// The content encryption key.
    pub cek: Cek,
    /// What a new token will say about its origin. Not used on decrypt.
    pub binding: Binding,
}

/// Where a key came from, as the source decided: this, and not the configuration, goes into the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// KBS servers, in order of preference. `cert` is PEM text, or better a digest, or empty.
    pub servers: Vec<Server>,
    /// The path the key was read from, `{node}` filled in.
    pub path: String,
    /// The init-data that was sent, if any.
    pub init_data: Option<String>,
    /// SHA-256 of the source's configuration in a canonical form of its own choice.
    pub cfg: [u8; 32],
}

/// Opens a new token with nothing that is left from making it.
fn prove_it_opens<S: SecretSource>(
    token: &str,
    header: &Header,
    plaintext: &[u8],
    source: &mut S,
) -> Result<(), Error<S::Error>> {
    let unreadable = |cause: Fault| Fault::SelfCheck(cause.to_string());
    let read = CompactJwe::parse(token.as_bytes()).map_err(unreadable)?;
    if read.header() != header {
        return Err(unreadable(Fault::NotAuthentic).into());
    }
    let opened = match decrypt(token.as_bytes(), source) {
        Err(Error::Fault(Fault::KidMismatch { .. })) => return Err(Fault::TwoKeys.into()),
        Err(Error::Fault(cause)) => return Err(unreadable(cause).into()),
        opened => opened?,
    };
    match opened.expose().ct_eq(plaintext).into() {
        true => Ok(()),
        false => Err(unreadable(Fault::NotAuthentic).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Binding, Cek, Config, Error, Fault, Fetched, Header, SecretRequest, SecretSource, Server,
        jwe, prove_it_opens,
    };
    use std::convert::Infallible;

    struct Key(u8);

    impl SecretSource for Key {
        type Error = Infallible;

        fn fetch(&mut self, _: &SecretRequest<'_>) -> Result<Fetched, Infallible> {
            Ok(Fetched {
                cek: Cek::new(&[self.0; 32]),
                binding: binding("a/b/c"),
            })
        }
    }

    #[test]
    fn a_new_token_must_say_and_carry_what_was_meant() {
        let cek = Cek::new(&[1; 32]);
        let header = header("a/b/c", &cek);
        let token = jwe::seal(&header, b"x", &cek).unwrap();
        let check = |header, plaintext, key| {
            let Err(Error::Fault(fault)) = prove_it_opens(&token, header, plaintext, &mut Key(key))
            else {
                return None;
            };
            Some(fault)
        };
        assert_eq!(check(&header, b"x", 1), None);
        let changed = Fault::SelfCheck(Fault::NotAuthentic.to_string());
        assert_eq!(check(&header, b"y", 1), Some(changed.clone()));
        let other = self::header("a/b/d", &cek);
        assert_eq!(check(&other, b"x", 1), Some(changed));
        assert_eq!(check(&header, b"x", 2), Some(Fault::TwoKeys));
    }

    fn header(path: &str, cek: &Cek) -> Header {
        Header::new(&Config::parse("{}").unwrap(), binding(path), cek)
    }

    fn binding(path: &str) -> Binding {
        Binding {
            servers: vec![Server {
                url: "https://kbs".into(),
                cert: String::new(),
            }],
            path: path.into(),
            init_data: None,
            cfg: [0; 32],
        }
    }
}
