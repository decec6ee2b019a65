// SPDX-License-Identifier: Apache-2.0

//! The agent as a library, so that tests can look at its parts. `main.rs` tells how they fit together.

pub mod cli;
pub mod clock;
pub mod cmdline;
pub mod commands;
pub mod config;
pub mod console;
pub mod error;
pub mod evidence;
pub mod exit;
pub mod explain;
pub mod generator;
pub mod guard;
pub mod harden;
pub mod hold;
pub mod ignition;
pub mod initramfs;
pub mod kbs;
pub mod key_socket;
pub mod measure;
pub mod node;
pub mod notify;
pub mod report;
pub mod seal;
pub mod source;
pub mod splash;
pub mod state;
pub mod trust;
pub mod unlock;
