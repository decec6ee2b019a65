// SPDX-License-Identifier: Apache-2.0

//! One object with a `source`: whether what it names is pinned.

use super::Error;
use super::check::read;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Something that Ignition would read from elsewhere, or out of the config itself (RFC 2397).
pub(super) struct Reference<'r> {
    pub(super) source: &'r str,
    pub(super) hash: Option<&'r str>,
    pub(super) compression: Option<&'r str>,
    /// For messages.
    pub(super) place: String,
    /// Whether it is a config, which can name sources of its own.
    pub(super) is_config: bool,
}

impl Reference<'_> {
    /// # Errors
    /// It is somewhere else without a digest; or it is a config that cannot be looked into from here.
    pub(super) fn check(self) -> Result<(), Error> {
        // Ignition takes an empty text for none.
        if self.source.is_empty() {
            return Ok(());
        }
        let Some(data) = strip_data(self.source) else {
            return match self.is_config {
                true => Err(Error::Elsewhere { place: self.place }),
                false => self.check_digest(),
            };
        };
        if !self.is_config {
            return Ok(());
        }
        let compressed = self.compression.is_some_and(|kind| !kind.is_empty());
        match decode(data).filter(|_| !compressed) {
            Some(text) => read(&text, &self.place).map(drop),
            None => Err(Error::Opaque { place: self.place }),
        }
    }

    /// `sha512-` or `sha256-` and as many hexadecimal digits as the digest has.
    fn check_digest(self) -> Result<(), Error> {
        let hash = self.hash.unwrap_or_default();
        let digest = DIGESTS
            .iter()
            .find_map(|(name, length)| Some((hash.strip_prefix(name)?, *length)));
        match digest {
            Some((digits, length))
                if digits.len() == length && digits.bytes().all(|c| c.is_ascii_hexdigit()) =>
            {
                Ok(())
            }
            _ => Err(Error::Unpinned { place: self.place }),
        }
    }
}

/// A member's name as Go's JSON library compares it: without regard to case, which for Unicode takes in the
/// long s and, by lower case, the Kelvin sign.
pub(super) fn fold(name: &str) -> String {
    name.to_lowercase().replace('ſ', "s")
}

fn strip_data(source: &str) -> Option<&str> {
    let (scheme, rest) = source.split_once(':')?;
    scheme.eq_ignore_ascii_case("data").then_some(rest)
}

/// What a data URL holds. `None` also for what another reader may understand in another way.
fn decode(data: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (kind, content) = data.split_once(',')?;
    if kind.contains(['"', '%']) {
        return None;
    }
    match kind.strip_suffix(";base64") {
        Some(_) => STANDARD.decode(content).ok().map(Zeroizing::new),
        None => percent_decoded(content),
    }
}

fn percent_decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, others) = rest.split_at_checked(2)?;
        rest = others;
        let digits = std::str::from_utf8(digits).ok()?;
        // `from_str_radix` would take a sign as well.
        if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    Some(bytes)
}

/// What `verification.hash` may be, and how many digits it has.
const DIGESTS: [(&str, usize); 2] = [("sha512-", 128), ("sha256-", 64)];
