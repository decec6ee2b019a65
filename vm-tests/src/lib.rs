// SPDX-License-Identifier: Apache-2.0
//! Nodes that really boot: OVMF, a TPM, shim and GRUB or a unified kernel image, Debian's kernel, dracut, systemd,
//! Clevis, and a LUKS2 root that only the KBS can open. The stories are in `tests/`, one a file; `make vm-test`
//! runs them side by side (`src/bin/stories.rs`).
//!
//! ```text
//!   trees    Debian in a directory, made once: the toolbox (QEMU, OVMF, mkfs), the guest's root
//!   image    the guest's root with our files in it: an initramfs, a root file system
//!   chain    what the firmware starts and what that will measure, predicted before anything boots
//!   site     the laboratory KBS, the registrar, the administrator's directory, a maker of TPMs
//!   disk     ESP and root in a GPT, the root encrypted and bound
//!   stage    where most stories begin: a node with an encrypted root, switched off
//!   machine  QEMU and swtpm; its console, and a probe inside that answers questions
//! ```
//!
//! Everything a machine does is kept under `target/vm-test/STORY/`.

// Sizes, durations and counters of a test run; no foreign bytes are parsed with these.
#![allow(clippy::arithmetic_side_effects)]

pub mod accelerator;
pub mod cache;
pub mod chain;
pub mod console;
pub mod disk;
pub mod facts;
pub mod image;
pub mod inside;
pub mod machine;
pub mod node;
pub mod probe;
pub mod processor;
pub mod say;
pub mod site;
pub mod stage;
pub mod trees;
