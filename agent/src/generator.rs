// SPDX-License-Identifier: Apache-2.0

//! The systemd generator of the initramfs (systemd.generator(7)): runs before any unit, looks at the kernel command
//! line, and ties the units of this boot together. `commands::generator` calls it and writes what it says.
//!
//! Pure: from command line and configuration to files. What is the same for every boot (guard, seal, the way into an
//! emergency shell) is not here but in the image, where no mistake of a generator can take it away.

mod name;

use crate::cmdline::{CommandLine, Refusal, check};
use crate::config::{Config, UnlockMode};
use name::escape;
use std::path::PathBuf;

/// What this boot needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files below the generator's directory, with their content.
    pub files: Vec<(PathBuf, String)>,
    /// What on the command line goes round the attestation. A confidential node does not boot with any.
    pub refusals: Vec<Refusal>,
}

/// Decides.
pub fn plan(line: &CommandLine, config: &Config) -> Plan {
    let mut plan = Plan {
        refusals: check(line, &config.boot.allow_arguments),
        ..Plan::default()
    };
    let mode = config.unlock.mode;
    if mode != UnlockMode::Clevis {
        for volume in line.values("rd.luks.name") {
            if let Some((uuid, name)) = volume.split_once('=') {
                match mode {
                    UnlockMode::Socket => plan.socket(name),
                    _ => plan.native(uuid, name, config.boot.confidential),
                }
            }
        }
        if line.has("ignition.firstboot") {
            let text = "[Unit]\nRequires=trustee-verify.service\nAfter=trustee-verify.service\n";
            plan.drop_in("ignition-complete.target", text.to_owned());
        }
        if config
            .enroll
            .as_ref()
            .is_some_and(|enroll| enroll.record_boots)
        {
            // Only wanted: a registrar that is away keeps no node from booting.
            let text = "[Unit]\nWants=trustee-record.service\nAfter=trustee-record.service\n";
            plan.drop_in("initrd-root-fs.target", text.to_owned());
        }
        if config.boot.confidential {
            plan.no_shell();
        }
    }
    plan
}

impl Plan {
    /// The agent opens this volume before systemd-cryptsetup looks at it; that finds it open and is content.
    fn native(&mut self, uuid: &str, name: &str, confidential: bool) {
        let unit = format!("trustee-unlock@{}.service", escape(name));
        let device = format!("dev-disk-by\\x2duuid-{}.device", escape(uuid));
        self.drop_in(&unit, format!("[Unit]\nBindsTo={device}\nAfter={device}\n"));
        // Wanted only, a failed unlock would end in the passphrase prompt that a confidential node must not have.
        let pull = if confidential { "Requires" } else { "Wants" };
        self.drop_in(
            &format!("systemd-cryptsetup@{}.service", escape(name)),
            format!("[Unit]\n{pull}={unit}\nAfter={unit}\n"),
        );
    }

    /// systemd-cryptsetup finds the agent where it looks for a key file, and waits for it.
    fn socket(&mut self, name: &str) {
        let unit = format!("trustee-key@{}.socket", escape(name));
        self.drop_in(
            &format!("systemd-cryptsetup@{}.service", escape(name)),
            format!("[Unit]\nRequires={unit}\nAfter={unit}\n"),
        );
    }

    /// A shell on the console of a node whose root is open would read it. The reason stays on the console for a while.
    fn no_shell(&mut self) {
        for shell in SHELLS {
            self.drop_in(
                shell,
                "[Unit]\nSuccessAction=poweroff-force\n[Service]\nExecStart=\nExecStart=/usr/bin/sleep 30\n"
                    .to_owned(),
            );
        }
    }

    fn drop_in(&mut self, unit: &str, content: String) {
        let path = PathBuf::from(format!("{unit}.d")).join("60-trustee-boot.conf");
        self.files.push((path, format!("{HEAD}{content}")));
    }
}

/// Every unit of an initramfs that ends in a shell. The dracut module seals the same ones.
pub const SHELLS: [&str; 4] = [
    "debug-shell.service",
    "dracut-emergency.service",
    "emergency.service",
    "rescue.service",
];
const HEAD: &str = "# Made by trustee-generator for this boot.\n";

#[cfg(test)]
mod tests {
    use super::{SHELLS, plan};
    use crate::cmdline::CommandLine;
    use crate::config::Config;

    fn config(more: &str) -> Config {
        let pin = "0".repeat(64);
        let text = format!("[kbs]\nservers = [\"https://k\"]\nspki_sha256 = [\"{pin}\"]\n{more}");
        Config::parse(&text).unwrap()
    }

    fn files(line: &str, more: &str) -> Vec<(String, String)> {
        plan(&CommandLine::new(line), &config(more))
            .files
            .into_iter()
            .map(|(path, text)| (path.to_str().unwrap().to_owned(), text))
            .collect()
    }

