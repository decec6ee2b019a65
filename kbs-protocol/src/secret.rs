// SPDX-License-Identifier: Apache-2.0

//! Bytes that must not be seen: the one type through which a secret moves in this project.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Secret bytes, wiped when dropped.
///
/// There is deliberately no `Debug`, `Display`, `Clone`, `PartialEq` or `Serialize`: a secret is looked at
/// only where the code says [`Secret::expose`], which is easy to search for.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes over the bytes. The vector's buffer itself becomes the secret: nothing is copied.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(std::mem::take(&mut *bytes))
    }
}
