// SPDX-License-Identifier: Apache-2.0

//! Random names and numbers of a handshake. Called by sessions.

use crate::wire_error::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand_core::RngCore as _;

/// 32 random bytes in padded base64: what a challenge carries.
pub(crate) fn nonce() -> Result<String, Refused> {
    bytes::<32>().map(|bytes| STANDARD.encode(bytes))
}

/// A random UUID (version 4, RFC 9562 section 5.4) without dashes: what the session cookie carries.
pub(crate) fn session_id() -> Result<String, Refused> {
    let id =
        (u128::from_be_bytes(bytes()?) & !(0xf << 76) & !(0b11 << 62)) | (4 << 76) | (0b10 << 62);
    Ok(format!("{id:032x}"))
}

fn bytes<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    rand_core::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| Refused::challenge("no random numbers from the operating system"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{nonce, session_id};

    #[test]
    fn forms() {
        assert_eq!(nonce().unwrap().len(), 44);
        assert_ne!(nonce().unwrap(), nonce().unwrap());
        let id = session_id().unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(&id[12..13], "4");
        assert!("89ab".contains(&id[16..17]), "{id}");
        assert_ne!(id, session_id().unwrap());
    }
}