    const LINE: &str =
        "rd.neednet=1 rd.luks.name=0a1b-2c=my-root rd.luks.name=1=data root=/dev/mapper/my-root";
    const NATIVE: &str = "[unlock]\nmode = \"native\"";

    #[test]
    fn the_agent_opens_volumes_before_systemd_does() {
        let files = files(LINE, NATIVE);
        let find = |name: &str| {
            let path = format!("{name}.service.d/60-trustee-boot.conf");
            files.iter().find(|(p, _)| *p == path).unwrap().1.clone()
        };
        let unlock = find("trustee-unlock@my\\x2droot");
        assert!(
            unlock.contains("\nBindsTo=dev-disk-by\\x2duuid-0a1b\\x2d2c.device\n"),
            "{unlock}"
        );
        assert!(
            unlock.contains("\nAfter=dev-disk-by\\x2duuid-0a1b\\x2d2c.device\n"),
            "{unlock}"
        );
        let cryptsetup = find("systemd-cryptsetup@my\\x2droot");
        assert!(cryptsetup.contains("\nRequires=trustee-unlock@my\\x2droot.service\n"));
        assert!(cryptsetup.contains("\nAfter=trustee-unlock@my\\x2droot.service\n"));
        find("trustee-unlock@data");
        find("systemd-cryptsetup@data");
    }

    #[test]
    fn a_confidential_node_has_no_shell() {
        for shell in SHELLS {
            let path = format!("{shell}.d/60-trustee-boot.conf");
            let has = |more: &str| {
                files(LINE, more)
                    .iter()
                    .any(|(p, t)| *p == path && t.contains("\nExecStart=\n"))
            };
            assert!(has(NATIVE), "{shell}");
            assert!(
                !has(&format!("{NATIVE}\n[boot]\nconfidential = false")),
                "{shell}"
            );
        }
        let files = files(LINE, &format!("{NATIVE}\n[boot]\nconfidential = false"));
        assert!(
            files
                .iter()
                .any(|(_, text)| text.contains("\nWants=trustee-unlock@data.service\n"))
        );
    }

    #[test]
    fn what_ignition_has_bound_is_verified() {
        let verified = |line: &str| {
            files(line, NATIVE).iter().any(|(path, text)| {
                path == "ignition-complete.target.d/60-trustee-boot.conf"
                    && text.contains("\nRequires=trustee-verify.service\n")
            })
        };
        assert!(verified("ignition.firstboot ignition.platform.id=metal"));
        assert!(verified("ignition.firstboot=1"));
        assert!(!verified(LINE));
    }

    #[test]
    fn a_boot_is_recorded_where_the_configuration_asks_for_it() {
        let recorded = |more: &str| {
            files(LINE, &format!("{NATIVE}\n{more}"))
                .iter()
                .any(|(path, text)| {
                    path == "initrd-root-fs.target.d/60-trustee-boot.conf"
                        && text.contains("\nWants=trustee-record.service\n")
                        && text.contains("\nAfter=trustee-record.service\n")
                })
        };
        let registrar = "[enroll]\nregistrar = \"https://r\"";
        assert!(recorded(&format!("{registrar}\nrecord_boots = true")));
        assert!(!recorded(registrar));
        assert!(!recorded(""));
    }

    #[test]
    fn systemd_asks_at_a_socket_where_it_opens_volumes_itself() {
        const SOCKET: &str = "[unlock]\nmode = \"socket\"";
        let found = files(LINE, SOCKET);
        let cryptsetup =
            |name: &str| format!("systemd-cryptsetup@{name}.service.d/60-trustee-boot.conf");
        for name in ["my\\x2droot", "data"] {
            let (_, text) = found
                .iter()
                .find(|(path, _)| *path == cryptsetup(name))
                .unwrap();
            assert!(
                text.contains(&format!("\nRequires=trustee-key@{name}.socket\n")),
                "{text}"
            );
            assert!(
                text.contains(&format!("\nAfter=trustee-key@{name}.socket\n")),
                "{text}"
            );
        }
        assert!(
            !found
                .iter()
                .any(|(path, _)| path.starts_with("trustee-unlock@"))
        );
        // No prompt is meant to be there, so no shell is either; what Ignition has bound is verified as ever.
        assert!(
            found
                .iter()
                .any(|(path, _)| path.starts_with("emergency.service.d"))
        );
        let first = files("ignition.firstboot", SOCKET);
        assert!(
            first
                .iter()
                .any(|(path, _)| path.starts_with("ignition-complete.target.d"))
        );
    }

    #[test]
    fn clevis_keeps_its_prompt() {
        assert_eq!(files(LINE, "[unlock]\nmode = \"clevis\""), []);
    }

    #[test]
    fn ways_round_the_attestation_are_refused_unless_allowed() {
        let refusals =
            |more: &str| plan(&CommandLine::new("rd.break quiet"), &config(more)).refusals;
        assert_eq!(refusals("").len(), 1);
        assert_eq!(refusals("[boot]\nallow_arguments = [\"rd.break\"]"), []);
    }
}
