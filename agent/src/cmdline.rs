// SPDX-License-Identifier: Apache-2.0

//! The kernel command line, which belongs to the host: what on it would go round the attestation.
//!
//! The boot loader's entry lies unencrypted on the host's disk. Most of what can be written there is harmless or
//! shows in a register; some of it opens a shell in the initramfs, answers a passphrase prompt, replaces the
//! node's configuration or takes one of our units away. [`check`] finds these. The generator calls it before
//! anything is fetched, and a confidential node stops at the first word it returns.
//!
//! The kernel, systemd and dracut do not split the line in the same way, so an argument is looked at in every
//! reading that one of them may have ([`words`]).

mod rules;

use kbs_protocol::{Blame, Owner, Persistence};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// What the kernel was started with, and whether systemd was given more behind its back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    text: String,
    efi_options: bool,
}

impl CommandLine {
    /// A command line as `/proc/cmdline` shows it (kernel-parameters documentation; proc_cmdline(5)).
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            efi_options: false,
        }
    }

    /// Reads `proc/cmdline` below `root`, and looks for the EFI variable by which systemd before 258 takes further
    /// arguments that no boot loader shows (systemd-bless-boot and bootctl call it SystemdOptions).
    ///
    /// # Errors
    /// `proc/cmdline` cannot be read, or is longer than any kernel makes it.
    pub fn load(root: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(root.join("proc/cmdline"))?
            .take(LIMIT.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LIMIT {
            return Err(io::Error::other("longer than any kernel command line"));
        }
        // A byte that is no text belongs to no argument of ours: what replaces it matches no allowed word.
        Ok(Self {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            efi_options: root.join(EFI_OPTIONS).exists(),
        })
    }

    /// The values of all arguments with this name, in their order; an argument without `=` has none. Dashes and
    /// underscores are the same, as for the kernel and systemd.
    pub fn values<'l>(&'l self, name: &str) -> impl Iterator<Item = &'l str> {
        let name = normal(name);
        kernel_words(&self.text)
            .filter_map(|word| {
                word.split_once('=')
                    .map(|(key, value)| (normal(key.trim_start_matches('"')), value))
            })
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches('"'))
    }

    /// Whether an argument with this name is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        let name = normal(name);
        kernel_words(&self.text)
            .any(|word| normal(word.split('=').next().unwrap_or(word).trim_matches('"')) == name)
    }
}

/// Everything on the line that a confidential node does not start with, in the order of the line, each word once.
/// `allowed` are words that the measured `agent.toml` accepts, each as it stands on the line.
pub fn check(line: &CommandLine, allowed: &[String]) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = Vec::new();
    if line.efi_options {
        refusals.push(Refusal {
            argument: "SystemdOptions".to_owned(),
            why: "the firmware's variable SystemdOptions gives systemd arguments that no boot loader shows",
        });
    }
    if line.text.contains(['\'', '\\']) || line.text.matches('"').count() % 2 == 1 {
        refusals.push(Refusal {
            argument: "quotation".to_owned(),
            why: "single quotes, backslashes and unbalanced quotes are read differently by the kernel, systemd and \
                  dracut",
        });
    }
    for word in words(&line.text) {
        if allowed.contains(&word) || refusals.iter().any(|r| r.argument == word) {
            continue;
        }
        if let Some(why) = rules::objection(&word) {
            refusals.push(Refusal {
                argument: word,
                why,
            });
        }
    }
    refusals
}

/// An argument that a confidential node does not start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel command line has {argument:?}: {why}")]
pub struct Refusal {
    /// The word, without its quotes.
    pub argument: String,
    /// What it would do.
    pub why: &'static str,
}

impl Blame for Refusal {
    /// The line comes from this machine's boot loader or hypervisor, not from us.
    fn owner(&self) -> Owner {
        Owner::Machine
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        "if nobody of yours put it there, somebody with access to the boot loader or the hypervisor did; otherwise \
         take it out, or name it in boot.allow_arguments of the measured agent.toml"
            .to_owned()
    }
}

/// Each word of the line in each reading that some program has of it: between blanks outside double quotes, with
/// all quotes removed (the kernel, systemd), and between blanks wherever they are (dracut's shell functions).
fn words(text: &str) -> Vec<String> {
    let quoted = kernel_words(text).map(str::to_owned);
    let split = text.split(blank).map(str::to_owned);
    let mut all: Vec<String> = Vec::new();
    for word in quoted.chain(split) {
        let word: String = word.chars().filter(|c| *c != '"').collect();
        if !word.is_empty() && !all.contains(&word) {
            all.push(word);
        }
    }
    all
}

/// Words as the kernel's parser cuts them: at blanks outside double quotes, which may stand anywhere in a word.
fn kernel_words(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c: char| {
        inside ^= c == '"';
        blank(c) && !inside
    })
    .filter(|word| !word.is_empty())
}

/// What the kernel's `isspace` takes for a blank.
fn blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// The kernel and systemd take `-` and `_` in a name for the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Below the root; the vendor is systemd's (LOADER interface, systemd.io/BOOT_LOADER_INTERFACE).
const EFI_OPTIONS: &str =
    "sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67";
/// Kernels take 2 to 4 KiB (COMMAND_LINE_SIZE), with embedded extra arguments somewhat more.
const LIMIT: u64 = 64 * 1024;

#[cfg(test)]
mod tests;
