// SPDX-License-Identifier: Apache-2.0

//! What may be in an Ignition config that a node takes out of an attestation: nothing that is fetched from
//! elsewhere without a digest. The operator asks before it stores a config, the agent before Ignition sees it.
//!
//! The config is a secret: it may hold keys. No message quotes it.

mod check;
mod error;
mod source;

pub use check::{Facts, check};
pub use error::Error;

/// The largest config, in bytes. A KBS answers with at most 2 MiB of encrypted base64.
pub const LIMIT: usize = 1024 * 1024;
