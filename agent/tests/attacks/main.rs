// SPDX-License-Identifier: Apache-2.0

//! What a hostile host does to a node's disk, one file an attack: each shows what the node says, and that its secret was
//! not sent, or not used. The table is in `docs/threat-model.md`, with the attacks that other tests and whole machines
//! show. Each row begins with what works, so that what does not work fails for the one reason it is about.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

mod another_path;
mod area_overflow;
mod cleared_seal;
mod emergency_shell;
mod first_boot_again;
mod foreign_token_first;
mod kdf_bomb;
mod null_cipher_in_keyslot;
mod null_cipher_in_segment;
mod old_header;
mod old_volume;
mod own_kbs_in_token;
mod reencryption;
mod refetch_after_boot;
mod scene;
mod second_digest;
mod swapped_copies;
