// SPDX-License-Identifier: Apache-2.0

//! The whole decision about a confidential machine: evidence over HTTP, the verifier, the operator's policies, the
//! secret. Good evidence of each kind of processor gets it; evidence with one thing wrong gets nothing, for the reason
//! that is wrong, and the server goes on.
//!
//! Most of what can be wrong inside a report, a quote or a certificate is counted beside the verifier
//! (`src/verifier/tests`). Here is what takes a handshake: two sources together, sessions, init-data, and what a
//! policy decides about evidence that is genuine.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unreachable,
    clippy::print_stdout,
    unreachable_pub,
    reason = "in a test a panic is the report"
)]

mod azure;
#[path = "../common/mod.rs"]
mod common;
mod init_data;
mod policy;
mod two_sources;
mod world;
