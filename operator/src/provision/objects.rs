// SPDX-License-Identifier: Apache-2.0

//! The objects that an administrator writes down, in the shape of Kubernetes objects: what is a file here
//! can be applied to a cluster there. Every unknown field is an error; `load` says in which line.

use crate::ignition::Integrity;
use crate::kbs_admin::{self, Dialect};
use crate::model::{AkPublic, Boots, Evidence, Identity, NodeName, Pcr, State, Tag};
use kbs_protocol::volume_record::SignedRecord;
use measured_boot::image::Architecture;
use measured_boot::path::Route;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The group and version of all objects.
pub const API_VERSION: &str = "trusted-execution-clusters.io/v1alpha1";

/// One YAML document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Object<S> {
    /// [`API_VERSION`].
    pub api_version: String,
    /// Which of the kinds below.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
}

/// The members of Kubernetes metadata that mean something, or do no harm, in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unique among the objects of this kind.
    pub name: String,
    /// For Kubernetes.
    #[serde(default, rename = "namespace")]
    pub _namespace: Option<String>,
    /// For people.
    #[serde(default, rename = "labels")]
    pub _labels: BTreeMap<String, String>,
    /// For people.
    #[serde(default, rename = "annotations")]
    pub _annotations: BTreeMap<String, String>,
}

/// Kind `TrustedExecutionCluster`, or `Cluster` for short: one in a directory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// The server that keeps the secrets.
    pub kbs: Kbs,
    /// Kinds of evidence, each sufficient; default: `tpm`.
    pub evidence: Option<BTreeSet<Evidence>>,
    /// Where a machine's name comes from; default: `ak`.
    pub identity: Option<Identity>,
    /// PCRs that every boot tuple must name; default: 4, 7, 14.
    pub pcrs: Option<BTreeSet<Pcr>>,
    /// How an owner gets at a disk when attestation does not work.
    #[serde(default)]
    pub recovery: Recovery,
    /// How to reach the registries of approved images.
    #[serde(default)]
    pub registries: Registries,
    /// The Ignition config of every machine that has none of its own.
    pub ignition: Option<Ignition>,
    /// What the running system of every machine may read, unless it has its own under the same name.
    #[serde(default)]
    pub runtime: Vec<Runtime>,
}

/// How to reach the KBS as its administrator. Relative paths begin at the file that names them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kbs {
    /// `https://host:port`.
    pub url: String,
    /// A directory made by `lab-kbs init`: stands for `caFile`, `adminKeyFile` and `role`.
    pub laboratory: Option<PathBuf>,
    /// Certificate authorities of the KBS, PEM.
    pub ca_file: Option<PathBuf>,
    /// The same, here.
    pub ca: Option<String>,
    /// The administrator's Ed25519 key, PKCS #8 PEM.
    pub admin_key_file: Option<PathBuf>,
    /// `iss` of the administrator's tokens.
    #[serde(default = "name")]
    pub issuer: String,
    /// `role` of the administrator's tokens.
    pub role: Option<String>,
    /// Insist on a release.
    pub release: Option<Release>,
    /// Plain HTTP, for a laboratory.
    #[serde(default)]
    pub insecure_http: bool,
}

/// A release of Trustee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Release {
    /// 0.20.
    #[serde(rename = "0.20")]
    V0_20,
    /// 0.21 and newer.
    #[serde(rename = "0.21")]
    V0_21,
}

impl Release {
    /// What the admin client calls it.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::V0_20 => Dialect::V0_20,
            Self::V0_21 => Dialect::V0_21,
        }
    }
}

/// How an owner gets at a disk when attestation does not work.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Recovery {
    /// A passphrase for a slot of its own, kept in the KBS.
    #[serde(default)]
    pub passphrase: Passphrase,
    /// Keep one although the cluster's evidence promises confidentiality from whoever runs the KBS.
    #[serde(default)]
    pub even_when_confidential: bool,
}

/// Whether a recovery passphrase exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passphrase {
    /// No: without attestation the disk stays shut.
    #[default]
    None,
    /// Yes, as the resource `default/<node>/recovery`.
    Escrowed,
}

/// Kind `ApprovedImage`: an image whose boots are computed, values that somebody has written down, or both.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApprovedImage {
    /// The image, as `refvals` takes it: `host/repository@sha256:…`, an OCI layout, a directory. Without `platforms` it
    /// is for people.
    #[serde(alias = "reference")]
    pub image: Option<String>,
    /// The platforms that its boots are computed for, as `refvals combine --platform` takes them.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Names of the images that machines are updated from, and roll back to.
    #[serde(default)]
    pub updates_from: BTreeSet<String>,
    /// What the image does not say about its boots.
    #[serde(default)]
    pub boot: Boot,
    /// What its boots show.
    #[serde(default)]
    pub reference_values: Boots,
}

