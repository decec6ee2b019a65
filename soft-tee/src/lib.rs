// SPDX-License-Identifier: Apache-2.0

//! Confidential machines made of software, for tests: the formats are those of the hardware, the signatures
//! are real, and the roots vouch for nothing, so no verifier believes them unless a test tells it to.
//!
//! [`snp::Chip`] signs SEV-SNP reports under an ARK, ASK and VCEK of its own; [`tdx::Platform`] signs quotes
//! under a PCK chain of its own and brings the collateral that Intel would serve; [`tpm::SoftTpm`] signs quotes of PCRs,
//! [`hcl`] lays out what Azure's paravisor says of both.
//! [`configfs::Configfs`] serves reports through the files of the kernel's interface and counts how often it is asked,
//! [`guest_device::GuestDevice`] through the ioctl of older kernels,
//! [`rtmr::Rtmr3`] serves the register that a TD extends.
//!
//! No Trustee and no machine is needed, and none is imitated beyond its interface.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "part of tests: a panic is the report"
)]

pub mod configfs;
pub mod guest_device;
pub mod hcl;
pub mod rtmr;
pub mod snp;
pub mod tdx;
pub mod tpm;
mod x509;
