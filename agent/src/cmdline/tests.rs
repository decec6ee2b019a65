// SPDX-License-Identifier: Apache-2.0

use super::{CommandLine, check, words};
use kbs_protocol::{Blame as _, Owner, Persistence};
use std::fs;

fn refused(line: &str) -> Vec<String> {
    check(&CommandLine::new(line), &[])
        .into_iter()
        .map(|refusal| refusal.argument)
        .collect()
}

#[test]
fn the_documentation_lists_every_rule() {
    let docs = include_str!("../../../docs/agent.toml.md");
    let table = super::rules::table();
    assert!(
        docs.contains(&table),
        "docs/agent.toml.md must have:\n{table}"
    );
}

/// Lines of real machines: GRUB on Debian, Fedora CoreOS first boot and later, a unified kernel image.
#[test]
fn ordinary_boots_pass() {
    for line in [
        "BOOT_IMAGE=/boot/vmlinuz-6.12.57-amd64 root=UUID=0b2f4b3c-58a1-4c3c-b8b2-6cb7a3a0a001 ro quiet splash",
        "BOOT_IMAGE=(hd0,gpt3)/ostree/fedora-coreos-1/vmlinuz rw mitigations=auto,nosmt ignition.platform.id=qemu \
         console=tty0 console=ttyS0,115200n8 ostree=/ostree/boot.1/fedora-coreos/1/0 ignition.firstboot \
         root=UUID=0b2f4b3c-58a1-4c3c-b8b2-6cb7a3a0a001 rootflags=prjquota boot=UUID=0b2f4b3c-58a1-4c3c-b8b2-6cb7a3a0a002",
        "rd.neednet=1 rd.luks.name=0b2f4b3c-58a1-4c3c-b8b2-6cb7a3a0a001=root rd.luks.options=_netdev \
         rd.luks.options=0b2f4b3c-58a1-4c3c-b8b2-6cb7a3a0a001=_netdev,headless,x-initrd.attach",
        "rd.shell=0 rd.emergency=poweroff systemd.debug_shell=no init=/sbin/init rd.retry=86400 ip=dhcp \
         systemd.show_status=0 systemd.journald.forward_to_console=1",
        "systemd.default_device_timeout_sec=600 lsm=lockdown,integrity random.trust_cpu=on dyndbg=\"file a.c +p\"",
        "",
    ] {
        assert_eq!(refused(line), Vec::<String>::new(), "{line}");
    }
}

/// One row a rule: the words that it refuses.
#[test]
fn what_goes_round_the_attestation_is_refused() {
    for word in [
        "rd.break",
        "rd.break=pre-mount",
        "break",
        "rdbreak",
        "rd.shell",
        "rd.shell=1",
        "rdshell",
        "emergency",
        "rd.emergency",
        "rd.emergency=ignore",
        "rescue",
        "rd.rescue",
        "single",
        "s",
        "S",
        "1",
        "systemd.debug_shell",
        "systemd.debug-shell=1",
        "rd.systemd.debug_shell=ttyS0",
        "systemd.crash_shell",
        "systemd.confirm_spawn=ttyS0",
        "rd.cmdline=ask",
        "rd.debug",
        "rdinitdebug",
        "kgdboc=ttyS0",
        "kgdbwait",
        "kdb",
        "init=/bin/sh",
        "rd.init=/bin/sh",
        "init",
        "rdinit=/bin/sh",
        "systemd.run=/bin/sh",
        "systemd.run_success_action=none",
        "rd.systemd.pull=raw,machine:x:https://example.invalid",
        "rd.live.image",
        "rd.overlay=1",
        "rd.overlayfs",
        "systemd.unit=rescue.target",
        "rd.systemd.unit=emergency.target",
        "systemd.wants=debug-shell.service",
        "rd.systemd.mask=trustee-seal.service",
        "systemd.mask=trustee-guard.service",
        "systemd.setenv=A=b",
        "systemd.set_credential=cryptsetup.passphrase:x",
        "systemd.set-credential-binary=a:eA==",
        "rd.systemd.set_credential=a:b",
        "systemd.tpm2_software_fallback=yes",
        "systemd.tpm2-allow-clear=1",
        "rd.luks.key=/key:UUID=1",
        "luks.key=/key",
        "rd.luks.data=a=b",
        "rd.luks.options=tpm2-device=auto",
        "luks.options=0b2f4b3c-58a1-4c3c-b8b2-6cb7a3a0a001=header=/dev/vdb",
        "rd.luks.options=_netdev,key-slot=1",
        "rd.luks.options=header=headless",
        "rd.luks.options=/dev/disk/by-id/virtio-0000-00000001=headless",
        "rd.luks.options",
        "mount.usr=/dev/vdb",
        "mount.usrfstype=ext4",
        "systemd.mount-extra=/dev/vdb:/etc",
        "systemd.swap_extra=/dev/vdb",
        "ignition.config.url=http://example.invalid",
        "ignition.config.device=vdb",
        "trustee.recovery=1",
        "SYSTEMD_SULOGIN_FORCE=1",
        "LD_PRELOAD=/x",
        "_A=1",
        "--",
        "--unit=rescue.target",
        "-b",
    ] {
        assert_eq!(refused(&format!("quiet {word} ro")), [word], "{word}");
    }
}

