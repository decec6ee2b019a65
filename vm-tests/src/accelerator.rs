// SPDX-License-Identifier: Apache-2.0
//! Whether this machine has hardware virtualisation that works. `/dev/kvm` proves nothing: nested inside other
//! virtual machines it may be there and stop at the first instruction of a firmware. So one is tried.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::console::Console;
use crate::inside::Inside;
use crate::say::say;
use crate::site;
use crate::trees;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, several times slower.
    Tcg,
}

impl Accelerator {
    /// The best that works here; found out once, and kept with the stories' files. `SHEEPFOLD_ACCELERATOR` says
    /// `kvm` or `tcg` instead.
    ///
    /// # Errors
    /// The variable says something else.
    pub fn here() -> Result<Self> {
        if let Ok(said) = std::env::var("SHEEPFOLD_ACCELERATOR") {
            return Self::named(&said);
        }
        let file = site::stories()?.join("accelerator");
        if let Ok(known) = fs::read_to_string(&file) {
            return Self::named(known.trim());
        }
        let found = if Path::new("/dev/kvm").exists() && kvm_works()? {
            Self::Kvm
        } else {
            Self::Tcg
        };
        fs::write(&file, format!("{found}\n"))?;
        Ok(found)
    }

    /// QEMU's arguments for it.
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    fn named(name: &str) -> Result<Self> {
        match name {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => bail!("SHEEPFOLD_ACCELERATOR must be kvm or tcg, got {other:?}"),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Lets a firmware without a disk come as far as its first words.
fn kvm_works() -> Result<bool> {
    say("trying hardware virtualisation");
    let dir = site::stories()?;
    let words = "qemu-system-x86_64 -accel kvm -cpu host -m 256 -machine q35 -nographic -nodefaults -monitor none \
                 -serial stdio -no-reboot \
                 -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let mut qemu = Inside::of(&trees::toolbox()?)
        .with(&dir, "/mnt")
        .run(words.split_whitespace())
        .spawn()?;
    let mut works = false;
    if let Some(port) = qemu.stdout.take() {
        let mut console = Console::listen(port, &dir.join("accelerator.log"))?;
        works = console
            .wait_for_any(&["BdsDxe"], Duration::from_secs(20))
            .is_ok();
    }
    drop(qemu.kill());
    let until = Instant::now() + Duration::from_secs(20);
    while qemu.try_wait()?.is_none() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    say(if works {
        "it works"
    } else {
        "it does not; machines are emulated"
    });
    Ok(works)
}
