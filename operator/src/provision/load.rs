// SPDX-License-Identifier: Apache-2.0

//! Reads a directory of YAML files into what is wanted. Nothing is guessed: a field that is not known, a
//! second object of one name, an image that approves nothing are errors with file and line.

mod machine;
mod volumes;
mod yaml;

use super::ignition::Config;
use super::images::{self, Images};
use super::objects::{
    API_VERSION, ApprovedImage, Cluster, Head, Kbs, Machine, Object, Passphrase, Recovery, Release,
};
use super::runtime::{self, Resources};
use super::{Error, Place};
use crate::kbs_admin::Access;
use crate::model::{Boots, Desired, NodeName, Options, Pcr, State, Tag};
use kbs_protocol::Secret;
use kbs_protocol::volume_record::SignedRecord;
pub(super) use machine::beside;
pub(crate) use machine::node;
use machine::{ignition, machine};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yaml::{documents, files, is_blank, parse, wrong};

/// A directory that was read.
#[derive(Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// How to reach the KBS.
    pub kbs: Kbs,
    /// Where relative paths of `kbs` begin.
    base: PathBuf,
    /// What is wanted, but for the secrets of the machines.
    pub desired: Desired,
    /// The machines, as they are written down.
    pub machines: BTreeMap<NodeName, Entry>,
    /// How an owner gets at a disk when attestation does not work.
    pub recovery: Recovery,
    /// The values that each image states; what is computed is in `desired` only.
    pub images: BTreeMap<String, Boots>,
    /// What a person should know about the approved images.
    pub remarks: Vec<String>,
}

/// A machine as it is written down.
#[derive(Debug)]
pub struct Entry {
    /// `metadata.name`.
    pub name: String,
    /// Where.
    pub place: Place,
    /// Each volume has a secret.
    pub volumes: BTreeSet<Tag>,
    /// The init-data that it was started with, to the byte.
    pub init_data: Option<String>,
    /// What Ignition gets on its first boot.
    pub ignition: Option<Arc<Config>>,
    /// What the machine has said of their keys, not yet believed.
    pub records: Vec<SignedRecord>,
    /// What its running system may read.
    pub runtime: Resources,
}

impl Directory {
    /// Reads all `.yaml` and `.yml` files directly in the directory.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Object`] with file and line, [`Error::Directory`] without exactly one cluster.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let mut found = Found::default();
        for file in files(path)? {
            let text = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
            for (line, document) in documents(&text) {
                found.document(&file, line, &document)?;
            }
        }
        found.into_directory(path)
    }

    /// The machine with this `metadata.name` or id.
    ///
    /// # Errors
    /// [`Error::NoMachine`].
    pub fn find(&self, name: &str) -> Result<&NodeName, Error> {
        let mut machines = self.machines.iter();
        machines
            .find(|(node, entry)| entry.name == name || node.to_string() == name)
            .map(|(node, _)| node)
            .ok_or_else(|| Error::NoMachine {
                name: name.to_owned(),
                dir: self.path.clone(),
            })
    }

    /// What a person calls a machine.
    pub fn name<'a>(&'a self, node: &'a NodeName) -> Option<&'a str> {
        self.machines.get(node).map(|entry| entry.name.as_str())
    }

    /// Reads the files that `spec.kbs` names.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Exposed`] for a key that others can read, [`Error::Directory`] when something
    /// is missing.
    pub fn access(&self) -> Result<Access, Error> {
        let kbs = &self.kbs;
        let lab = |file: &str| kbs.laboratory.as_ref().map(|dir| dir.join(file));
        let lacks = |why: &str| Error::Directory {
            dir: self.path.clone(),
            why: why.to_owned(),
        };
        let ca = match (&kbs.ca, kbs.ca_file.clone().or_else(|| lab("ca.pem"))) {
            (Some(ca), _) => ca.clone(),
            (None, Some(file)) => {
                let file = self.base.join(file);
                std::fs::read_to_string(&file).map_err(Error::io("read", file))?
            }
            (None, None) if kbs.insecure_http => String::new(),
            (None, None) => return Err(lacks("spec.kbs needs caFile, ca or laboratory")),
        };
        let key = kbs.admin_key_file.clone().or_else(|| lab("admin.key"));
        let key = key.ok_or_else(|| lacks("spec.kbs needs adminKeyFile or laboratory"))?;
        let key = self.base.join(key);
        let metadata = std::fs::metadata(&key).map_err(Error::io("read", &key))?;
        if metadata.permissions().mode() & READABLE_BY_OTHERS != 0 {
            return Err(Error::Exposed { path: key });
        }
        let pem = std::fs::read(&key).map_err(Error::io("read", key))?;
        let mut access = Access::new(&kbs.url, &ca, Secret::new(pem));
        access.issuer.clone_from(&kbs.issuer);
        access.insecure_http = kbs.insecure_http;
        if let Some(role) = &kbs.role {
            access.role.clone_from(role);
        } else if kbs.laboratory.is_some() {
            LABORATORY_ROLE.clone_into(&mut access.role);
        }
        Ok(access)
    }

    /// The release that the cluster insists on.
    pub fn release(&self) -> Option<Release> {
        self.kbs.release
    }
}

/// Objects while they are being collected.
#[derive(Default)]
struct Found {
    cluster: Option<(Object<Cluster>, Place)>,
    images: Images,
    machines: BTreeMap<String, (Machine, Place)>,
}

