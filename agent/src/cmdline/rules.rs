// SPDX-License-Identifier: Apache-2.0

//! Which kernel arguments a confidential node refuses, and why; a table, called by `cmdline::check` only.
//!
//! What is not in it passes: a list of all harmless arguments would be wrong on the day it is written. What
//! *changes the boot without going round the attestation* (another kernel option, another root) is not its
//! business either: the registers and the guard see that.

use super::normal;

/// Why this word is refused, if it is.
pub(super) fn objection(word: &str) -> Option<&'static str> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    if let Some(why) = words_of_the_first_program(key, value) {
        return Some(why);
    }
    let name = normal(key);
    RULES
        .iter()
        .find(|rule| rule.names(&name) && !rule.is_harmless(value))
        .map(|rule| rule.why)
}

/// The kernel hands what it does not know to PID 1, as arguments and as environment.
fn words_of_the_first_program(key: &str, value: Option<&str>) -> Option<&'static str> {
    if key.starts_with('-') {
        return Some("it is handed to the first program as an option");
    }
    let shape = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let variable = value.is_some()
        && key.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && key.chars().all(shape);
    // GRUB names the kernel's file in this one.
    if variable && key != "BOOT_IMAGE" {
        return Some(
            "the kernel puts it into the environment of the first program and all it starts",
        );
    }
    None
}

/// One row of the table.
struct Rule {
    /// The name as systemd compares it: `_` for `-`.
    name: &'static str,
    /// Which further names the row speaks of.
    reach: Reach,
    /// The values that do no harm.
    harmless: Harmless,
    /// What a value that is not harmless does.
    why: &'static str,
}

#[derive(PartialEq, Eq)]
enum Reach {
    /// This name, alone.
    Exact,
    /// This name, and the same after `rd.`, which systemd and dracut take for "in the initramfs".
    Initramfs,
    /// Every name that begins so, and the same after `rd.`.
    Prefix,
}

enum Harmless {
    /// None.
    Nothing,
    /// Values that say no.
    No,
    /// These.
    Words(&'static [&'static str]),
    /// Lists, separated by commas and after an optional `UUID=`, of only these.
    Options(&'static [&'static str]),
}

impl Rule {
    fn names(&self, name: &str) -> bool {
        let bare = name.strip_prefix("rd.").unwrap_or(name);
        match self.reach {
            Reach::Exact => name == self.name,
            Reach::Initramfs => bare == self.name,
            Reach::Prefix => bare.starts_with(self.name),
        }
    }

    fn is_harmless(&self, value: Option<&str>) -> bool {
        match (&self.harmless, value) {
            (Harmless::Nothing, _) | (_, None) => false,
            (Harmless::No, Some(value)) => NO.contains(&value),
            (Harmless::Words(words), Some(value)) => words.contains(&value),
            (Harmless::Options(options), Some(value)) => {
                let list = match value.split_once('=') {
                    Some((uuid, list)) if is_uuid(uuid) => list,
                    _ => value,
                };
                list.split(',').all(|option| options.contains(&option))
            }
        }
    }
}

