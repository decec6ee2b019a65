// SPDX-License-Identifier: Apache-2.0
//! The dracut module, with the real dracut of Debian 12 (059) and 13 (106): what is in the image, that it
//! works there, when the module stays out, and when there must be no image at all.
//!
//! The kernel is made up: modules that are nothing but their names. Everything else is real.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;
use std::fs;

use sheepfold_tests::luks::Volume;
use sheepfold_tests::node_root::{Initramfs, KVER, NodeRoot, Suite, Tree, UNPACKED, make_install};
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;
use sheepfold_tests::world::World;

#[test]
fn dracut_059() {
    whole_life(Suite::Bookworm, "tsm");
}

#[test]
fn dracut_106() {
    whole_life(Suite::Trixie, "tsm_report");
}

/// One image, as it is expensive: content, programs, binding. Then the images that must not be.
fn whole_life(suite: Suite, tsm: &str) {
    let Some(root) = NodeRoot::new(suite).unwrap() else {
        return;
    };
    let (mut world, _, _) = World::enrolled().unwrap();
    if let Err(cannot_start) = root.install() {
        // Built here against a newer glibc than that Debian has.
        paths::skipped(&format!("{suite:?}: {cannot_start:#}"));
        assert!(
            suite != Suite::Bookworm || !on_debian_12(),
            "{cannot_start:#}"
        );
        return;
    }
    not_asked_for(&root);

    let ca = fs::read(world.lab.ca_file()).unwrap();
    root.tree.write("/etc/trustee/kbs-ca.pem", ca).unwrap();
    let init_data = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nname = \"node\"\n";
    root.tree
        .write("/etc/trustee/init.toml", init_data)
        .unwrap();
    world.settings.ca_file = Some("/etc/trustee/kbs-ca.pem".into());
    world.settings.unlock = "integrity = \"hmac-sha256\"\n";
    // Spelled in the other way TOML has.
    let config = world.settings.to_toml().replace(
        "[timeouts]",
        "init_data_file = '/etc/trustee/init.toml' # sent as it is\n[timeouts]",
    );
    root.tree.write(CONFIG, &config).unwrap();
    make_kernel(&root.tree, tsm);

    let image = root.dracut(QUICK).unwrap();
    eprintln!("{suite:?}: {} bytes uncompressed", image.bytes);
    everything_is_inside(&image, suite);
    kernel_modules_are_inside(&image, tsm);
    units_are_quiet(&root);
    units_are_tied(&root, &image.tree);
    the_tpm_library_loads(&image.tree);
    a_volume_binds_and_opens(&root, &image.tree);
    ignition_takes_the_attested_config(&root, &config);
    no_image_is_better(&root, &config);
}

/// Opt-in: no configuration, no module; asked for by name without one, no image.
fn not_asked_for(root: &NodeRoot) {
    assert!(!root.tree.has(CONFIG));
    let image = root.dracut(&[QUICK, NO_KERNEL].concat()).unwrap();
    let found = image.tree.remove("*trustee*").unwrap();
    assert_eq!(found, 0, "the module came without being asked");
    assert!(image.tree.has("/usr/bin/clevis"), "but clevis is there");
    let refused = root.dracut(&[QUICK, NO_KERNEL, &["--add", "trustee"]].concat());
    let why = format!("{:#}", refused.unwrap_err());
    assert!(why.contains("/etc/trustee/agent.toml is missing"), "{why}");
}

