// SPDX-License-Identifier: Apache-2.0

//! What a running node is made of, by the paths of Linux: its ESP, firmware's variables, the log and the PCRs of its
//! boot. Everything below a root, which is `/` unless somebody looks at a copy.

use super::judge::Observed;
use super::ostree::{self, Deployment};
use crate::Error;
use crate::platform;
use kbs_protocol::encoding::hex;
use measured_boot::authority::enrolled;
use measured_boot::bank::{Bank, Digest};
use measured_boot::eventlog::EventLog;
use measured_boot::facts::ImageFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::replay::Pcrs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    root: PathBuf,
}

impl Node {
    /// The node below this directory.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The deployment of ostree or bootc that the next boot runs; `None` where the system is not made of deployments.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Document`] for boot entries that cannot be followed.
    pub fn next_deployment(&self) -> Result<Option<Deployment>, Error> {
        ostree::next(&self.root)
    }

    /// The one that runs.
    ///
    /// # Errors
    /// As [`Node::next_deployment`].
    pub fn running_deployment(&self) -> Result<Option<Deployment>, Error> {
        ostree::running(&self.root)
    }

    /// Where the ESP is mounted.
    pub fn esp(&self) -> Option<PathBuf> {
        let mut places = ESP.iter().map(|place| self.root.join(place));
        places.find(|place| place.join("EFI").is_dir())
    }

    /// Firmware's variables, with what owners enrolled in shim.
    ///
    /// # Errors
    /// As [`platform::load`].
    pub fn platform(&self, loader: &ImageFacts) -> Result<PlatformFacts, Error> {
        let mut facts = platform::from_efivarfs("this machine", &self.root.join(EFIVARS))?;
        let list = |name: &str| self.optional(&Path::new(MOK_VARIABLES).join(name));
        if let (Some(shim), Some(mok_list), Some(mok_list_x)) =
            (&loader.shim, list("MokListRT")?, list("MokListXRT")?)
            && let Some(owned) = enrolled(shim, [&mok_list, &mok_list_x])
        {
            let owned = ["MokList", "MokListX"]
                .map(str::to_owned)
                .into_iter()
                .zip(owned);
            facts
                .variables
                .extend(owned.filter(|(_, list)| !list.0.is_empty()));
        }
        Ok(facts)
    }

    /// What its boot left behind.
    ///
    /// # Errors
    /// [`Error::Io`]; what [`EventLog::parse`] says.
    pub fn observed(&self, bank: Bank) -> Result<Observed, Error> {
        let log = self.optional(Path::new(EVENT_LOG))?;
        let log = log.filter(|log| !log.is_empty());
        let log = log.map(|log| EventLog::parse(&log)).transpose()?;
        Ok(Observed {
            // A log of another bank says nothing about this one.
            log: log.filter(|log| log.banks().contains(&bank)),
            pcrs: self.pcrs(bank)?,
        })
    }

    fn pcrs(&self, bank: Bank) -> Result<Option<Pcrs>, Error> {
        let directory = Path::new(TPM).join(format!("pcr-{bank}"));
        let mut pcrs = Pcrs::new(bank);
        for pcr in PREDICTED {
            let Some(text) = self.optional(&directory.join(pcr.to_string()))? else {
                return Ok(None);
            };
            let text = String::from_utf8_lossy(&text).trim().to_lowercase();
            let value = hex::decode(&text).filter(|value| value.len() == bank.size());
            let value = value.ok_or_else(|| {
                Error::document(format!("PCR {pcr}, as the kernel shows it"), "not a digest")
            })?;
            pcrs.set(pcr, Digest::new(value));
        }
        Ok(Some(pcrs))
    }

    /// A file that need not be there.
    fn optional(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let path = self.root.join(path);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }
}

/// The kernel of one image behind the boot loader of another: a deployment, and what is on the ESP. An ESP without a
/// boot loader changes nothing: then firmware starts what the image says.
pub fn with_boot_loader_of(deployment: ImageFacts, esp: &ImageFacts) -> ImageFacts {
    if esp.shim.is_none() && esp.boot_loader.is_none() {
        return deployment;
    }
    let has_own = deployment.kernel.is_some() || deployment.uki.is_some();
    // What belongs on the ESP and still lies in the image is not what boots.
    let addons = deployment
        .extras
        .iter()
        .filter(|path| path.ends_with(".addon.efi"));
    let mut facts = ImageFacts {
        shim: esp.shim.clone(),
        fallback: esp.fallback.clone(),
        boot_loader: esp.boot_loader.clone(),
        extras: esp.extras.iter().chain(addons).cloned().collect(),
        uki: match has_own {
            true => deployment.uki,
            false => esp.uki.clone(),
        },
        ..deployment
    };
    facts.extras.dedup();
    facts.route = facts.usual_route();
    facts
}

const ESP: [&str; 3] = ["boot/efi", "efi", "boot"];
const EFIVARS: &str = "sys/firmware/efi/efivars";
/// Whole, where the variables of the same names may be cut (kernel documentation, sysfs-firmware-efi-mok).
const MOK_VARIABLES: &str = "sys/firmware/efi/mok-variables";
const EVENT_LOG: &str = "sys/kernel/security/tpm0/binary_bios_measurements";
const TPM: &str = "sys/class/tpm/tpm0";
const PREDICTED: [u8; 6] = [4, 7, 11, 12, 13, 14];
