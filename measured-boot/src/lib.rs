// SPDX-License-Identifier: Apache-2.0

//! From a bootable image to the PCR values that its machines will show, through every update.
//!
//! A machine that boots with a TPM measures what it runs: firmware, shim, GRUB or systemd-stub extend PCRs
//! with digests of programs, keys and settings. A verifier that wants to compare these PCRs with something
//! must know them before the machine boots. This crate computes them from three documents, and never from a
//! machine:
//!
//! 1. [`facts::ImageFacts`]: what the image says. Programs with their digests and signatures ([`pe`],
//!    [`signature`]), the keys that shim brings along ([`facts::ShimFacts`]), the sections of a unified
//!    kernel image;
//! 2. [`platform::PlatformFacts`]: what the firmware's variables say: Secure Boot's keys and revocations,
//!    the owner's keys;
//! 3. [`path::BootPath`]: who starts whom, and what happens on the way.
//!
//! From these:
//!
//! * [`predict::predict`] gives the events of a boot in order, and their PCRs in any [`bank::Bank`];
//! * [`combine::combine`] gives the tuples that a fleet can show while it is updated;
//! * [`explain::explain`] holds the log of a machine ([`eventlog::EventLog`]) against a prediction and
//!   names the first difference in words;
//! * [`calibrate::calibrate`] reads from that log what is a property of the machine and its boot loader.
//!
//! What was never seen on a machine is marked ([`predict::Prediction::unobserved`]), and what is not
//! modelled is an error: a wrong reference value locks a machine out, or lets one in.
//!
//! Everything here is a function of bytes: no file, no socket, no clock, no log. Parsers take bytes from
//! strangers; each has a size limit, returns a typed error with structure and offset, and never panics.

pub mod authority;
pub mod bank;
pub mod bytes;
pub mod calibrate;
pub mod certificate;
pub mod combine;
pub mod error;
pub mod eventlog;
pub mod explain;
pub mod facts;
pub mod grub;
pub mod image;
pub mod path;
pub mod pe;
pub mod platform;
pub mod predict;
pub mod replay;
pub mod rtmr;
pub mod sbat;
pub mod signature;
pub mod uefi;
mod uki;

pub use error::Error;