fn everything_is_inside(image: &Initramfs, suite: Suite) {
    let tree = &image.tree;
    let mut files = vec![
        "/usr/bin/trustee-agent",
        "/usr/bin/clevis-encrypt-trustee",
        "/usr/bin/clevis-decrypt-trustee",
        CONFIG,
        "/etc/trustee/kbs-ca.pem",
        "/etc/trustee/init.toml",
        "/usr/lib/udev/rules.d/60-tpm-udev.rules",
        "/usr/lib/systemd/system/sys-kernel-config.mount",
        "/usr/libexec/clevis-luks-askpass",
        "/usr/lib/systemd/systemd-reply-password",
        "/usr/lib/systemd/systemd-cryptsetup",
        // Without NetworkManager nobody else would write resolv.conf.
        "/usr/lib/systemd/systemd-resolved",
    ];
    let tools = [
        "clevis",
        "clevis-encrypt-sss",
        "clevis-decrypt-sss",
        "clevis-luks-bind",
        "clevis-luks-unlock",
        "clevis-luks-common-functions",
        "jose",
        "cryptsetup",
        "awk",
        "basename",
        "cat",
        "cut",
        "grep",
        "mktemp",
        "rm",
        "sed",
        "sort",
        "tail",
        "touch",
        "tr",
    ]
    .map(|tool| format!("/usr/bin/{tool}"));
    files.extend(tools.iter().map(String::as_str));
    // clevis 20 makes its passphrase without it.
    if suite == Suite::Bookworm {
        files.push("/usr/bin/pwmake");
    }
    let missing: Vec<_> = files
        .into_iter()
        .filter(|file| !tree.has(file) && !tree.has(&file.replace("/usr/bin/", "/usr/sbin/")))
        .collect();
    assert!(missing.is_empty(), "not in the image: {missing:?}");

    let libraries = fs::read_dir(tree.libdir().unwrap()).unwrap();
    let libraries: BTreeSet<String> = libraries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for library in [
        "libtss2-tcti-device.so.0",
        "libtss2-esys.so.0",
        "libtss2-sys.so.1",
        "libtss2-mu.so.0",
        "libtss2-tctildr.so.0",
        "libnss_dns.so.2",
        "libnss_files.so.2",
    ] {
        assert!(
            libraries.contains(library),
            "{library} is not among {libraries:?}"
        );
    }

    assert_eq!(
        tree.read("/etc/cmdline.d/60-trustee.conf").unwrap(),
        "rd.neednet=1\n"
    );
    let networks = fs::read_dir(tree.path("/etc/systemd/network")).unwrap();
    let networks: Vec<_> = networks.map(|entry| entry.unwrap().file_name()).collect();
    // One default, whoever brings it.
    let default = match suite {
        Suite::Bookworm => "zzzz-trustee-default.network",
        Suite::Trixie => "zzzz-dracut-default.network",
    };
    assert_eq!(networks, [default]);
    assert!(
        tree.has("/usr/lib/systemd/system/sysinit.target.wants/sys-kernel-config.mount")
            || tree.has("/etc/systemd/system/sysinit.target.wants/sys-kernel-config.mount")
    );
}

/// Names that this kernel does not have, and one that is built in, stopped nobody.
fn kernel_modules_are_inside(image: &Initramfs, tsm: &str) {
    for module in ["tpm_crb", "sev-guest", tsm, "dm-integrity", "authenc"] {
        let pattern = format!("{module}.ko");
        let found = Run::new("find")
            .arg(image.tree.path("/usr/lib/modules"))
            .args(["-name", &pattern])
            .success()
            .unwrap();
        assert_eq!(found.out().lines().count(), 1, "{pattern}");
    }
}

/// Each unit that starts Clevis has our setting, in words that systemd understands.
fn units_are_quiet(root: &NodeRoot) {
    for unit in [
        "clevis-luks-askpass",
        "ignition-disks",
        "ignition-ostree-growfs",
    ] {
        let file = format!("{UNPACKED}/usr/lib/systemd/system/{unit}.service.d/60-trustee.conf");
        let text = root.tree.read(&file).unwrap();
        assert!(
            text.contains("\n[Service]\nEnvironment=TSS2_LOG=all+none\n"),
            "{text}"
        );
    }
    let verify = |root: &NodeRoot| {
        let root_option = format!("--root={UNPACKED}");
        let unit = "clevis-luks-askpass.service";
        let run = root
            .tree
            .run(["systemd-analyze", &root_option, "verify", unit]);
        run.capture().unwrap().err()
    };
    let said = verify(root);
    assert!(!said.contains("60-trustee.conf"), "{said}");
    // systemd does read that file: it notices a line it does not know.
    let file =
        format!("{UNPACKED}/usr/lib/systemd/system/clevis-luks-askpass.service.d/60-trustee.conf");
    let text = root.tree.read(&file).unwrap();
    root.tree
        .write(&file, text.replace("Environment", "Enviroment"))
        .unwrap();
    let said = verify(root);
    assert!(said.contains("60-trustee.conf"), "{said}");
    root.tree.write(&file, text).unwrap();
}

