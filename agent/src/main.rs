// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent`: proves to a Trustee KBS what this machine booted, and opens its disks with the secret
//! that comes back.
//!
//! The whole way of a secret, from power-on to an open disk, reads like this:
//!
//! 1. [`trustee_agent::config`] reads the trust anchors that were measured with the initramfs;
//! 2. [`trustee_agent::evidence`] gets the TPM or TEE ready and derives this node's id from its key;
//! 3. [`trustee_agent::kbs`] asks a server for a challenge, has it signed, and fetches the node's secret;
//! 4. [`trustee_agent::source`] checks that the secret is for this node and hands it to the Clevis pin;
//! 5. [`trustee_agent::commands`] does this for a person or a unit, and says what went wrong if it did.
//!
//! Installed once more under the names `clevis-encrypt-trustee` and `clevis-decrypt-trustee`, the same
//! program is the Clevis pin: no other process ever sees a secret.

use std::process::ExitCode;

fn main() -> ExitCode {
    trustee_agent::harden::process();
    trustee_agent::commands::run(std::env::args_os())
}