/// `luks-` may stand before it, as systemd accepts.
fn is_uuid(text: &str) -> bool {
    let text = text.strip_prefix("luks-").unwrap_or(text);
    text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

const fn rule(name: &'static str, reach: Reach, harmless: Harmless, why: &'static str) -> Rule {
    Rule {
        name,
        reach,
        harmless,
        why,
    }
}

/// As systemd and dracut spell it.
const NO: &[&str] = &["0", "no", "n", "false", "f", "off"];

const SHELL: &str = "it opens a shell on the console";
const PROGRAM: &str = "it starts another program in place of the image's own";
const UNITS: &str = "it changes which units run, ours among them";
const KEY: &str = "it gives the volume a key, a prompt or a device of the host's choice";
const CREDENTIAL: &str = "it hands the host's credentials to units, a disk passphrase among them";
const MOUNT: &str = "it mounts a file system of the host's choice into the system";
const CONFIG: &str = "it gives the node a configuration that nobody attested";
const DEBUG: &str = "it shows on the console what the initramfs does, or stops it there";
const OURS: &str = "this program takes no orders from the kernel command line";

const RULES: &[Rule] = {
    use Harmless::{No, Nothing, Options, Words};
    use Reach::{Exact, Initramfs, Prefix};
    &[
        // Shells and debuggers
        rule("break", Initramfs, Nothing, SHELL),
        rule("rdbreak", Exact, Nothing, SHELL),
        rule("shell", Initramfs, No, SHELL),
        rule("rdshell", Exact, Nothing, SHELL),
        rule(
            "emergency",
            Initramfs,
            Words(&["poweroff", "reboot", "halt"]),
            SHELL,
        ),
        rule("rescue", Initramfs, Nothing, SHELL),
        rule("single", Exact, Nothing, SHELL),
        rule("s", Exact, Nothing, SHELL),
        rule("S", Exact, Nothing, SHELL),
        rule("1", Exact, Nothing, SHELL),
        rule("systemd.debug_shell", Initramfs, No, SHELL),
        rule("systemd.crash_shell", Initramfs, No, SHELL),
        rule("systemd.confirm_spawn", Initramfs, No, DEBUG),
        rule(
            "cmdline",
            Initramfs,
            Nothing,
            "it asks for further kernel arguments on the console",
        ),
        rule("debug", Initramfs, No, DEBUG),
        rule("rdinitdebug", Exact, Nothing, DEBUG),
        rule(
            "kgdb",
            Prefix,
            Nothing,
            "it starts the kernel's debugger on the console",
        ),
        rule(
            "kdb",
            Exact,
            Nothing,
            "it starts the kernel's debugger on the console",
        ),
        // Other programs
        rule(
            "init",
            Initramfs,
            Words(&["/sbin/init", "/usr/lib/systemd/systemd"]),
            PROGRAM,
        ),
        rule("rdinit", Exact, Words(&["/init"]), PROGRAM),
        rule("systemd.run", Prefix, Nothing, PROGRAM),
        rule(
            "systemd.pull",
            Initramfs,
            Nothing,
            "it downloads an image and starts or mounts it",
        ),
        rule("live.", Prefix, Nothing, MOUNT),
        rule("overlay", Prefix, No, MOUNT),
        // Units
        rule("systemd.unit", Initramfs, Nothing, UNITS),
        rule("systemd.wants", Initramfs, Nothing, UNITS),
        rule("systemd.mask", Initramfs, Nothing, UNITS),
        rule(
            "systemd.setenv",
            Initramfs,
            Nothing,
            "it sets the environment of every service",
        ),
        // Keys, prompts, credentials
        rule("systemd.set_credential", Prefix, Nothing, CREDENTIAL),
        rule(
            "systemd.tpm2_",
            Prefix,
            No,
            "it lets systemd make do without this machine's TPM, or clear it",
        ),
        rule("luks.key", Initramfs, Nothing, KEY),
        rule("luks.data", Initramfs, Nothing, KEY),
        rule("luks.options", Initramfs, Options(LUKS_OPTIONS), KEY),
        // File systems
        rule("mount.usr", Prefix, Nothing, MOUNT),
        rule("systemd.mount_extra", Initramfs, Nothing, MOUNT),
        rule(
            "systemd.swap_extra",
            Initramfs,
            Nothing,
            "it pages memory out to a device of the host's choice",
        ),
        // Configuration
        rule("ignition.config.", Prefix, Nothing, CONFIG),
        rule("trustee.", Prefix, Nothing, OURS),
    ]
};

/// The rules for people, a row for each reason: `docs/agent.toml.md` has it word for word.
#[cfg(test)]
pub(super) fn table() -> String {
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for rule in RULES {
        let name = match rule.reach {
            Reach::Exact => format!("`{}`", rule.name),
            Reach::Initramfs => format!("`[rd.]{}`", rule.name),
            Reach::Prefix => format!("`[rd.]{}*`", rule.name),
        };
        let but = match rule.harmless {
            Harmless::Nothing => String::new(),
            Harmless::No => " but *no*".to_owned(),
            Harmless::Words(words) | Harmless::Options(words) => {
                format!(" but `{}`", words.join("`, `"))
            }
        };
        let said = format!("{name}{but}");
        match rows.iter_mut().find(|(why, _)| *why == rule.why) {
            Some((_, names)) => names.push(said),
            None => rows.push((rule.why, vec![said])),
        }
    }
    let row = |(why, names): &(&str, Vec<String>)| format!("| {why} | {} |\n", names.join("; "));
    rows.iter().map(row).collect()
}

/// Of crypttab(5): none names a key, a header or a device.
const LUKS_OPTIONS: &[&str] = &[
    "_netdev",
    "discard",
    "headless",
    "headless=1",
    "headless=true",
    "headless=yes",
    "luks",
    "no-read-workqueue",
    "no-write-workqueue",
    "x-initrd.attach",
];
