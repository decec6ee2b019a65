// SPDX-License-Identifier: Apache-2.0

//! The words that a node measures when it leaves its initramfs: the agent extends a register by them, and whoever
//! approves boots computes from them what a sealed node shows. In PCR 11 it is the digest of the words that is extended,
//! as systemd does it (systemd-pcrphase.service(8)); in RTMR 3 of a TD too, with SHA-384.

/// What the agent measures.
pub const LEAVE: &str = "trustee:leave-initrd";

/// What systemd measures there, on a unified kernel image.
pub const SYSTEMD_LEAVE: &str = "leave-initrd";

/// What systemd measures afterwards, on a unified kernel image, until the system is up.
pub const SYSTEMD_LATER: [&str; 2] = ["sysinit", "ready"];
