// SPDX-License-Identifier: Apache-2.0

//! The node's Ignition config as the KBS gives it to this node alone: what may be in it, and where Ignition
//! finds it.
//!
//! Left to itself, Ignition takes its config from the platform: a metadata service, a config drive, the
//! firmware's variables. All of them are the host. Here the config comes out of an attestation like a disk's
//! key: [`ignition_config`] makes sure that nothing in it is fetched from elsewhere without a digest, and [`Places`] that
//! Ignition takes it and nobody's but it. `trustee-agent fetch-config` calls both.
//!
//! The config is a secret: it may hold keys. No message quotes it.

mod error;
mod places;

pub use error::IgnitionError;
pub use places::Places;