/// The same word hidden in the ways in which one program reads it and another does not.
#[test]
fn every_reading_counts() {
    for (line, word) in [
        ("a=\"x rd.break y\"", "rd.break"),
        ("\"rd.break\"", "rd.break"),
        ("rd.\"break\"", "rd.break"),
        ("\"init=/bin/sh -c x\"", "init=/bin/sh -c x"),
        ("init=\"/bin/sh\"", "init=/bin/sh"),
        ("quiet\trd.break\n", "rd.break"),
        ("quiet\u{b}rd.break", "rd.break"),
    ] {
        assert!(
            refused(line).contains(&word.to_owned()),
            "{line:?}: {:?}",
            refused(line)
        );
    }
    for line in ["a='b c'", "a=b\\ c", "a=\"b c"] {
        assert_eq!(
            refused(line).first().map(String::as_str),
            Some("quotation"),
            "{line}"
        );
    }
    assert_eq!(words("a=\"b c\" d"), ["a=b c", "d", "a=b", "c"]);
}

#[test]
fn the_measured_configuration_may_allow_a_word_as_it_stands() {
    let line =
        CommandLine::new("systemd.mask=dracut-initqueue.service systemd.mask=trustee-seal.service");
    let allowed = ["systemd.mask=dracut-initqueue.service".to_owned()];
    let [refusal] = &check(&line, &allowed)[..] else {
        panic!("one of the two");
    };
    assert_eq!(
        refusal.to_string(),
        "the kernel command line has \"systemd.mask=trustee-seal.service\": it changes which units run, ours among them"
    );
    assert_eq!(refusal.owner(), Owner::Machine);
    assert_eq!(refusal.persistence(), Persistence::Permanent);
    assert!(refusal.advice().contains("boot.allow_arguments"));
    let prefix = ["systemd.mask".to_owned()];
    assert_eq!(
        check(&line, &prefix).len(),
        2,
        "an allowed word is no prefix"
    );
}

#[test]
fn values_by_name() {
    let line = CommandLine::new(
        "rd.luks.name=u1=root quiet rd.luks-name=\"u2=a b\" rd.luks.names=u3 ignition.firstboot",
    );
    let named: Vec<_> = line.values("rd.luks_name").collect();
    assert_eq!(named, ["u2=a b"]);
    assert_eq!(line.values("rd.luks.name").collect::<Vec<_>>(), ["u1=root"]);
    assert!(line.has("ignition.firstboot") && line.has("quiet") && !line.has("ignition"));
}

#[test]
fn the_machine_is_read_with_what_its_firmware_adds() {
    let root = tempfile::tempdir().unwrap();
    assert!(
        CommandLine::load(root.path()).is_err(),
        "no /proc is no empty line"
    );
    let proc = root.path().join("proc");
    fs::create_dir_all(&proc).unwrap();
    fs::write(proc.join("cmdline"), b"quiet \xff rd.break\n").unwrap();
    let line = CommandLine::load(root.path()).unwrap();
    assert_eq!(check(&line, &[]).len(), 1);
    let variables = root.path().join("sys/firmware/efi/efivars");
    fs::create_dir_all(&variables).unwrap();
    let variable = "SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67";
    fs::write(variables.join(variable), b"\x07\0\0\0r\0").unwrap();
    let refusals = check(&CommandLine::load(root.path()).unwrap(), &[]);
    assert!(
        refusals[0].to_string().contains("SystemdOptions"),
        "{refusals:?}"
    );
    fs::write(proc.join("cmdline"), vec![b'a'; 70_000]).unwrap();
    assert!(CommandLine::load(root.path()).is_err(), "too long");
}