/// Guard and seal are on the way out of the image without the generator's help, and systemd finds nothing to say about
/// the units.
fn units_are_tied(root: &NodeRoot, image: &Tree) {
    const UNITS: &str = "/usr/lib/systemd/system";
    for (of, unit) in [
        ("initrd-root-fs.target", "trustee-guard.service"),
        ("initrd-switch-root.service", "trustee-seal.service"),
    ] {
        let link = [UNITS, "/etc/systemd/system"].iter().any(|dir| {
            image
                .path(&format!("{dir}/{of}.requires/{unit}"))
                .symlink_metadata()
                .is_ok()
        });
        assert!(link, "{of} does not require {unit}");
    }
    for unit in talkers(image) {
        // Asks for more kernel arguments, where the kernel's own ask it to: `rd.cmdline=ask` is refused.
        if unit == "dracut-cmdline-ask.service" {
            continue;
        }
        let file = format!("{UNITS}/{unit}.d/60-trustee.conf");
        let text = image
            .read(&file)
            .unwrap_or_else(|_| panic!("{unit} is not sealed"));
        assert!(
            text.contains("\nExecStartPre=/usr/bin/trustee-agent seal --or-poweroff\n"),
            "{text}"
        );
        assert!(text.contains("\nFailureAction=poweroff-force\n"), "{text}");
    }
    let generator = "/usr/lib/systemd/system-generators/trustee-generator";
    let target = image.path(generator).read_link().unwrap();
    assert_eq!(target.file_name().unwrap(), "trustee-agent");
    let root_option = format!("--root={UNPACKED}");
    for unit in [
        "trustee-unlock@root.service",
        "trustee-key@root.socket",
        "trustee-key@root.service",
        "trustee-verify.service",
        "trustee-guard.service",
        "trustee-record.service",
        "trustee-seal.service",
        "emergency.service",
        "initrd-switch-root.service",
    ] {
        let run = root
            .tree
            .run(["systemd-analyze", &root_option, "--man=no", "verify", unit]);
        let said = run.capture().unwrap().err();
        // An image without Ignition never starts the unit that follows it.
        let ours = |line: &&str| {
            line.contains("trustee") && !line.contains("ignition-disks.service not found")
        };
        let complaints: Vec<&str> = said.lines().filter(ours).collect();
        assert!(complaints.is_empty(), "{unit}: {complaints:?}");
    }
    // The names by which ours are ordered are those of the real Ignition.
    let ignition = root.tree.path("/usr/lib/dracut/modules.d/30ignition");
    for unit in [
        "ignition-disks.service",
        "ignition-files.service",
        "ignition-complete.target",
    ] {
        assert!(ignition.join(unit).exists(), "{unit}");
    }
}

/// The services of an image that speak with whoever sits at its console: shells, logins, questions.
fn talkers(image: &Tree) -> BTreeSet<String> {
    let mut units = BTreeSet::new();
    for dir in ["/usr/lib/systemd/system", "/etc/systemd/system"] {
        for entry in fs::read_dir(image.path(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // A link out of the image, or to nothing, starts nothing.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let talks = |line: &str| {
                line.starts_with("StandardInput=tty")
                    || line.starts_with("ExecStart=")
                        && ["sulogin", "getty", "bash"]
                            .iter()
                            .any(|p| line.contains(p))
            };
            if name.ends_with(".service") && text.lines().any(talks) {
                units.insert(name);
            }
        }
    }
    for shell in ["emergency.service", "dracut-emergency.service"] {
        assert!(units.contains(shell), "{units:?}");
    }
    units
}

/// The agent starts in the image, and its way to the TPM is there although nothing links it. `/dev/null` is a
/// device that opens and answers nothing: a library that is loaded finds it mute.
fn the_tpm_library_loads(tree: &Tree) {
    let version = tree.run(["trustee-agent", "--version"]).success().unwrap();
    assert!(version.out().starts_with("trustee-agent "));

    let doctor = |device: &str| {
        let config = tree.read(CONFIG).unwrap();
        let tcti = config
            .lines()
            .find(|line| line.starts_with("tcti"))
            .unwrap();
        let config = config.replace(tcti, &format!("tcti = \"device:{device}\""));
        tree.write("/tmp/agent.toml", config).unwrap();
        let run = tree.run(["trustee-agent", "--config", "/tmp/agent.toml", "doctor"]);
        let ended = run.capture().unwrap();
        assert_eq!(ended.code, Some(MACHINE), "{ended}");
        ended.err()
    };
    let none = doctor("/dev/tpmrm0");
    assert!(
        none.contains("there is no TPM device /dev/tpmrm0"),
        "{none}"
    );
    let mute = doctor("/dev/null");
    assert!(
        mute.contains("/dev/null") && !mute.contains("TCTI library"),
        "{mute}"
    );

    // The same without the library, to see that the line above means something.
    let (libdir, aside) = (tree.libdir().unwrap(), tree.path("/aside"));
    let library = "libtss2-tcti-device.so.0";
    let real = fs::canonicalize(libdir.join(library)).unwrap();
    fs::create_dir(&aside).unwrap();
    let hidden = aside.join(real.file_name().unwrap());
    fs::rename(&real, &hidden).unwrap();
    let absent = doctor("/dev/null");
    assert!(absent.contains("TCTI library"), "{absent}");
    fs::rename(&hidden, &real).unwrap();
}