impl Found {
    fn document(&mut self, file: &Path, line: u64, text: &str) -> Result<(), Error> {
        let place = Place {
            file: file.to_owned(),
            line,
        };
        let head: Head = parse(text, &place)?;
        let (version, kind) = match (head.api_version.as_deref(), head.kind.as_deref()) {
            (None, None) if is_blank(text) => return Ok(()),
            (Some(version), Some(kind)) => (version, kind),
            _ => return Err(wrong(&place, "an object begins with apiVersion and kind")),
        };
        if version != API_VERSION {
            let why = format!("apiVersion must be {API_VERSION}, got {version:?}");
            return Err(wrong(&place, why));
        }
        let twice = |name: &str| wrong(&place, format!("there are two {kind}s named {name:?}"));
        match kind {
            "TrustedExecutionCluster" | "Cluster" => {
                let object = parse(text, &place)?;
                match &self.cluster {
                    Some((_, first)) => {
                        let why = format!("a KBS serves one cluster, the first is in {first}");
                        Err(wrong(&place, why))
                    }
                    None => {
                        self.cluster = Some((object, place));
                        Ok(())
                    }
                }
            }
            "ApprovedImage" => {
                let object: Object<ApprovedImage> = parse(text, &place)?;
                let name = object.metadata.name;
                match self.images.contains_key(&name) {
                    true => Err(twice(&name)),
                    false => {
                        self.images.insert(name, (object.spec, place));
                        Ok(())
                    }
                }
            }
            "Machine" => {
                let object: Object<Machine> = parse(text, &place)?;
                let name = object.metadata.name;
                match self.machines.contains_key(&name) {
                    true => Err(twice(&name)),
                    false => {
                        self.machines.insert(name, (object.spec, place));
                        Ok(())
                    }
                }
            }
            _ => Err(wrong(
                &place,
                format!("kind must be Cluster, ApprovedImage or Machine, got {kind:?}"),
            )),
        }
    }

    fn into_directory(self, path: &Path) -> Result<Directory, Error> {
        let (cluster, place) = self.cluster.ok_or_else(|| Error::Directory {
            dir: path.to_owned(),
            why: "there is no Cluster in it".to_owned(),
        })?;
        let spec = cluster.spec;
        let usual = Options::default();
        let options = Options {
            evidence: spec.evidence.unwrap_or(usual.evidence),
            identity: spec.identity.unwrap_or(usual.identity),
            pcrs: spec.pcrs.unwrap_or_else(Pcr::usual),
        };
        let escrowed = escrowed(&options, spec.recovery).map_err(|why| wrong(&place, why))?;
        let mut desired = Desired {
            options,
            ..Desired::default()
        };
        let (boots, remarks) = images::approve(&self.images, &spec.registries, &place.file)?;
        desired.boots = boots;
        let everybodys = spec.ignition.map(|wanted| ignition(&wanted, &place));
        let everybodys = everybodys.transpose()?;
        let shared = runtime::read(&spec.runtime, &place)?;
        let mut machines: BTreeMap<NodeName, Entry> = BTreeMap::new();
        for (name, (spec, place)) in self.machines {
            let own = spec
                .ignition
                .as_ref()
                .map(|wanted| ignition(wanted, &place));
            let ignition = own.transpose()?.or_else(|| everybodys.clone());
            let records = volumes::records(&spec, &place)?;
            let mut runtime = shared.clone();
            runtime.extend(runtime::read(&spec.runtime, &place)?);
            let (node, machine, mut volumes, init_data) =
                machine(&name, spec, &place, desired.options.identity)?;
            if escrowed {
                volumes.extend(RECOVERY.parse::<Tag>());
            }
            if ignition.is_some() && volumes.contains(&Tag::ignition()) {
                let why = format!("{name} has a volume ignition, where its Ignition config lies");
                return Err(wrong(&place, why));
            }
            volumes::have_room(&name, &volumes, &place)?;
            if let Some(first) = machines.get(&node) {
                let why = format!("{name} and {} are both {node}", first.name);
                return Err(wrong(&place, why));
            }
            desired.machines.insert(node.clone(), machine);
            let entry = Entry {
                name,
                place,
                volumes,
                init_data,
                ignition,
                records,
                runtime,
            };
            machines.insert(node, entry);
        }
        Ok(Directory {
            path: path.to_owned(),
            cluster: cluster.metadata.name,
            base: place.file.parent().unwrap_or(path).to_owned(),
            kbs: spec.kbs,
            desired,
            machines,
            recovery: spec.recovery,
            images: self
                .images
                .into_iter()
                .map(|(name, (image, _))| (name, image.reference_values))
                .collect(),
            remarks,
        })
    }
}

/// Whether machines have a recovery passphrase in the KBS.
///
/// # Errors
/// A sentence, when that contradicts what the cluster promises.
pub(crate) fn escrowed(options: &Options, recovery: Recovery) -> Result<bool, &'static str> {
    let confidential = options.evidence.iter().any(|kind| kind.is_confidential());
    match recovery.passphrase {
        Passphrase::None => Ok(false),
        Passphrase::Escrowed if confidential && !recovery.even_when_confidential => Err(
            "recovery.passphrase: escrowed lets whoever runs the KBS open disks that this cluster's evidence \
             promises to keep from them; say evenWhenConfidential: true if that is wanted",
        ),
        Passphrase::Escrowed => Ok(true),
    }
}

/// The word for a state.
pub(super) fn word(state: State) -> &'static str {
    match state {
        State::Approved => "approved",
        State::Held => "held",
        State::Revoked => "revoked",
    }
}

/// The volume name of an escrowed recovery passphrase.
pub(crate) const RECOVERY: &str = "recovery";
/// The role that a laboratory's access list lets in.
const LABORATORY_ROLE: &str = "admin";
const READABLE_BY_OTHERS: u32 = 0o007;
