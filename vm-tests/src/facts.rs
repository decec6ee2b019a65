// SPDX-License-Identifier: Apache-2.0
//! What is so inside a machine, read there: not what a log says about it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use kbs_protocol::encoding::hex;
use serde_json::Value;

use crate::chain::Chain;
use crate::disk::LUKS_UUID;
use crate::machine::JOURNAL;
use crate::node::Node;
use crate::probe::Probe;

/// Asks in a machine how many prompts for a passphrase are open; with none it ends with 1.
pub const PROMPTS: &str = "ls /run/systemd/ask-password/ | grep -c ^ask";

/// What the kernel does to the sectors of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sectors {
    /// AES-XTS.
    Encrypted,
    /// AES-XTS, and HMAC-SHA-256 beside each sector, which dm-integrity keeps.
    Hmac,
    /// AES-GCM, its tag and IV beside each sector.
    Gcm,
}

/// Facts of one moment.
#[derive(Debug)]
pub struct Facts {
    /// `/proc/cmdline`.
    pub command_line: String,
    /// The device and type of the file system at `/`.
    pub root: String,
    /// `dmsetup table`, without keys.
    pub tables: String,
    /// The UUIDs of the device-mapper devices, `CRYPT-LUKS2-…-NAME`.
    pub dm_uuids: String,
    /// The LUKS2 metadata of the root partition.
    pub header: Value,
    /// SHA-256 PCRs.
    pub pcrs: BTreeMap<u8, [u8; 32]>,
    /// Whether the firmware enforced Secure Boot.
    pub secure_boot: bool,
    /// The journal of this boot.
    pub journal: String,
}

impl Facts {
    /// Reads them, and keeps the journal as `journal-MOMENT.log` in the node's directory.
    ///
    /// # Errors
    /// The machine does not answer, or something is missing there.
    pub fn read(probe: &mut Probe, node: &Node, moment: &str) -> Result<Self> {
        let said = probe.ask(SCRIPT)?;
        let part = |name: &str| {
            let (_, after) = said
                .split_once(&format!("@@{name}\n"))
                .with_context(|| format!("no {name} in {said}"))?;
            Ok::<_, anyhow::Error>(
                after
                    .split("@@")
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            )
        };
        let mut pcrs = BTreeMap::new();
        for (index, line) in (0..).zip(part("pcrs")?.lines()) {
            let value = hex::decode(&line.to_lowercase()).and_then(|bytes| bytes.try_into().ok());
            pcrs.insert(
                index,
                value.with_context(|| format!("no PCR value: {line}"))?,
            );
        }
        let journal = probe.ask(JOURNAL)?;
        fs::write(node.dir().join(format!("journal-{moment}.log")), &journal)?;
        let header = part("header")?;
        Ok(Self {
            command_line: part("cmdline")?,
            root: part("root")?,
            tables: part("tables")?,
            dm_uuids: part("uuids")?,
            header: serde_json::from_str(&header)
                .with_context(|| format!("no LUKS2 metadata: {header}"))?,
            pcrs,
            secure_boot: part("secureboot")? == "1",
            journal,
        })
    }

    /// The root is the LUKS2 volume of the disk, opened with its own cipher, and mounted.
    ///
    /// # Errors
    /// It is not.
    pub fn root_is_the_volume(&self, sectors: Sectors) -> Result<()> {
        ensure!(
            self.root == "/dev/mapper/root ext4",
            "the root is {}",
            self.root
        );
        let uuid = format!("CRYPT-LUKS2-{}-root", LUKS_UUID.replace('-', ""));
        let (root, below): (Vec<&str>, _) = self.dm_uuids.lines().partition(|line| *line == uuid);
        ensure!(
            root.len() == 1 && below.len() == usize::from(sectors != Sectors::Encrypted),
            "device-mapper has {}, expected {uuid}",
            self.dm_uuids
        );
        let table = |name: &str| {
            let of = format!("{name}: 0 ");
            self.tables.lines().find(|line| line.starts_with(&of))
        };
        let (cipher, option) = match sectors {
            Sectors::Encrypted => ("aes-xts-plain64", ""),
            Sectors::Hmac => (
                "capi:authenc(hmac(sha256),xts(aes))-plain64",
                " integrity:32:aead",
            ),
            Sectors::Gcm => ("capi:gcm(aes)-random", " integrity:28:aead"),
        };
        let root = table("root").unwrap_or_default();
        ensure!(
            root.contains(&format!(" crypt {cipher} :")) && root.contains(option),
            "the table of the root is {root}, expected {cipher}{option}",
        );
        ensure!(
            sectors == Sectors::Encrypted
                || table("root_dif").is_some_and(|table| table.contains(" integrity ")),
            "nothing keeps the tags: {}",
            self.tables
        );
        Ok(())
    }

    /// The registers that were approved are those that the machine has now.
    ///
    /// # Errors
    /// One differs: a prediction was wrong.
    pub fn pcrs_are_as_predicted(&self, chain: &Chain) -> Result<()> {
        for (index, predicted) in chain.tuple()? {
            // systemd goes on extending this one after the initramfs.
            if index == 11 {
                continue;
            }
            let shown = self
                .pcrs
                .get(&index)
                .context("the machine has no such PCR")?;
            ensure!(
                *shown == predicted,
                "PCR {index} is {}, predicted was {}",
                hex::encode(shown),
                hex::encode(predicted)
            );
        }
        Ok(())
    }

    /// The volume has one way in: a Clevis token bound to slot 1, which names this node's secret.
    ///
    /// # Errors
    /// It has another one.
    pub fn only_clevis_opens_it(&self) -> Result<()> {
        let members = |name: &str| {
            let part = self.header.get(name).and_then(Value::as_object);
            part.cloned().unwrap_or_default()
        };
        let slots: Vec<String> = members("keyslots")
            .into_iter()
            .map(|(slot, _)| slot)
            .collect();
        ensure!(slots == ["1"], "the volume has the key slots {slots:?}");
        let tokens: Vec<Value> = members("tokens")
            .into_iter()
            .map(|(_, token)| token)
            .collect();
        let [token] = tokens.as_slice() else {
            anyhow::bail!("the volume has {} tokens", tokens.len());
        };
        ensure!(
            token.get("type").and_then(Value::as_str) == Some("clevis")
                && token.pointer("/keyslots/0").and_then(Value::as_str) == Some("1"),
            "the token is {token}"
        );
        Ok(())
    }
}

const SCRIPT: &str = r#"
echo @@cmdline; cat /proc/cmdline
echo @@root; findmnt -n -o SOURCE,FSTYPE / | head -n 1 | (read -r a b; echo "$a $b")
echo @@tables; dmsetup table
echo @@uuids; dmsetup info -c --noheadings -o uuid
echo @@header; cryptsetup luksDump --dump-json-metadata /dev/disk/by-partlabel/root
echo @@pcrs; for i in {0..23}; do cat /sys/class/tpm/tpm0/pcr-sha256/$i; done
echo @@secureboot
mountpoint -q /sys/firmware/efi/efivars || mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null
od -An -t u1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-* | (read -r x; echo "$x")
"#;