/// What Ignition does on first boot and clevis-luks-askpass on every later one, with nothing but the image.
/// Only the way to a software TPM is added to it.
fn a_volume_binds_and_opens(root: &NodeRoot, tree: &Tree) {
    let software = "libtss2-tcti-swtpm.so.0";
    let theirs = root.tree.libdir().unwrap().join(software);
    fs::copy(theirs, tree.libdir().unwrap().join(software)).unwrap();

    // The laboratory KBS has the machine's word on PCR 8, which does not carry our init-data.
    let config = tree.read(CONFIG).unwrap();
    let without = config
        .lines()
        .filter(|line| !line.starts_with("init_data_file"));
    tree.write(CONFIG, without.collect::<Vec<_>>().join("\n"))
        .unwrap();

    let doctor = tree.run(["trustee-agent", "doctor"]).success().unwrap();
    assert!(
        doctor
            .err()
            .contains("everything between this node and its KBS works"),
        "{doctor}"
    );

    for (name, pin, config) in [
        ("direct", "trustee", "{}"),
        ("wrapped", "sss", r#"{"t":1,"pins":{"trustee":{}}}"#),
    ] {
        let volume = Volume::format(&tree.path("/tmp"), name).unwrap();
        let (device, key) = (format!("/tmp/{name}"), format!("/tmp/{name}.first-key"));
        tree.run([
            "clevis", "luks", "bind", "-f", "-k", &key, "-d", &device, pin, config,
        ])
        .success()
        .unwrap();
        assert_eq!(volume.clevis_tokens().unwrap().len(), 1);
        let pass = tree.run(["clevis", "luks", "pass", "-d", &device, "-s", "1"]);
        let pass = pass.success().unwrap();
        let opened = volume.test_passphrase(&pass.stdout, Some(1)).unwrap();
        assert_eq!(opened.code, Some(0), "{name}: {opened}");
        assert!(!pass.err().contains("WARNING:esys") && !pass.err().contains("ERROR:tcti"));
    }
}

/// A configuration that cannot be honoured stops the build.
/// The drop-ins hide the vendor's base configs unless `fetch-config` copies them: they come with `[ignition]` only.
fn ignition_takes_the_attested_config(root: &NodeRoot, config: &str) {
    let drop_in = |stage: &str| {
        let units = "usr/lib/systemd/system";
        root.tree.read(&format!(
            "{UNPACKED}/{units}/ignition-{stage}.service.d/65-trustee.conf"
        ))
    };
    assert!(!config.contains("[ignition]") && drop_in("fetch").is_err());
    let with = format!("{config}\n[ignition]\npath = \"default/{{node}}/ignition\"\n");
    root.tree.write(CONFIG, with).unwrap();
    root.dracut(&[QUICK, NO_KERNEL].concat()).unwrap();
    let units = format!("{UNPACKED}/usr/lib/systemd/system");
    let read = |file: &str| root.tree.read(&format!("{units}/{file}")).unwrap();
    let fetch = read("ignition-fetch.service.d/66-trustee.conf");
    assert!(fetch.contains("\nRequires=trustee-config.service\nAfter=trustee-config.service\n"));
    let offline = read("ignition-fetch-offline.service.d/66-trustee.conf");
    assert!(offline.ends_with("\n[Unit]\nConditionPathExists=!/\n"));
    let option = format!("--root={UNPACKED}");
    let unit = "trustee-config.service";
    let run = ["systemd-analyze", &option, "--man=no", "verify", unit];
    let said = root.tree.run(run).capture().unwrap().err();
    assert!(!said.contains("trustee-config"), "{said}");
    for stage in ["fetch-offline", "fetch", "kargs", "disks", "mount", "files"] {
        let text = drop_in(stage).unwrap();
        let line = "\nEnvironment=IGNITION_SYSTEM_CONFIG_DIR=/run/trustee/ignition\n";
        assert!(text.contains(line), "{text}");
    }
}

fn no_image_is_better(root: &NodeRoot, config: &str) {
    let ca = "ca_file = \"/etc/trustee/kbs-ca.pem\"";
    assert!(config.contains(ca));
    for (replacement, says) in [
        (
            "ca_file = \"/etc/trustee/gone.pem\"",
            "/etc/trustee/gone.pem, which does not exist",
        ),
        (
            "ca_file = \"kbs-ca.pem\"",
            "kbs-ca.pem, which is not an absolute path",
        ),
        (
            "ca_file = \"\"\"/etc/trustee/kbs-ca.pem\"\"\"",
            "cannot tell which file is meant",
        ),
        (
            "\"ca_file\" = \"/etc/trustee/kbs-ca.pem\"",
            "cannot tell which file is meant",
        ),
    ] {
        root.tree
            .write(CONFIG, config.replace(ca, replacement))
            .unwrap();
        let why = format!(
            "{:#}",
            root.dracut(&[QUICK, NO_KERNEL].concat()).unwrap_err()
        );
        assert!(why.contains(says), "{replacement}: {why}");
    }
}

/// A file that agent.toml can name and the module does not know would be missing at boot, for everybody.
#[test]
fn the_module_knows_every_file_that_the_configuration_can_name() {
    let read = |path: &str| fs::read_to_string(paths::workspace().join(path)).unwrap();
    let members = read("agent/src/config/raw.rs");
    let named: BTreeSet<&str> = members
        .lines()
        .filter(|line| line.contains("PathBuf") && line.contains(':') && !line.starts_with("use"))
        .map(|line| line.split(':').next().unwrap().trim_end())
        .map(|line| line.rsplit(' ').next().unwrap())
        .filter(|name| !name.is_empty())
        .collect();
    // `root` of [evidence] is where the kernel's interfaces begin: a directory that every image has.
    let files: BTreeSet<&str> = named.into_iter().filter(|name| *name != "root").collect();
    assert_eq!(files, BTreeSet::from(["ca_file", "init_data_file"]));
    let module = read("dracut/65trustee/module-setup.sh");
    assert!(module.contains("key='(ca_file|init_data_file)'"));
}

/// What `make install` copies is what the list for packagers says, and nothing in it is empty.
#[test]
fn the_list_of_installed_files_is_true() {
    let dir = tempfile::tempdir().unwrap();
    make_install(dir.path()).unwrap();
    let found = Run::new("find")
        .args([".", "!", "-type", "d"])
        .dir(dir.path())
        .success()
        .unwrap()
        .out();
    let found: BTreeSet<&str> = found
        .lines()
        .map(|line| line.trim_start_matches('.'))
        .collect();
    let list = fs::read_to_string(paths::workspace().join("dracut/installed-files")).unwrap();
    assert_eq!(found, list.lines().collect());
}

/// Modules with names and no code, and the lists that a kernel package brings.
fn make_kernel(root: &Tree, tsm: &str) {
    let dir = format!("/usr/lib/modules/{KVER}");
    for path in [
        "drivers/char/tpm/tpm_crb",
        "drivers/virt/coco/sev-guest/sev-guest",
        &format!("drivers/virt/coco/guest/{tsm}"),
        "extra/dm-integrity",
        "extra/authenc",
    ] {
        let file = format!("{dir}/kernel/{path}.ko");
        root.write(&file, "").unwrap();
        Run::new("cc")
            .args(["-c", "-x", "c", "-o"])
            .arg(root.path(&file))
            .arg("-")
            .stdin("__attribute__((section(\".modinfo\"), used)) static const char license[] = \"license=GPL\";")
            .success()
            .unwrap();
    }
    root.write(
        &format!("{dir}/modules.builtin"),
        "kernel/fs/configfs/configfs.ko\n",
    )
    .unwrap();
    root.write(&format!("{dir}/modules.order"), "").unwrap();
    root.run(["depmod", KVER]).success().unwrap();
}

fn on_debian_12() -> bool {
    fs::read_to_string("/etc/os-release")
        .is_ok_and(|text| text.contains("VERSION_CODENAME=bookworm"))
}

const CONFIG: &str = "/etc/trustee/agent.toml";
/// The agent's exit code for "this machine".
const MACHINE: i32 = 11;
/// What takes long and has nothing to do with us, and other pins, which bring some of what we must bring
/// ourselves. The rest of the default choice stays.
const QUICK: &[&str] = &[
    "--omit",
    "i18n ignition btrfs lvm mdraid dmraid multipath nfs iscsi nbd cifs fcoe nvmf hwdb terminfo \
     systemd-coredump systemd-portabled systemd-repart systemd-sysext clevis-pin-tpm2 clevis-pin-tang clevis-pin-sss",
];
const NO_KERNEL: &[&str] = &["--no-kernel"];
