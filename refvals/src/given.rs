// SPDX-License-Identifier: Apache-2.0

//! What an option names: a file, or bytes that the caller has at hand, such as a Secret of Kubernetes, which is to touch
//! no disk.

use crate::Error;
use kbs_protocol::Secret;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A document that is read when it is needed.
#[derive(Clone)]
pub enum Given {
    /// This file.
    File(PathBuf),
    /// These bytes, and what messages call them.
    Bytes(String, Arc<Secret>),
}

impl Given {
    /// Bytes, and what messages call them.
    pub fn bytes(name: impl Into<String>, bytes: Secret) -> Self {
        Self::Bytes(name.into(), Arc::new(bytes))
    }

    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        match self {
            Self::File(path) => std::fs::read(path)
                .map(Zeroizing::new)
                .map_err(Error::io("read", path)),
            Self::Bytes(_, bytes) => Ok(Zeroizing::new(bytes.expose().to_vec())),
        }
    }
}

impl From<PathBuf> for Given {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for Given {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

/// What it is called.
impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Bytes(name, _) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
