// SPDX-License-Identifier: Apache-2.0

//! The Trustee KBS protocol, version 0.4.0, as values: both ends of the wire use this crate.
//!
//! A handshake reads from top to bottom like this (RCAR: request, challenge, attestation, response):
//!
//! 1. the attester posts a [`message::Request`] and gets a [`message::Challenge`] with a nonce;
//! 2. it makes a [`tee_key::TeeKey`] for this handshake alone, hashes nonce and public key
//!    ([`runtime_data`]) and has the hash signed by its TPM or TEE ([`evidence`], [`tpm`]);
//! 3. it posts a [`message::Attestation`] and gets a token, whose content ([`ear`]) it reads for
//!    diagnostics only;
//! 4. it asks for a resource by [`resource::ResourcePath`] and opens the [`jwe::ResourceJwe`] that comes
//!    back with its key; what is inside is usually a [`resource_secret::ResourceSecret`];
//! 5. whatever the server refuses becomes a [`refusal::Refusal`] that names its owner and the next step.
//!
//! Before its first handshake a node proves to a registrar that its key lives in a known TPM: the messages
//! of that are in [`enroll`], the keys in [`tpm::public`]. When its volumes are made it says which keys they have: the
//! [`volume_record`]; when it leaves its initramfs it measures the words of [`seal`].
//!
//! This crate opens no file and no socket, runs no clock and logs nothing. Parsers take bytes from
//! strangers: each has a size limit, returns a typed error and never panics.

pub mod ear;
pub mod encoding;
pub mod enroll;
pub mod error;
pub mod evidence;
pub mod init_data;
pub mod jwe;
pub mod message;
pub mod node_id;
pub mod refusal;
pub mod resource;
pub mod resource_secret;
pub mod runtime_data;
pub mod seal;
pub mod secret;
pub mod tee;
pub mod tee_key;
pub mod tpm;
#[cfg(feature = "server")]
pub mod verify;
pub mod volume_record;

pub use error::{Blame, Error, Owner, Persistence};
pub use node_id::NodeId;
pub use secret::Secret;
pub use tee::Tee;
