// SPDX-License-Identifier: Apache-2.0

//! The rows about the seal: who has left its initramfs, and what it may still read.

use super::SEALED as NOT_BY_US;
use super::{
    AZ_SNP_OPEN, AZ_TDX_OPEN, Case, Change, GOOD, NOTHING, OTHER_BOOT, TDX_OPEN, cpu, launch, tuple,
};
use crate::testing::ak;
use serde_json::{Value, json};

/// Both kinds of registers move from zeros to fives.
pub(super) fn seals() -> Value {
    let seal = |digits| json!({"before": "0".repeat(digits), "after": "5".repeat(digits)});
    json!([seal(64), seal(96)])
}

/// The token of a node that has sealed its boot.
pub(super) fn sealed(mut token: Value) -> Value {
    for submod in token["submods"].as_object_mut().unwrap().values_mut() {
        submod["ear.status"] = json!("warning");
        submod["sheepfold.phase"] = json!("sealed");
        submod["ear.trustworthiness-vector"] = json!({
            "instance-identity": 2, "hardware": 2, "executables": 3, "configuration": 36,
        });
    }
    token
}

fn seal_pcr11(input: &mut Value) {
    input["tpm"]["pcr11"] = json!("5".repeat(64));
}

const SEALED: &str = "2 2 3 36 evidence=tpm snp+tpm identity=ak node=n1 phase=sealed tee=tpm";

pub(super) const TPM: &[(&str, Change, &str)] = &[
    ("sealed", |i, _| seal_pcr11(i), SEALED),
    (
        "moved, and not by the seal",
        |i, _| i["tpm"]["pcr11"] = json!("4".repeat(64)),
        NOT_BY_US,
    ),
    (
        "sealed, another boot",
        |i, _| {
            seal_pcr11(i);
            i["tpm"]["pcr04"] = json!("1".repeat(64));
        },
        OTHER_BOOT,
    ),
    (
        "sealed, unknown key",
        |i, _| {
            seal_pcr11(i);
            i["tpm"]["ak_public"] = json!(ak(2));
        },
        "97 97 3 36 evidence=tpm snp+tpm identity=ak phase=sealed tee=tpm",
    ),
    (
        "the seal of another image",
        |i, v| {
            seal_pcr11(i);
            tuple(v)["pcr11"] = json!("2".repeat(64));
        },
        NOT_BY_US,
    ),
    (
        "unified kernel image, sealed",
        |i, v| {
            tuple(v)["pcr11"] = json!("2".repeat(64));
            v.insert(
                "seals".to_owned(),
                json!([{"before": "2".repeat(64), "after": "6".repeat(64)}]),
            );
            i["tpm"]["pcr11"] = json!("6".repeat(64));
        },
        SEALED,
    ),
    (
        "a seal that changes nothing",
        |_, v| v.get_mut("seals").unwrap()[0]["after"] = json!("0".repeat(64)),
        GOOD,
    ),
    (
        "no seals",
        |i, v| {
            seal_pcr11(i);
            v.remove("seals");
        },
        NOT_BY_US,
    ),
    (
        "object for seals",
        |i, v| {
            seal_pcr11(i);
            let seal = v["seals"][0].clone();
            v.insert("seals".to_owned(), json!({"a": seal}));
        },
        NOT_BY_US,
    ),
    (
        "seals of other forms",
        |i, v| {
            seal_pcr11(i);
            let (before, after) = ("0".repeat(64), "5".repeat(64));
            v.insert(
                "seals".to_owned(),
                json!([null, after, [before, after], {"before": before}, {"after": after},
                    {"before": null, "after": after}, {"before": before, "after": [after]}]),
            );
        },
        NOT_BY_US,
    ),
    (
        "PCR 11 is null, and so is a seal",
        |i, v| {
            i["tpm"]["pcr11"] = Value::Null;
            v.insert("seals".to_owned(), json!([{"before": null, "after": null}]));
        },
        NOT_BY_US,
    ),
];

const TDX_SEALED: &str =
    "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 phase=sealed tee=tdx";

fn seal_rtmr3(input: &mut Value) {
    input["tdx"]["quote"]["body"]["rtmr_3"] = json!("5".repeat(96));
}

pub(super) const TDX: &[(&str, Change, &str)] = &[
    ("sealed", |i, _| seal_rtmr3(i), TDX_SEALED),
    (
        "sealed, debugging allowed",
        |i, _| {
            seal_rtmr3(i);
            i["tdx"]["td_attributes"]["debug"] = json!(true);
        },
        TDX_OPEN,
    ),
    (
        "sealed, another launch",
        |i, v| {
            seal_rtmr3(i);
            launch(v)["rtmr_1"] = json!("1".repeat(96));
        },
        "2 2 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=tdx",
    ),
    (
        "the seal of another launch",
        |i, v| {
            seal_rtmr3(i);
            launch(v)["rtmr_3"] = json!("2".repeat(96));
        },
        TDX_OPEN,
    ),
    (
        "with a report that is as good",
        |i, _| i["snp"] = json!({"policy_debug_allowed": false, "policy_migrate_ma": false}),
        NOTHING,
    ),
];

