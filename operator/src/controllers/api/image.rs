// SPDX-License-Identifier: Apache-2.0

//! `ApprovedImage`: an operating system that machines may boot, and what its boots show.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "what KubeSchema derives repeats each struct inside a function; columns have types in common"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An operating system that machines may boot. Deleting it refuses those that booted it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "trusted-execution-clusters.io",
    version = "v1alpha1",
    kind = "ApprovedImage",
    namespaced,
    status = "ApprovedImageStatus",
    shortname = "aimg",
    derive = "PartialEq",
    doc = "An operating system that machines may boot. Deleting it refuses those that booted it.",
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image"),
    printcolumn(
        name = "Values",
        type_ = "integer",
        json_path = ".status.referenceValues"
    ),
    printcolumn(
        name = "Committed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Committed\")].status"
    ),
    printcolumn(
        name = "Scanned",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Scanned\")].reason"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Committed\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.image) || has(self.reference) || has(self.referenceValues)")
        .message("say which image, or which reference values"),
    validation = Rule::new("!has(self.image) || !has(self.reference) || self.image == self.reference")
        .message("image and reference are two names of one field: say one of them"),
    validation = Rule::new("!has(self.image) || self.image.matches('@sha256:[0-9a-f]{64}$')")
        .message("image must carry a digest (@sha256:...): a tag can move to another image"),
    validation = Rule::new("!has(self.reference) || self.reference.matches('@sha256:[0-9a-f]{64}$')")
        .message("reference must carry a digest (@sha256:...): a tag can move to another image"),
    validation = Rule::new("has(self.image) == has(oldSelf.image) && \
        (!has(self.image) || self.image == oldSelf.image)")
        .message("image cannot change: approve the other one with an object of its own"),
    validation = Rule::new("has(self.reference) == has(oldSelf.reference) && \
        (!has(self.reference) || self.reference == oldSelf.reference)")
        .message("reference cannot change: approve the other one with an object of its own"),
    validation = Rule::new("has(self.image) || has(self.reference) || \
        (!has(self.platforms) && !has(self.updatesFrom))")
        .message("platforms and updatesFrom are about an image: say which")
)]
pub struct ApprovedImageSpec {
    /// The image, with its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Another name for `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What its boots show, written down by hand; approved beside what is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_values: Option<ReferenceValues>,
    /// Compute what the image boots on each of these: `profile:NAME`, or `configmap:NAME[/ENTRY]` with what `refvals
    /// platform` writes (entry: `platform.json`); several of them, separated by commas, for a platform that changes in this
    /// order. Default: `spec.platforms` of the cluster, unless there are `referenceValues`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platforms: Option<Vec<String>>,
    /// Names of the images that machines are updated from, and roll back to: every step on the way is approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updates_from: Option<Vec<String>>,
    /// What the image does not say about its boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// A Secret with credentials for its registry, in place of the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<String>,
}

/// What an image does not say about its boots, as the options of `refvals`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// Beginnings of paths: which of several candidates boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Vec<String>>,
    /// Who starts whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(shim-grub|grub|shim-uki|sdboot-uki|uki)$"))]
    pub path: Option<String>,
    /// Whose programs: `x64` (the default) or `aa64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(x64|aa64)$"))]
    pub architecture: Option<String>,
    /// How often GRUB measures the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_measurements: Option<u8>,
    /// Boot options that fail before the one that works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_boot_options: Option<u8>,
    /// Words that systemd has extended into PCR 11 by the time of the quote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Vec<String>>,
    /// Accept also a new shim beside the old boot loader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_esp: Option<bool>,
}

/// What approved boots show. Values in one tuple count together or not at all.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceValues {
    /// SHA-256 PCRs of one boot, in hexadecimal: `{pcr04: ..., pcr07: ..., pcr14: ...}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_tuples: Vec<BTreeMap<String, String>>,
    /// SEV-SNP launch measurements, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snp_measurements: Vec<String>,
    /// Oldest acceptable SEV-SNP firmware, one for each generation of processors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snp_tcb_floors: Vec<TcbFloor>,
    /// TDX launches: `{mr_td: ..., rtmr_1: ..., rtmr_2: ...}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tdx_launches: Vec<BTreeMap<String, String>>,
    /// Acceptable states of the TDX platform, such as `UpToDate`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tdx_tcb_status: Vec<String>,
    /// Launch measurements of Azure's SEV-SNP firmware, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub az_snp_measurements: Vec<String>,
    /// MRTD of Azure's TDX firmware, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub az_tdx_mr_tds: Vec<String>,
}

/// The oldest acceptable SEV-SNP firmware; all four must be met.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcbFloor {
    /// Security version of the boot loader.
    pub bootloader: u8,
    /// Security version of the microcode.
    pub microcode: u8,
    /// Security version of the SNP firmware.
    pub snp: u8,
    /// Security version of the PSP operating system.
    pub tee: u8,
}

/// How an image stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ApprovedImageStatus {
    /// `Committed`: the KBS has its reference values. `Scanned`: they were computed from the image, or why not.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The image, under whichever name it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How many reference values it adds.
    #[serde(default)]
    pub reference_values: i64,
    /// What was computed from the image, so that nobody has to look through it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed: Option<Computed>,
}

/// What was computed from an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Computed {
    /// Its digest; what was computed for another one does not count.
    pub image: String,
    /// SHA-256, in hexadecimal, of all that it was computed from: images, platforms, how they boot.
    pub inputs: String,
    /// The boots.
    pub boots: Vec<ComputedBoot>,
    /// What a person should know, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// When.
    pub at: Time,
    /// The operator that computed it.
    pub version: String,
}

/// One boot of a computed image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ComputedBoot {
    /// What it shows, as in `referenceValues.bootTuples`.
    pub boot_tuple: BTreeMap<String, String>,
    /// On which platform.
    pub platform: String,
    /// Digests of other images, of an update, whose boot loader it needs: without one of them it does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}
