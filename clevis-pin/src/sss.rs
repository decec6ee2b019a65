// SPDX-License-Identifier: Apache-2.0

//! A token as it lies on a disk: of this pin, or of the pin `sss` around it.
//!
//! Ignition before 2.26 knows no pin `trustee`, so its volumes carry `sss` with the threshold 1 and this pin inside.
//! Clevis' `sss` shares a key with a polynomial of degree `t` - 1 over a prime field; each child token carries a
//! point of it, 32 bytes x and 32 bytes y, big-endian. With `t` = 1 the polynomial is a constant: y of any one
//! child is the key itself. More is not read here: with a higher threshold other pins have a say, and the
//! command `clevis` is there for those.

use crate::error::{Error, Fault};
use crate::header::Header;
use crate::json::{self, Members, quoted};
use crate::jwe::{CompactJwe, MAX_TOKEN, Parts, segment, segments};
use crate::secret::{Cek, Plaintext};
use crate::{Fetched, SecretSource};
use serde_json::Value;

/// A token that this pin can open by itself.
pub struct Token<'a> {
    /// What `sss` encrypted, if it is around.
    outer: Option<Parts<'a>>,
    /// The token of this pin, compact.
    own: Vec<u8>,
    header: Header,
}

impl<'a> Token<'a> {
    /// Reads a compact token.
    ///
    /// # Errors
    ///
    /// [`Fault::TokenForeign`] if neither it nor a child of it is for this pin, or if `sss` wants more than one
    /// child; else as [`CompactJwe::parse`].
    pub fn parse(token: &'a [u8]) -> Result<Self, Fault> {
        let parts = segments(token)?;
        let [protected, ..] = parts;
        let Some(child) = child_of_sss(&segment("header", protected)?)? else {
            let header = CompactJwe::parse(token)?.header().clone();
            let own = token.to_vec();
            return Ok(Self {
                outer: None,
                own,
                header,
            });
        };
        let header = CompactJwe::parse(&child)?.header().clone();
        Ok(Self {
            outer: Some(Parts::parse(parts)?),
            own: child,
            header,
        })
    }

    /// What the token of this pin says. Not authenticated.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// As [`crate::decrypt`].
    pub fn open<S: SecretSource>(self, source: &mut S) -> Result<Plaintext, Error<S::Error>> {
        let Fetched { cek, .. } = source
            .fetch(&self.header.request())
            .map_err(Error::Source)?;
        self.header.check_key(&cek)?;
        let inner = CompactJwe::parse(&self.own)?.open(&cek)?;
        match self.outer {
            None => Ok(inner),
            Some(outer) => Ok(outer.open(&key_of_share(&inner)?)?),
        }
    }
}

/// The token of this pin inside a header of `sss`; `None` if the header is not of `sss`.
fn child_of_sss(header: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let object = json::parse_object(header).map_err(|e| malformed(&format!("header: {e}")))?;
    let top = Members::new("", &object);
    let Some(clevis) = top.object("clevis").map_err(|e| malformed(&e))? else {
        return Ok(None);
    };
    if clevis.get("pin").and_then(Value::as_str) != Some("sss") {
        return Ok(None);
    }
    let members = Members::new("clevis", clevis);
    let sss = members.object("sss").map_err(|e| malformed(&e))?;
    let sss = Members::new(
        "clevis.sss",
        sss.ok_or_else(|| malformed("`clevis.sss` is missing"))?,
    );
    if sss.get("t").and_then(Value::as_u64) != Some(1) {
        return Err(Fault::TokenForeign(
            "it is of the pin sss with a threshold other than 1".to_owned(),
        ));
    }
    for name in ["crit", "zip"] {
        if top.contains(name) {
            return Err(Fault::Algorithm(format!("`{name}` is present")));
        }
    }
    for (name, expected) in [("alg", "dir"), ("enc", "A256GCM")] {
        let found = top
            .string(name)
            .map_err(|e| malformed(&e))?
            .unwrap_or_default();
        if found != expected {
            return Err(Fault::Algorithm(format!(
                "`{name}` is {}, expected {expected:?}",
                quoted(found)
            )));
        }
    }
    let children = sss.list("jwe").map_err(|e| malformed(&e))?;
    let texts = children.into_iter().flatten().filter_map(Value::as_str);
    // Where several are ours, the first: each is as good as any.
    texts
        .map(str::as_bytes)
        .find(|text| text.len() <= MAX_TOKEN && CompactJwe::parse(text).is_ok())
        .map(|text| Some(text.to_vec()))
        .ok_or_else(|| {
            Fault::TokenForeign("it is of the pin sss, around no token of this pin".to_owned())
        })
}

/// The key that a point of a constant polynomial is.
fn key_of_share(share: &Plaintext) -> Result<Cek, Fault> {
    match share.expose().split_first_chunk::<{ Cek::LENGTH }>() {
        Some((_, y)) => y.try_into().map(Cek::new).map_err(|_| not_a_share()),
        None => Err(not_a_share()),
    }
}

fn not_a_share() -> Fault {
    malformed("it carries no share of 64 bytes")
}

fn malformed(detail: &str) -> Fault {
    Fault::TokenMalformed(detail.to_owned())
}
