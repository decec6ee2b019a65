// SPDX-License-Identifier: Apache-2.0
//! A machine that is switched on: QEMU with OVMF, and swtpm behind it. Both end when it is dropped.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kbs_protocol::Secret;
use sheepfold_tests::process::Run;

use crate::accelerator::Accelerator;
use crate::chain::{Chain, Kind};
use crate::console::Console;
use crate::facts::{Facts, Sectors};
use crate::inside::Inside;
use crate::node::Node;
use crate::probe::{Place, Probe};
use crate::processor::Account;
use crate::say::say;
use crate::trees;

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    /// What it says to whoever stands before it.
    pub console: Console,
    /// The way in.
    pub probe: Probe,
    name: String,
    keyboard: ChildStdin,
    qemu: Child,
    swtpm: Child,
}

impl Machine {
    /// Switches the node on. Its consoles are kept as `console-BOOT.log` and `probe-BOOT.log`.
    ///
    /// # Errors
    /// QEMU or swtpm does not start.
    pub fn power_on(node: &Node, chain: &Chain, boot: &str) -> Result<Self> {
        Self::power_on_with(node, chain, boot, &[])
    }

    /// As [`Machine::power_on`], with further arguments for QEMU.
    ///
    /// # Errors
    /// As [`Machine::power_on`].
    pub fn power_on_with(node: &Node, chain: &Chain, boot: &str, more: &[&str]) -> Result<Self> {
        let dir = node.dir();
        let accelerator = Accelerator::here()?;
        say(&format!(
            "switching {} on ({boot}, {accelerator})",
            node.name
        ));
        let variables = dir.join("vars.fd");
        if !variables.exists() {
            fs::copy(&chain.variables, &variables)?;
        }
        for socket in [TPM, PROBE] {
            drop(fs::remove_file(dir.join(socket)));
        }
        let swtpm = start_tpm(dir)?;
        let toolbox = trees::toolbox()?;
        let mut qemu = Inside::of(&toolbox)
            .with(dir, "/mnt")
            .run(
                arguments(chain.kind, accelerator)
                    .iter()
                    .map(String::as_str)
                    .chain(more.iter().copied()),
            )
            .spawn()?;
        let keyboard = qemu.stdin.take().context("no keyboard")?;
        let port = qemu.stdout.take().context("no console")?;
        let complaints = qemu.stderr.take().context("no standard error")?;
        let console =
            Console::listen(port, &dir.join(format!("console-{boot}.log")))?.of(qemu.id());
        let complaints = Console::listen(complaints, &dir.join(format!("qemu-{boot}.log")))?;
        let log = dir.join(format!("probe-{boot}.log"));
        let probe =
            Probe::connect(&dir.join(PROBE), &log, qemu.id()).with_context(|| complaints.text())?;
        Ok(Self {
            console,
            probe,
            name: node.name.clone(),
            keyboard,
            qemu,
            swtpm,
        })
    }

    /// From the initramfs to the system: waits for it and reads the facts there. The root is the volume, the volume
    /// has one way in, the registers are those that were predicted.
    ///
    /// # Errors
    /// It does not come, or a fact is another one.
    pub fn boots(&mut self, node: &Node, chain: &Chain, moment: &str) -> Result<Facts> {
        self.boots_from(node, chain, moment, Sectors::Encrypted)
    }

    /// As [`Machine::boots`], from a root of such sectors.
    ///
    /// # Errors
    /// As [`Machine::boots`].
    pub fn boots_from(
        &mut self,
        node: &Node,
        chain: &Chain,
        moment: &str,
        sectors: Sectors,
    ) -> Result<Facts> {
        self.reach(Place::System)?;
        let facts = Facts::read(&mut self.probe, node, moment)?;
        facts.root_is_the_volume(sectors)?;
        facts.only_clevis_opens_it()?;
        facts.pcrs_are_as_predicted(chain)?;
        ensure!(facts.secure_boot, "Secure Boot is off");
        Ok(facts)
    }

    /// Waits until the console says this.
    ///
    /// # Errors
    /// It does not within [`BOOT`].
    pub fn expect(&mut self, text: &str) -> Result<()> {
        self.console.wait_for_any(&[text], BOOT)?;
        say(&format!("{} says {text:?}", self.name));
        Ok(())
    }

    /// Somebody at the console types a line.
    ///
    /// # Errors
    /// The machine is off.
    pub fn types(&mut self, line: &Secret) -> Result<()> {
        say(&format!("somebody types at the console of {}", self.name));
        self.keyboard.write_all(line.expose())?;
        self.keyboard.write_all(b"\r")?;
        Ok(self.keyboard.flush()?)
    }

    /// Waits until the initramfs, or the system, answers.
    ///
    /// # Errors
    /// It does not within [`BOOT`].
    pub fn reach(&mut self, place: Place) -> Result<()> {
        self.probe.wait(place, BOOT).with_context(|| {
            let text = self.console.text();
            let lines: Vec<&str> = text.lines().collect();
            let start = lines.len().saturating_sub(30);
            format!(
                "{} did not reach {place:?}; its console:\n{}",
                self.name,
                lines.get(start..).unwrap_or_default().join("\n")
            )
        })?;
        say(&format!("{} is in {place:?}", self.name));
        Ok(())
    }

