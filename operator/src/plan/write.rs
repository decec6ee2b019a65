// SPDX-License-Identifier: Apache-2.0

//! One change of a KBS, as its admin API knows it.

use super::Entries;
use crate::model::{RUNTIME, SecretId};
use kbs_protocol::resource::ResourcePath;
use std::fmt;

/// One change. Contains no secret: whoever carries it out looks the [`SecretId`] up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Store a secret.
    Resource {
        /// Where.
        path: ResourcePath,
        /// Which.
        secret: SecretId,
    },
    /// Forget a secret. That it is not there is success.
    DeleteResource {
        /// Where.
        path: ResourcePath,
    },
    /// Replace a reference value. The API cannot remove one; an empty value matches as little as none.
    ReferenceValue {
        /// Its name.
        name: String,
        /// All of its new content.
        value: Entries,
    },
    /// Replace an attestation policy.
    AttestationPolicy {
        /// Under which id.
        id: &'static str,
        /// Rego.
        text: &'static str,
    },
    /// Replace the resource policy.
    ResourcePolicy {
        /// Rego.
        text: &'static str,
    },
}

impl fmt::Display for Write {
    /// One line for a person who is asked whether to go ahead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource { path, .. } if path.as_str().ends_with(".vk") => {
                write!(f, "record the volume key at {path}")
            }
            Self::Resource { path, .. } if path.segments().next() == Some(RUNTIME) => {
                write!(f, "store {path}")
            }
            Self::Resource { path, secret } => write!(f, "store secret {:?} at {path}", secret.0),
            Self::DeleteResource { path } => write!(f, "delete {path}"),
            Self::ReferenceValue { name, value } if value.is_empty() => {
                write!(f, "empty reference value {name}")
            }
            Self::ReferenceValue { name, value } => {
                write!(f, "set reference value {name} to {} entries", value.len())
            }
            Self::AttestationPolicy { id, .. } => write!(f, "upload attestation policy {id}"),
            Self::ResourcePolicy { text } if *text == crate::policy::DENY_ALL => {
                f.write_str("close: upload a resource policy that denies everything")
            }
            Self::ResourcePolicy { .. } => f.write_str("open: upload the resource policy"),
        }
    }
}
