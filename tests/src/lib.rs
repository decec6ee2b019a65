// SPDX-License-Identifier: Apache-2.0
//! Harness parts for the black-box tests, the demo and the benchmark. All three build the same small
//! [`world::World`] (software TPM, laboratory KBS, one node) and drive the real programs from outside.
//!
//! Nothing here is shipped to a node, and nothing here is linked into what is.

// Sizes, durations and counters of a test run; no foreign bytes are parsed with these.
#![allow(clippy::arithmetic_side_effects)]

pub mod administrator;
pub mod clevis;
pub mod cluster;
pub mod document;
pub mod key_socket;
pub mod lab;
pub mod leash;
pub mod luks;
pub mod node_root;
pub mod paths;
pub mod process;
pub mod proxy;
pub mod pty;
pub mod registrar;
pub mod scan;
pub mod settings;
pub mod swtpm;
pub mod watch;
pub mod world;