    /// Waits until the journal of the initramfs says `text` about the volume, then makes sure that it is still
    /// shut. Returns the journal, which is also kept.
    ///
    /// # Errors
    /// It does not say so within [`BOOT`], or the volume is open.
    pub fn stays_shut(&mut self, node: &Node, text: &str) -> Result<String> {
        let journal = self.probe.ask_until(JOURNAL, text, BOOT)?;
        say(&format!("{} says in its journal {text:?}", self.name));
        fs::write(node.dir().join("journal-shut.log"), &journal)?;
        let volumes = self.probe.ask("dmsetup ls; findmnt -n /sysroot || true")?;
        ensure!(
            volumes.trim() == "No devices found",
            "the volume should be shut, but there is: {volumes}"
        );
        Ok(journal)
    }

    /// What the emulator has had of the processors since it was switched on, in seconds.
    ///
    /// # Errors
    /// It has ended.
    pub fn processor_seconds(&self) -> Result<f64> {
        Ok(Account::of(self.qemu.id())?.own)
    }

    /// Shuts the system down in good order.
    ///
    /// # Errors
    /// It does not end.
    pub fn power_off(mut self) -> Result<()> {
        self.probe.tell(POWER_OFF)?;
        self.ends()
    }

    /// Waits until the machine switches itself off.
    ///
    /// # Errors
    /// It does not within [`BOOT`].
    pub fn ends(mut self) -> Result<()> {
        self.console.wait_for_end(BOOT)?;
        say(&format!("{} is off", self.name));
        self.qemu.wait()?;
        // It has seen an orderly shutdown, and ends with its connection.
        let until = Instant::now() + Duration::from_secs(20);
        while self.swtpm.try_wait()?.is_none() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Cuts the power of machine and TPM.
    ///
    /// # Errors
    /// They cannot be ended.
    pub fn power_cut(mut self) -> Result<()> {
        say(&format!("the power of {} is cut", self.name));
        self.swtpm.kill()?;
        self.qemu.kill()?;
        self.swtpm.wait()?;
        self.qemu.wait()?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in [&mut self.qemu, &mut self.swtpm] {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// swtpm for one machine: it ends with QEMU's connection.
fn start_tpm(dir: &Path) -> Result<Child> {
    let mut run = Run::new("setpriv").args([
        "--pdeathsig",
        "KILL",
        "swtpm",
        "socket",
        "--tpm2",
        "--terminate",
    ]);
    run = run
        .args([
            "--tpmstate".to_owned(),
            format!("dir={}", dir.join("tpm").display()),
        ])
        .args([
            "--ctrl".to_owned(),
            format!("type=unixio,path={}", dir.join(TPM).display()),
        ])
        .args([
            "--log".to_owned(),
            format!("file={}", dir.join("swtpm.log").display()),
        ]);
    let mut process = run.spawn().context("cannot start swtpm")?;
    // Nothing is said there.
    drop((process.stdin.take(), process.stdout.take()));
    let until = Instant::now() + Duration::from_secs(60);
    while !dir.join(TPM).exists() {
        ensure!(Instant::now() < until, "swtpm does not come up");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

fn arguments(kind: Kind, accelerator: Accelerator) -> Vec<String> {
    let (code, _) = kind.firmware();
    let mut words: Vec<String> = vec!["qemu-system-x86_64".to_owned()];
    words.extend(accelerator.arguments().map(str::to_owned));
    // SMM and a guarded variable store: every build of OVMF with Secure Boot insists.
    let processors = std::env::var(PROCESSORS).unwrap_or_else(|_| "2".to_owned());
    let text = format!(
        "-smp {processors} -m 1024 -machine q35,smm=on,sata=off -global driver=cfi.pflash01,property=secure,value=on \
         -global ICH9-LPC.disable_s3=1 \
         -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/{code} \
         -drive if=pflash,format=raw,unit=1,file=vars.fd \
         -drive if=none,id=disk,format=raw,file=disk.raw,cache=unsafe,discard=unmap \
         -device virtio-blk-pci,drive=disk,bootindex=1 \
         -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= \
         -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
         -chardev socket,id=tpm,path={TPM} -tpmdev emulator,id=tpm,chardev=tpm -device tpm-crb,tpmdev=tpm \
         -nographic -nodefaults -monitor none -serial stdio \
         -chardev socket,id=probe,path={PROBE},server=on,wait=off -serial chardev:probe"
    );
    words.extend(text.split_whitespace().map(str::to_owned));
    words
}

/// Past logind, which `systemctl poweroff` asks first.
const POWER_OFF: &str =
    "systemctl --no-block --job-mode=replace-irreversibly start poweroff.target";
/// What the agent says when the KBS does not approve of the boot.
pub const NOT_APPROVED: &str = "the resource policy does not give this secret to this node";
/// From switching on to the system, by a [`Clock`](crate::processor::Clock) of the machine's own.
pub const BOOT: Duration = Duration::from_secs(900);
/// The variable that says how many processors a machine has; 2 without it.
pub const PROCESSORS: &str = "SHEEPFOLD_PROCESSORS";
/// The journal of this boot. `-b` alone leaves out what was written under another machine id, as an initramfs of
/// systemd 252 has one of its own.
pub const JOURNAL: &str = "journalctl -m --no-pager -o short-monotonic _BOOT_ID=$(tr -d - </proc/sys/kernel/random/boot_id)";
const TPM: &str = "tpm.sock";
const PROBE: &str = "probe.sock";