/// What an image does not say about its boots. Members as the options of `refvals`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Boot {
    /// Beginnings of paths: which of several candidates boots.
    pub select: Vec<String>,
    /// Who starts whom.
    pub path: Option<Route>,
    /// Whose programs.
    pub architecture: Architecture,
    /// How often GRUB measures the kernel.
    pub kernel_measurements: Option<u8>,
    /// Boot options that fail before the one that works.
    pub failed_boot_options: u8,
    /// Words that systemd has extended into PCR 11 by the time of the quote.
    pub phases: Vec<String>,
    /// Accept also a new shim beside the old boot loader.
    pub partial_esp: bool,
}

/// How to reach the registries of approved images. Relative paths begin at the file that names them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Registries {
    /// Credentials (containers-auth.json); default: those of podman or docker.
    pub auth_file: Option<PathBuf>,
    /// Certificate authorities, PEM; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// `HOST=MIRROR[/PREFIX]`: ask this mirror first.
    pub mirrors: Vec<String>,
    /// Speak to these hosts without TLS, in a laboratory.
    pub plain_http: Vec<String>,
    /// Insist on a signature by this public key, as cosign keeps it.
    pub cosign_key_file: Option<PathBuf>,
}

/// Kind `Machine`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Machine {
    /// The attestation key, as `trustee-agent status` shows it: base64 of the DER SubjectPublicKeyInfo.
    pub attestation_key: Option<AkPublic>,
    /// The registrar's file about the machine's TPM: its approved key, instead of `attestationKey`.
    pub record_file: Option<PathBuf>,
    /// The name, where it is assigned. With a key and `identity: ak` it is derived; then this must agree.
    pub id: Option<NodeName>,
    /// The init-data that the machine was started with, to the byte.
    pub init_data: Option<String>,
    /// The same, in a file.
    pub init_data_file: Option<PathBuf>,
    /// `approved`, `held` or `revoked`.
    pub state: State,
    /// Its volumes; default: `root`.
    #[serde(default = "root")]
    pub volumes: BTreeSet<Tag>,
    /// Its Ignition config, instead of the cluster's.
    pub ignition: Option<Ignition>,
    /// What it has said of their keys: files `/run/trustee/volumes.json` of its first boots. With `recordFile` they come
    /// from the registrar.
    #[serde(default)]
    pub volume_records: Vec<PathBuf>,
    /// What its running system may read.
    #[serde(default)]
    pub runtime: Vec<Runtime>,
}

/// A resource for the running system, at `runtime/<node>/<name>`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The last segment of its path.
    pub name: Tag,
    /// Its content, whatever that is.
    pub file: PathBuf,
}

/// The config that Ignition takes out of an attestation, at `default/<node>/ignition`: `config` or `configFile`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ignition {
    /// The JSON text of an Ignition config.
    pub config: Option<String>,
    /// The same, in a file.
    pub config_file: Option<PathBuf>,
    /// Volumes that are encrypted besides and bound to the pin.
    #[serde(default)]
    pub luks: Vec<Luks>,
}

/// A volume that Ignition encrypts; names and forms as in [`crate::ignition::Volume`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Luks {
    /// The opened device is `/dev/mapper/<name>`.
    pub name: String,
    /// What is encrypted: a path below `/dev`.
    pub device: String,
    /// Of the LUKS2 header.
    pub label: Option<String>,
    /// Of the LUKS2 header.
    pub uuid: Option<String>,
    /// Lose what is on the device; otherwise the boot fails where there is anything.
    #[serde(default = "yes")]
    pub wipe_volume: bool,
    /// What authenticates its sectors.
    #[serde(default)]
    pub integrity: Integrity,
    /// Pass discards to the device.
    #[serde(default)]
    pub discard: bool,
    /// What is made on it.
    pub filesystem: Option<Filesystem>,
}

/// A file system on an encrypted volume.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Filesystem {
    /// Its type.
    pub format: Format,
    /// Its label.
    pub label: Option<String>,
    /// Where it is mounted while Ignition writes files.
    pub path: Option<String>,
}

/// A type of file system that Ignition makes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ext4(5).
    Ext4,
    /// xfs(5).
    Xfs,
    /// btrfs(5).
    Btrfs,
}

/// What we read of a registrar's file: the attestation keys that a TPM has shown, one of them approved.
#[derive(Debug, Deserialize)]
pub(super) struct EnrolledTpm {
    pub(super) keys: Vec<EnrolledKey>,
}

/// A key in a registrar's file.
#[derive(Debug, Deserialize)]
pub(super) struct EnrolledKey {
    pub(super) ak_public: AkPublic,
    pub(super) state: String,
    #[serde(default)]
    pub(super) volumes: Vec<SignedRecord>,
}

/// What every document says first.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
}

fn name() -> String {
    kbs_admin::NAME.to_owned()
}

fn yes() -> bool {
    true
}

fn root() -> BTreeSet<Tag> {
    "root".parse().into_iter().collect()
}
