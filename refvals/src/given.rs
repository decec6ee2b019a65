// SPDX-License-Identifier: Apache-2.0

//! What an option names: a file, or bytes that the caller has at hand, such as a Secret of Kubernetes, which is to touch
//! no disk.

use crate::Error;
use kbs_protocol::Secret;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A document that is read when it is needed, and the setting that named it.
#[derive(Clone)]
pub struct Given {
    content: Content,
    setting: Option<&'static str>,
}

#[derive(Clone)]
enum Content {
    File(PathBuf),
    /// With what messages call them.
    Bytes(String, Arc<Secret>),
}

impl Given {
    /// Bytes, and what messages call them.
    pub fn bytes(name: impl Into<String>, bytes: Secret) -> Self {
        Content::Bytes(name.into(), Arc::new(bytes)).into()
    }

    /// The setting to correct when something is wrong with it: an option, or a field of a file or object.
    #[must_use]
    pub fn by(self, setting: &'static str) -> Self {
        Self {
            setting: Some(setting),
            ..self
        }
    }

    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        match &self.content {
            Content::File(path) => std::fs::read(path)
                .map(Zeroizing::new)
                .map_err(Error::io("read", path)),
            Content::Bytes(_, bytes) => Ok(Zeroizing::new(bytes.expose().to_vec())),
        }
    }
}

impl From<Content> for Given {
    fn from(content: Content) -> Self {
        Self {
            content,
            setting: None,
        }
    }
}

impl From<PathBuf> for Given {
    fn from(path: PathBuf) -> Self {
        Content::File(path).into()
    }
}

impl From<&Path> for Given {
    fn from(path: &Path) -> Self {
        Content::File(path.to_owned()).into()
    }
}

/// What it is called, and who named it.
impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::File(path) => path.display().fmt(f)?,
            Content::Bytes(name, _) => f.write_str(name)?,
        }
        match self.setting {
            Some(setting) => write!(f, " ({setting})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