pub(super) const AZ_SNP: &[(&str, Change, &str)] = &[
    (
        "sealed",
        |i, _| i["az-snp-vtpm"]["tpm"]["pcr11"] = json!("5".repeat(64)),
        "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 phase=sealed tee=az-snp-vtpm",
    ),
    (
        "sealed, debugging allowed",
        |i, _| {
            i["az-snp-vtpm"]["tpm"]["pcr11"] = json!("5".repeat(64));
            i["az-snp-vtpm"]["policy_debug_allowed"] = json!("true");
        },
        AZ_SNP_OPEN,
    ),
];

pub(super) const AZ_TDX: &[(&str, Change, &str)] = &[
    (
        "sealed",
        |i, _| i["az-tdx-vtpm"]["tpm"]["pcr11"] = json!("5".repeat(64)),
        "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 phase=sealed tee=az-tdx-vtpm",
    ),
    (
        "sealed, debugging allowed",
        |i, _| {
            i["az-tdx-vtpm"]["tpm"]["pcr11"] = json!("5".repeat(64));
            i["az-tdx-vtpm"]["td_attributes"]["debug"] = json!(true);
        },
        AZ_TDX_OPEN,
    ),
];

pub(super) const REASONS: &[(&str, Change, &str)] = &[
    (
        "sealed",
        |i, _| seal_pcr11(i),
        r#""this boot is sealed, the disk's secret comes again with the next one""#,
    ),
    (
        "moved, and not by the seal",
        |i, _| i["tpm"]["pcr11"] = json!("4".repeat(64)),
        "-",
    ),
];

// ---- The resource policy, asked for `runtime/n1/kubelet` with the token of a sealed node.

fn claim(request: &mut super::Request, n: usize, name: &str, value: Value) {
    cpu(request, n)["ear.trustworthiness-vector"][name] = value;
}

pub(super) const RUNTIME: &[Case] = &[
    ("own", |_| {}, "allow"),
    ("another of its own", |r| r.path[2] = "ca", "allow"),
    (
        "its disk's secret",
        |r| r.path = vec!["default", "n1", "root"],
        "deny",
    ),
    ("of another", |r| r.path[1] = "n2", "deny"),
    ("another repository", |r| r.path[0] = "secrets", "deny"),
    ("another plugin", |r| r.plugin = "provisioner", "deny"),
    ("two segments", |r| r.path = vec!["runtime", "n1"], "deny"),
    (
        "before the seal",
        |r| {
            cpu(r, 0)["ear.status"] = json!("affirming");
            cpu(r, 0)["sheepfold.phase"] = json!("initramfs");
        },
        "allow",
    ),
    (
        "in no phase",
        |r| drop(cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.phase")),
        "deny",
    ),
    (
        "not sealed, and yet a warning",
        |r| cpu(r, 0)["sheepfold.phase"] = json!("initramfs"),
        "deny",
    ),
    (
        "phase is true",
        |r| cpu(r, 0)["sheepfold.phase"] = json!(true),
        "deny",
    ),
    (
        "contraindicated",
        |r| cpu(r, 0)["ear.status"] = json!("contraindicated"),
        "deny",
    ),
    (
        "no verdict",
        |r| cpu(r, 0)["ear.status"] = Value::Null,
        "deny",
    ),
    (
        "another boot",
        |r| claim(r, 0, "executables", json!(33)),
        "deny",
    ),
    (
        "no word of the boot",
        |r| claim(r, 0, "executables", json!(0)),
        "deny",
    ),
    (
        "hardware is not shown",
        |r| claim(r, 0, "hardware", json!(97)),
        "deny",
    ),
    (
        "no word of the hardware",
        |r| claim(r, 0, "hardware", Value::Null),
        "deny",
    ),
    (
        "not known",
        |r| claim(r, 0, "instance-identity", json!(97)),
        "deny",
    ),
    (
        "no word of who it is",
        |r| claim(r, 0, "instance-identity", Value::Null),
        "deny",
    ),
    (
        "no claims",
        |r| cpu(r, 0)["ear.trustworthiness-vector"] = json!({}),
        "deny",
    ),
    (
        "nameless",
        |r| drop(cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.node")),
        "deny",
    ),
    (
        "cluster asks for more",
        |r| cpu(r, 0)["sheepfold.evidence"] = json!("snp+tpm"),
        "deny",
    ),
    (
        "unknown identity",
        |r| cpu(r, 0)["sheepfold.identity"] = json!("any"),
        "deny",
    ),
    ("no evidence", |r| r.token = json!({"submods": {}}), "deny"),
    ("empty token", |r| r.token = json!({}), "deny"),
];

pub(super) const RUNTIME_COMPOSITE: &[Case] = &[
    ("own", |_| {}, "allow"),
    (
        "its disk's secret",
        |r| r.path = vec!["default", "n1", "root"],
        "deny",
    ),
    (
        "the quote is what names the node",
        |r| claim(r, 0, "instance-identity", json!(0)),
        "allow",
    ),
    (
        "the report has no seal",
        |r| {
            cpu(r, 0)["ear.status"] = json!("affirming");
            cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.phase");
        },
        "allow",
    ),
    (
        "the report is not affirming",
        |r| drop(cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.phase")),
        "deny",
    ),
    (
        "the quote is of another boot",
        |r| claim(r, 1, "executables", json!(33)),
        "deny",
    ),
    (
        "report and quote disagree about the node",
        |r| cpu(r, 0)["sheepfold.node"] = json!("n2"),
        "deny",
    ),
];
