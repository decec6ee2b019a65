// SPDX-License-Identifier: Apache-2.0

//! What the two policies allow and deny, row by row. [`mutants`](super::mutants) takes each line out of the
//! policies and expects that at least one row notices.

use super::engine::{AttestationPolicy, ReferenceValues, ResourcePolicy};
use crate::testing::{ak, boot_tuple, tpm_evidence};
use serde_json::{Value, json};
use std::collections::BTreeMap;

mod phases;

/// One question to a policy, and the answer it must give.
pub(super) struct Row<Q> {
    pub(super) why: String,
    pub(super) question: Q,
    pub(super) answer: String,
}

/// Evidence and reference values. The answer is the four claims, the extensions' node, or `error`.
pub(super) struct Evidence {
    input: Value,
    values: BTreeMap<String, Value>,
    known: ReferenceValues,
    /// Whether the row asks for the words to people alone; the others pass over them.
    for_people: bool,
}

/// A token and a request. The answer is `allow`, `deny`, `silence` or `error`.
pub(super) struct Request {
    token: Value,
    plugin: &'static str,
    path: Vec<&'static str>,
}

impl Evidence {
    fn new(input: Value, values: BTreeMap<String, Value>) -> Self {
        let known = values.iter().collect();
        Self {
            input,
            values,
            known,
            for_people: false,
        }
    }

    /// Whether the row is about size, and too slow to be asked hundreds of times.
    pub(super) fn is_large(&self) -> bool {
        self.values.values().any(|value| {
            value
                .as_array()
                .map(Vec::len)
                .or(value.as_object().map(|o| o.len()))
                > Some(1000)
        })
    }

    pub(super) fn ask(&self, policy: &AttestationPolicy) -> String {
        let Ok(appraisal) = policy.appraise(&self.input, &self.known) else {
            return "error".to_owned();
        };
        let reasons = appraisal.extensions.get(REASONS);
        if self.for_people {
            return reasons.map_or("-".to_owned(), Value::to_string);
        }
        let claim = |name: &str| {
            appraisal
                .claims
                .get(name)
                .map_or("-".to_owned(), i64::to_string)
        };
        let mut answer = [
            "instance-identity",
            "hardware",
            "executables",
            "configuration",
        ]
        .map(claim)
        .join(" ");
        let decided = |(name, _): &(&String, &Value)| *name != REASONS;
        for (name, value) in appraisal.extensions.iter().filter(decided) {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            answer += &format!(" {}={value}", name.trim_start_matches("sheepfold."));
        }
        answer
    }
}

impl Request {
    pub(super) fn ask(&self, policy: &ResourcePolicy) -> String {
        match policy.decide(&self.token, self.plugin, &self.path) {
            Ok(Some(true)) => "allow".to_owned(),
            Ok(Some(false)) => "deny".to_owned(),
            Ok(None) => "silence".to_owned(),
            Err(_) => "error".to_owned(),
        }
    }
}

/// What is asked differently, and the answer to that.
type Case = (&'static str, fn(&mut Request), &'static str);
type Change = fn(&mut Value, &mut BTreeMap<String, Value>);

pub(super) fn attestation() -> Vec<Row<Evidence>> {
    let mut rows = Vec::new();
    let mut of = |base: fn() -> Evidence, cases: &[(&str, Change, &str)]| {
        rows.extend(cases.iter().map(|case| {
            let (question, answer) = changed(base, case);
            let about = question
                .input
                .as_object()
                .unwrap()
                .keys()
                .find(|k| TEES.contains(&k.as_str()));
            let why = format!("{}: {}", about.unwrap_or(&String::new()), case.0);
            Row {
                why,
                question,
                answer,
            }
        }));
    };
    of(tpm, TPM_IDENTITY);
    of(tpm, TPM_BOOT);
    of(tpm, OPTIONS);
    of(snp, SNP);
    of(tdx, TDX);
    of(az_snp, AZ_SNP);
    of(az_tdx, AZ_TDX);
    for first in [tpm, snp, tdx, az_snp, az_tdx] {
        of(first, TWO_KINDS);
    }
    of(tpm, phases::TPM);
    of(tdx, phases::TDX);
    of(az_snp, phases::AZ_SNP);
    of(az_tdx, phases::AZ_TDX);
    let said = rows.len();
    let mut of = |base: fn() -> Evidence, cases: &[(&str, Change, &str)]| {
        rows.extend(cases.iter().map(|case| {
            let (mut question, answer) = changed(base, case);
            question.for_people = true;
            Row {
                why: format!("for people: {}", case.0),
                question,
                answer,
            }
        }));
    };
    of(snp, SNP_REASONS);
    of(az_snp, AZ_SNP_REASONS);
    of(tdx, TDX_REASONS);
    of(tpm, &[("a TPM", |_, _| {}, "-")]);
    of(tpm, phases::REASONS);
    assert!(rows.len() > said);
    rows
}

/// Good evidence with one thing changed, and what is said of it.
fn changed(
    base: fn() -> Evidence,
    (_, change, answer): &(&str, Change, &str),
) -> (Evidence, String) {
    let Evidence {
        mut input,
        mut values,
        ..
    } = base();
    change(&mut input, &mut values);
    (Evidence::new(input, values), (*answer).to_owned())
}

// ---- Good evidence of each kind, with reference values that approve it.

fn tpm() -> Evidence {
    Evidence::new(tpm_evidence(1, 0), values("ak"))
}

fn snp() -> Evidence {
    let claims = json!({
        "measurement": "ab".repeat(48), "policy_debug_allowed": false, "policy_migrate_ma": false,
        "reported_tcb_bootloader": 3, "reported_tcb_microcode": 209, "reported_tcb_snp": 20,
        "reported_tcb_tee": 0,
    });
    Evidence::new(with_init_data("snp", claims), values("init-data"))
}

fn az_snp() -> Evidence {
    let mut claims = json!({
        "measurement": "q83v".repeat(16), "policy_debug_allowed": "false", "policy_migrate_ma": "false",
        "reported_tcb_bootloader": "3", "reported_tcb_microcode": "209", "reported_tcb_snp": "20",
        "reported_tcb_tee": "0",
    });
    claims["tpm"] = pcrs();
    Evidence::new(with_init_data("az-snp-vtpm", claims), values("init-data"))
}

fn tdx() -> Evidence {
    let register = |digit: &str| digit.repeat(96);
    let claims = json!({
        "quote": {"body": {"mr_td": register("a"), "rtmr_0": register("b"), "rtmr_1": register("c"),
            "rtmr_2": register("d"), "rtmr_3": register("0")}},
        "td_attributes": {"debug": false}, "tcb_status": "UpToDate", "collateral_expiration_status": "0",
    });
    Evidence::new(with_init_data("tdx", claims), values("init-data"))
}

fn az_tdx() -> Evidence {
    let mut claims = tdx().input["tdx"].take();
    claims["tpm"] = pcrs();
    Evidence::new(with_init_data("az-tdx-vtpm", claims), values("init-data"))
}

fn pcrs() -> Value {
    let mut pcrs = tpm_evidence(1, 0)["tpm"].take();
    pcrs.as_object_mut().unwrap().remove("ak_public");
    pcrs
}

fn with_init_data(tee: &str, claims: Value) -> Value {
    json!({tee: claims, "init_data": "12".repeat(32), "init_data_claims": {"uuid": "n1"}})
}

fn values(identity: &str) -> BTreeMap<String, Value> {
    let register = |digit: &str| digit.repeat(96);
    let launch = json!({"mr_td": register("a"), "rtmr_1": register("c"), "rtmr_2": register("d")});
    let floor = json!({"bootloader": 3, "microcode": 200, "snp": 20, "tee": 0});
    [
        (
            "sheepfold_options",
            json!({"evidence": ["tpm", "snp+tpm"], "identity": identity}),
        ),
        ("boot_tuples", json!([boot_tuple(9), boot_tuple(0)])),
        ("snp_measurements", json!(["ab".repeat(48)])),
        ("snp_tcb_floors", json!([floor])),
        ("tdx_launches", json!([launch])),
        ("tdx_tcb_status", json!(["UpToDate"])),
        ("az_snp_measurements", json!(["q83v".repeat(16)])),
        ("az_tdx_mr_tds", json!([register("a")])),
        ("node_init_12", json!({"12".repeat(32): "n1"})),
        ("seals", phases::seals()),
        (&ak(1).shard(), json!({ak(1).to_string(): "n1"})),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn shard(values: &mut BTreeMap<String, Value>) -> &mut Value {
    values.get_mut(&ak(1).shard()).unwrap()
}

fn tuple(values: &mut BTreeMap<String, Value>) -> &mut Value {
    &mut values.get_mut("boot_tuples").unwrap()[1]
}

const TEES: [&str; 6] = ["tpm", "snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "sample"];

const REASONS: &str = "sheepfold.reasons";

fn floors(values: &mut BTreeMap<String, Value>, floors: Value) {
    values.insert("snp_tcb_floors".to_owned(), floors);
}

const SNP_REASONS: &[(&str, Change, &str)] = &[
    ("good", |_, _| {}, "-"),
    (
        "one part below",
        |i, _| i["snp"]["reported_tcb_microcode"] = json!(199),
        r#""microcode is 199, a floor is 200""#,
    ),
    (
        "each part below",
        |_, v| {
            floors(
                v,
                json!([{"bootloader": 4, "microcode": 210, "snp": 21, "tee": 1}]),
            )
        },
        r#""bootloader is 3, a floor is 4; microcode is 209, a floor is 210; snp is 20, a floor is 21; tee is 0, a floor is 1""#,
    ),
    (
        "one of two floors is met",
        |_, v| {
            let high = json!({"bootloader": 4, "microcode": 210, "snp": 21, "tee": 1});
            let low = json!({"bootloader": 3, "microcode": 200, "snp": 20, "tee": 0});
            floors(v, json!([high, low]));
        },
        "-",
    ),
    (
        "a floor that is no number",
        |_, v| {
            floors(
                v,
                json!([{"bootloader": "4", "microcode": 210, "snp": 20, "tee": 0}]),
            )
        },
        r#""microcode is 209, a floor is 210""#,
    ),
    ("no floors", |_, v| drop(v.remove("snp_tcb_floors")), "-"),
    (
        "what is no reason",
        |i, _| i["snp"]["policy_smt_allowed"] = json!(true),
        "-",
    ),
    (
        "debugging",
        |i, _| i["snp"]["policy_debug_allowed"] = json!(true),
        r#""policy_debug_allowed is set""#,
    ),
    (
        "a migration agent",
        |i, _| i["snp"]["policy_migrate_ma"] = json!(true),
        r#""policy_migrate_ma is set""#,
    ),
];

const AZ_SNP_REASONS: &[(&str, Change, &str)] = &[
    ("good", |_, _| {}, "-"),
    (
        "text below a number",
        |i, _| i["az-snp-vtpm"]["reported_tcb_snp"] = json!("9"),
        r#""snp is 9, a floor is 20""#,
    ),
    (
        "debugging",
        |i, _| i["az-snp-vtpm"]["policy_debug_allowed"] = json!("true"),
        r#""policy_debug_allowed is set""#,
    ),
];

const TDX_REASONS: &[(&str, Change, &str)] = &[
    ("good", |_, _| {}, "-"),
    (
        "out of date",
        |i, _| i["tdx"]["tcb_status"] = json!("OutOfDate"),
        r#""the TCB status is OutOfDate""#,
    ),
    (
        "a status that is no text",
        |i, _| i["tdx"]["tcb_status"] = json!(1),
        "-",
    ),
    (
        "debugging",
        |i, _| i["tdx"]["td_attributes"]["debug"] = json!(true),
        r#""the debug attribute is set""#,
    ),
    (
        "debugging that is no truth value",
        |i, _| i["tdx"]["td_attributes"]["debug"] = json!("x"),
        "-",
    ),
];

// ---- Claims: instance-identity, hardware, executables, configuration. Then the extensions.

const GOOD: &str = "2 2 3 2 evidence=tpm snp+tpm identity=ak node=n1 phase=initramfs tee=tpm";
const STRANGER: &str = "97 97 3 2 evidence=tpm snp+tpm identity=ak phase=initramfs tee=tpm";
const OTHER_BOOT: &str = "2 2 33 36 evidence=tpm snp+tpm identity=ak node=n1 tee=tpm";
const SEALED: &str = "2 2 3 36 evidence=tpm snp+tpm identity=ak node=n1 tee=tpm";

const TPM_IDENTITY: &[(&str, Change, &str)] = &[
    ("approved", |_, _| {}, GOOD),
    (
        "unknown key",
        |i, _| i["tpm"]["ak_public"] = json!(ak(2)),
        STRANGER,
    ),
    (
        "no key",
        |i, _| drop(i["tpm"].as_object_mut().unwrap().remove("ak_public")),
        STRANGER,
    ),
    (
        "short key",
        |i, _| i["tpm"]["ak_public"] = json!("short"),
        STRANGER,
    ),
    (
        "key of strange characters",
        |i, _| i["tpm"]["ak_public"] = json!("é\u{0}".repeat(99)),
        STRANGER,
    ),
    ("no shard", |_, v| drop(v.remove(&ak(1).shard())), STRANGER),
    ("empty shard", |_, v| *shard(v) = json!({}), STRANGER),
    (
        "empty list for a shard",
        |_, v| *shard(v) = json!([]),
        STRANGER,
    ),
    (
        "list of keys for a shard",
        |_, v| *shard(v) = json!([ak(1)]),
        STRANGER,
    ),
    (
        "string for a shard",
        |_, v| *shard(v) = json!(ak(1)),
        STRANGER,
    ),
    ("null for a shard", |_, v| *shard(v) = Value::Null, STRANGER),
    (
        "node is no string",
        |_, v| *shard(v) = json!({ak(1).to_string(): ["n1"]}),
        STRANGER,
    ),
    (
        "node is true",
        |_, v| *shard(v) = json!({ak(1).to_string(): true}),
        STRANGER,
    ),
    (
        "node is null",
        |_, v| *shard(v) = json!({ak(1).to_string(): null}),
        STRANGER,
    ),
    (
        "shard of 20000 keys",
        |_, v| {
            let map = shard(v).as_object_mut().unwrap();
            map.extend((0..20_000).map(|n| (format!("key {n}"), json!("n2"))));
        },
        GOOD,
    ),
    (
        "shard of 20000 other keys",
        |_, v| {
            *shard(v) = (0..20_000)
                .map(|n| (format!("key {n}"), json!("n1")))
                .collect();
        },
        STRANGER,
    ),
    (
        "list of 20000 nodes for a shard",
        |_, v| *shard(v) = json!(vec!["n1"; 20_000]),
        STRANGER,
    ),
    (
        "key in another shard",
        |_, v| {
            let map = v.remove(&ak(1).shard()).unwrap();
            v.insert("node_ak_".to_owned(), map.clone());
            v.insert(ak(2).shard(), map);
        },
        STRANGER,
    ),
    (
        "shard named by + and /",
        |i, v| {
            let key = format!("{}+/{}", "M".repeat(60), "M".repeat(330));
            v.insert("node_ak_-_".to_owned(), json!({key.clone(): "n1"}));
            i["tpm"]["ak_public"] = json!(key);
        },
        GOOD,
    ),
    (
        "init-data says another node, which counts for nothing here",
        |i, _| {
            i["init_data_claims"] = json!({"uuid": "n2"});
        },
        GOOD,
    ),
    (
        "sample",
        |i, _| {
            let claims = i["tpm"].take();
            *i = json!({"sample": claims, "init_data_claims": {"uuid": "n1"}});
        },
        "97 97 33 36",
    ),
    (
        "unknown kind",
        |i, _| *i = json!({"csv": i["tpm"].take()}),
        "97 97 33 36",
    ),
    ("nothing", |i, _| *i = json!({}), "97 97 33 36"),
    // identity: init-data
    (
        "beside a report, in a cluster of init-data",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("init-data");
        },
        "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=tpm",
    ),
    (
        "with init-data that was issued to it",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("init-data");
            i["init_data"] = json!("12".repeat(32));
            i["init_data_claims"] = json!({"uuid": "n1"});
        },
        "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=tpm",
    ),
    (
        "with init-data that was issued to it, under no known identity",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("any");
            i["init_data"] = json!("12".repeat(32));
            i["init_data_claims"] = json!({"uuid": "n1"});
        },
        "97 2 3 2 evidence=tpm snp+tpm identity=any phase=initramfs tee=tpm",
    ),
    (
        "with init-data of another",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("init-data");
            v.insert("node_init_34".to_owned(), json!({"34".repeat(32): "n2"}));
            i["init_data"] = json!("34".repeat(32));
            i["init_data_claims"] = json!({"uuid": "n2"});
        },
        "97 2 3 2 evidence=tpm snp+tpm identity=init-data phase=initramfs tee=tpm",
    ),
    (
        "with init-data that nobody issued",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("init-data");
            i["init_data"] = json!("34".repeat(32));
            i["init_data_claims"] = json!({"uuid": "n1"});
        },
        "97 2 3 2 evidence=tpm snp+tpm identity=init-data phase=initramfs tee=tpm",
    ),
];

/// A server never asks like this. Should it do so one day, neither kind must lend its claims to the other.
const TWO_KINDS: &[(&str, Change, &str)] = &[
    ("and another kind", |i, _| *another(i) = json!({}), NOTHING),
    (
        "and another kind, by key",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("ak");
            *another(i) = json!({});
        },
        NOTHING,
    ),
    (
        "and another kind, without init-data",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("init-data");
            i["init_data_claims"] = Value::Null;
            *another(i) = json!({});
        },
        NOTHING,
    ),
    (
        "and another kind, with init-data",
        |i, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("init-data");
            i["init_data"] = json!("12".repeat(32));
            i["init_data_claims"] = json!({"uuid": "n1"});
            *another(i) = json!({});
        },
        NOTHING,
    ),
];
const NOTHING: &str = "97 97 33 36";

fn another(input: &mut Value) -> &mut Value {
    let other = if input.get("snp").is_some() {
        "tdx"
    } else {
        "snp"
    };
    &mut input[other]
}

const TPM_BOOT: &[(&str, Change, &str)] = &[
    (
        "other boot code",
        |i, _| i["tpm"]["pcr04"] = json!("1".repeat(64)),
        OTHER_BOOT,
    ),
    (
        "other Secure Boot policy",
        |i, _| i["tpm"]["pcr07"] = json!("1".repeat(64)),
        OTHER_BOOT,
    ),
    (
        "other owner keys",
        |i, _| i["tpm"]["pcr14"] = json!("1".repeat(64)),
        OTHER_BOOT,
    ),
    (
        "a register that no tuple names",
        |i, _| i["tpm"]["pcr05"] = json!("1".repeat(64)),
        GOOD,
    ),
    (
        "a register that the tuple names",
        |_, v| tuple(v)["pcr09"] = json!("1".repeat(64)),
        OTHER_BOOT,
    ),
    (
        "a mixture of two tuples",
        |_, v| {
            tuple(v)["pcr07"] = json!("1".repeat(64));
            v.get_mut("boot_tuples").unwrap()[0]["pcr14"] = json!("1".repeat(64));
            v.get_mut("boot_tuples").unwrap()[0]["pcr04"] = boot_tuple(0)["pcr04"].take();
        },
        OTHER_BOOT,
    ),
    (
        "tuple without PCR 4",
        |_, v| drop(tuple(v).as_object_mut().unwrap().remove("pcr04")),
        OTHER_BOOT,
    ),
    (
        "tuple without PCR 7",
        |_, v| drop(tuple(v).as_object_mut().unwrap().remove("pcr07")),
        OTHER_BOOT,
    ),
    (
        "tuple without PCR 14",
        |_, v| drop(tuple(v).as_object_mut().unwrap().remove("pcr14")),
        OTHER_BOOT,
    ),
    ("tuple of nothing", |_, v| *tuple(v) = json!({}), OTHER_BOOT),
    ("tuple is null", |_, v| *tuple(v) = Value::Null, OTHER_BOOT),
    (
        "tuple is a string",
        |_, v| *tuple(v) = json!("pcr04"),
        OTHER_BOOT,
    ),
    (
        "tuple is a list",
        |_, v| *tuple(v) = json!(["pcr04", "pcr07", "pcr14"]),
        OTHER_BOOT,
    ),
    (
        "a bad tuple beside a good one",
        |_, v| v.get_mut("boot_tuples").unwrap()[0] = json!("x"),
        GOOD,
    ),
    (
        "tuple names the key",
        |_, v| tuple(v)["ak_public"] = json!(ak(1)),
        OTHER_BOOT,
    ),
    (
        "tuple names a register that is none",
        |i, v| {
            i["tpm"]["pcr24"] = json!("x");
            tuple(v)["pcr24"] = json!("x");
        },
        OTHER_BOOT,
    ),
    (
        "tuple names the last register",
        |_, v| tuple(v)["pcr23"] = json!("0".repeat(64)),
        GOOD,
    ),
    (
        "no tuples",
        |_, v| drop(v.remove("boot_tuples")),
        OTHER_BOOT,
    ),
    (
        "no tuple in the list",
        |_, v| drop(v.insert("boot_tuples".into(), json!([]))),
        OTHER_BOOT,
    ),
    (
        "string for tuples",
        |_, v| drop(v.insert("boot_tuples".into(), json!("x"))),
        OTHER_BOOT,
    ),
    (
        "object for tuples",
        |_, v| drop(v.insert("boot_tuples".into(), json!({"a": boot_tuple(0)}))),
        OTHER_BOOT,
    ),
    (
        "20000 other tuples",
        |_, v| {
            let mut other = boot_tuple(0);
            other["pcr14"] = json!("1".repeat(64));
            v.insert("boot_tuples".into(), json!(vec![other; 20_000]));
        },
        OTHER_BOOT,
    ),
    // the seal
    (
        "sealed",
        |i, _| i["tpm"]["pcr11"] = json!("1".repeat(64)),
        SEALED,
    ),
    (
        "PCR 11 is missing",
        |i, _| drop(i["tpm"].as_object_mut().unwrap().remove("pcr11")),
        SEALED,
    ),
    (
        "unified kernel image, in its initramfs",
        |i, v| {
            i["tpm"]["pcr11"] = json!("2".repeat(64));
            tuple(v)["pcr11"] = json!("2".repeat(64));
        },
        GOOD,
    ),
    (
        "unified kernel image, sealed",
        |i, v| {
            i["tpm"]["pcr11"] = json!("3".repeat(64));
            tuple(v)["pcr11"] = json!("2".repeat(64));
        },
        SEALED,
    ),
    (
        "unified kernel image that measured nothing",
        |_, v| tuple(v)["pcr11"] = json!("2".repeat(64)),
        SEALED,
    ),
    (
        "unsealed by the tuple of another boot",
        |i, v| {
            i["tpm"]["pcr11"] = json!("2".repeat(64));
            v.get_mut("boot_tuples").unwrap()[0]["pcr11"] = json!("2".repeat(64));
        },
        SEALED,
    ),
];

const OPTIONS: &[(&str, Change, &str)] = &[
    (
        "no options",
        |_, v| drop(v.remove("sheepfold_options")),
        "97 2 3 2 phase=initramfs",
    ),
    (
        "empty options",
        |_, v| drop(v.insert("sheepfold_options".into(), json!({}))),
        "97 2 3 2 phase=initramfs",
    ),
    (
        "list for options",
        |_, v| drop(v.insert("sheepfold_options".into(), json!(["ak"]))),
        "97 2 3 2 phase=initramfs",
    ),
    (
        "unknown identity",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("any");
        },
        "97 2 3 2 evidence=tpm snp+tpm identity=any phase=initramfs tee=tpm",
    ),
    (
        "identity is a list",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!(["ak"]);
        },
        "97 2 3 2 phase=initramfs",
    ),
    (
        "evidence is a string",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["evidence"] = json!("tpm");
        },
        "2 2 3 2 node=n1 phase=initramfs",
    ),
    (
        "evidence is a list of numbers",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["evidence"] = json!([1]);
        },
        "error",
    ),
    (
        "fewer registers asked for",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["pcrs"] = json!(["pcr04"]);
            tuple(v).as_object_mut().unwrap().remove("pcr07");
        },
        GOOD,
    ),
    (
        "more registers asked for",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["pcrs"] = json!(["pcr04", "pcr09"]);
        },
        OTHER_BOOT,
    ),
    (
        "no registers asked for",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["pcrs"] = json!([]);
            *tuple(v) = json!({"pcr05": "0".repeat(64)});
        },
        OTHER_BOOT,
    ),
    (
        "registers asked for, boot code not among them",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["pcrs"] = json!(["pcr05"]);
            *tuple(v) = json!({"pcr05": "0".repeat(64)});
        },
        OTHER_BOOT,
    ),
    (
        "an object of registers asked for",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["pcrs"] = json!({"a": "pcr04"});
            *tuple(v) = json!({"pcr04": boot_tuple(0)["pcr04"]});
        },
        OTHER_BOOT,
    ),
];

const SNP: &[(&str, Change, &str)] = &[
    (
        "approved",
        |_, _| {},
        "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 tee=snp",
    ),
    (
        "beside a TPM that names the node",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("ak");
        },
        "0 2 3 2 evidence=tpm snp+tpm identity=ak tee=snp",
    ),
    (
        "init-data not sent",
        |i, _| i["init_data_claims"] = Value::Null,
        SNP_STRANGER,
    ),
    (
        "init-data without uuid",
        |i, _| i["init_data_claims"] = json!({}),
        SNP_STRANGER,
    ),
    (
        "uuid of another",
        |i, _| i["init_data_claims"]["uuid"] = json!("n2"),
        SNP_STRANGER,
    ),
    (
        "init-data that nobody issued",
        |i, _| i["init_data"] = json!("34".repeat(32)),
        SNP_STRANGER,
    ),
    (
        "no shard",
        |_, v| drop(v.remove("node_init_12")),
        SNP_STRANGER,
    ),
    (
        "list for a shard",
        |_, v| drop(v.insert("node_init_12".into(), json!(["n1"]))),
        SNP_STRANGER,
    ),
    (
        "node is no string",
        |i, v| {
            v.insert("node_init_12".into(), json!({"12".repeat(32): {"a": 1}}));
            i["init_data_claims"]["uuid"] = json!({"a": 1});
        },
        SNP_STRANGER,
    ),
    (
        "other measurement",
        |i, _| i["snp"]["measurement"] = json!("cd".repeat(48)),
        SNP_OTHER_BOOT,
    ),
    (
        "no measurements",
        |_, v| drop(v.remove("snp_measurements")),
        SNP_OTHER_BOOT,
    ),
    (
        "string for measurements",
        |_, v| drop(v.insert("snp_measurements".into(), json!("ab".repeat(48)))),
        SNP_OTHER_BOOT,
    ),
    (
        "object for measurements",
        |_, v| drop(v.insert("snp_measurements".into(), json!({"a": "ab".repeat(48)}))),
        SNP_OTHER_BOOT,
    ),
    (
        "debugging allowed",
        |i, _| i["snp"]["policy_debug_allowed"] = json!(true),
        SNP_OPEN,
    ),
    (
        "migration allowed",
        |i, _| i["snp"]["policy_migrate_ma"] = json!(true),
        SNP_OPEN,
    ),
    (
        "debugging is a string",
        |i, _| i["snp"]["policy_debug_allowed"] = json!("false"),
        SNP_OPEN,
    ),
    (
        "debugging is missing",
        |i, _| {
            drop(
                i["snp"]
                    .as_object_mut()
                    .unwrap()
                    .remove("policy_debug_allowed"),
            )
        },
        SNP_OPEN,
    ),
    (
        "old boot loader",
        |i, _| i["snp"]["reported_tcb_bootloader"] = json!(2),
        SNP_OLD,
    ),
    (
        "old microcode",
        |i, _| i["snp"]["reported_tcb_microcode"] = json!(199),
        SNP_OLD,
    ),
    (
        "old SNP firmware",
        |i, _| i["snp"]["reported_tcb_snp"] = json!(19),
        SNP_OLD,
    ),
    (
        "old TEE firmware",
        |_, v| v.get_mut("snp_tcb_floors").unwrap()[0]["tee"] = json!(1),
        SNP_OLD,
    ),
    (
        "level is a string",
        |i, _| i["snp"]["reported_tcb_snp"] = json!("99"),
        SNP_OLD,
    ),
    (
        "level is missing",
        |i, _| drop(i["snp"].as_object_mut().unwrap().remove("reported_tcb_tee")),
        SNP_OLD,
    ),
    (
        "floor has a null",
        |_, v| v.get_mut("snp_tcb_floors").unwrap()[0]["snp"] = Value::Null,
        SNP_OLD,
    ),
    (
        "floor has a gap",
        |_, v| {
            v.get_mut("snp_tcb_floors").unwrap()[0]
                .as_object_mut()
                .unwrap()
                .remove("snp");
        },
        SNP_OLD,
    ),
    (
        "floor is empty",
        |_, v| v.get_mut("snp_tcb_floors").unwrap()[0] = json!({}),
        SNP_OLD,
    ),
    (
        "floor is a string",
        |_, v| v.get_mut("snp_tcb_floors").unwrap()[0] = json!("x"),
        SNP_OLD,
    ),
    (
        "no floors",
        |_, v| drop(v.remove("snp_tcb_floors")),
        SNP_OLD,
    ),
    (
        "object for floors",
        |_, v| {
            let floors = v["snp_tcb_floors"].as_array().unwrap()[0].clone();
            v.insert("snp_tcb_floors".into(), json!({"a": floors}));
        },
        SNP_OLD,
    ),
    (
        "one of two floors met",
        |_, v| {
            let low = json!({"bootloader": 3, "microcode": 209, "snp": 20, "tee": 0});
            let high = json!({"bootloader": 10, "microcode": 80, "snp": 23, "tee": 0});
            v.insert("snp_tcb_floors".into(), json!([high, low]));
        },
        "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 tee=snp",
    ),
    (
        "half of each of two floors met",
        |_, v| {
            let one = json!({"bootloader": 3, "microcode": 210, "snp": 20, "tee": 0});
            let other = json!({"bootloader": 4, "microcode": 209, "snp": 20, "tee": 0});
            v.insert("snp_tcb_floors".into(), json!([one, other]));
        },
        SNP_OLD,
    ),
    (
        "Azure's spelling does not count here",
        |i, _| {
            i["snp"]["policy_debug_allowed"] = json!("false");
            i["snp"]["policy_migrate_ma"] = json!("false");
            i["snp"]["tpm"] = pcrs();
        },
        SNP_OPEN,
    ),
];
const SNP_STRANGER: &str = "97 2 3 2 evidence=tpm snp+tpm identity=init-data tee=snp";
const SNP_OTHER_BOOT: &str = "2 2 33 2 evidence=tpm snp+tpm identity=init-data node=n1 tee=snp";
const SNP_OPEN: &str = "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=snp";
const SNP_OLD: &str = "2 97 3 2 evidence=tpm snp+tpm identity=init-data node=n1 tee=snp";

const TDX: &[(&str, Change, &str)] = &[
    ("approved", |_, _| {}, TDX_GOOD),
    (
        "other firmware",
        |i, _| i["tdx"]["quote"]["body"]["mr_td"] = json!("1".repeat(96)),
        TDX_OTHER_BOOT,
    ),
    (
        "other kernel",
        |i, _| i["tdx"]["quote"]["body"]["rtmr_1"] = json!("1".repeat(96)),
        TDX_OTHER_BOOT,
    ),
    (
        "other command line",
        |i, _| i["tdx"]["quote"]["body"]["rtmr_2"] = json!("1".repeat(96)),
        TDX_OTHER_BOOT,
    ),
    (
        "a register that no launch names",
        |i, _| i["tdx"]["quote"]["body"]["rtmr_0"] = json!("1".repeat(96)),
        TDX_GOOD,
    ),
    (
        "a register that the launch names",
        |_, v| launch(v)["rtmr_0"] = json!("1".repeat(96)),
        TDX_OTHER_BOOT,
    ),
    (
        "launch without firmware",
        |_, v| drop(launch(v).as_object_mut().unwrap().remove("mr_td")),
        TDX_OTHER_BOOT,
    ),
    (
        "launch without kernel",
        |_, v| drop(launch(v).as_object_mut().unwrap().remove("rtmr_1")),
        TDX_OTHER_BOOT,
    ),
    (
        "launch without command line",
        |_, v| drop(launch(v).as_object_mut().unwrap().remove("rtmr_2")),
        TDX_OTHER_BOOT,
    ),
    (
        "launch is a string",
        |_, v| *launch(v) = json!("x"),
        TDX_OTHER_BOOT,
    ),
    (
        "launch is a list",
        |_, v| *launch(v) = json!(["mr_td", "rtmr_1", "rtmr_2"]),
        TDX_OTHER_BOOT,
    ),
    (
        "launch names what is no register",
        |_, v| launch(v)["speed"] = json!("x"),
        TDX_OTHER_BOOT,
    ),
    (
        "no launches",
        |_, v| drop(v.remove("tdx_launches")),
        TDX_OTHER_BOOT,
    ),
    (
        "object for launches",
        |_, v| {
            let launches = json!({"a": launch(v).clone()});
            v.insert("tdx_launches".into(), launches);
        },
        TDX_OTHER_BOOT,
    ),
    (
        "sealed",
        |i, _| i["tdx"]["quote"]["body"]["rtmr_3"] = json!("1".repeat(96)),
        TDX_OPEN,
    ),
    (
        "RTMR 3 as the launch says",
        |i, v| {
            i["tdx"]["quote"]["body"]["rtmr_3"] = json!("2".repeat(96));
            launch(v)["rtmr_3"] = json!("2".repeat(96));
        },
        TDX_GOOD,
    ),
    (
        "RTMR 3 untouched, the launch says otherwise",
        |_, v| launch(v)["rtmr_3"] = json!("2".repeat(96)),
        TDX_OPEN,
    ),
    (
        "RTMR 3 as another launch says",
        |i, v| {
            i["tdx"]["quote"]["body"]["rtmr_3"] = json!("2".repeat(96));
            let mut other = launch(v).clone();
            other["rtmr_1"] = json!("1".repeat(96));
            other["rtmr_3"] = json!("2".repeat(96));
            v.get_mut("tdx_launches")
                .unwrap()
                .as_array_mut()
                .unwrap()
                .push(other);
        },
        TDX_OPEN,
    ),
    (
        "debugging allowed",
        |i, _| i["tdx"]["td_attributes"]["debug"] = json!(true),
        TDX_OPEN,
    ),
    (
        "debugging is a string",
        |i, _| i["tdx"]["td_attributes"]["debug"] = json!("false"),
        TDX_OPEN,
    ),
    (
        "debugging is missing",
        |i, _| i["tdx"]["td_attributes"] = json!({}),
        TDX_OPEN,
    ),
    (
        "platform out of date",
        |i, _| i["tdx"]["tcb_status"] = json!("OutOfDate"),
        TDX_OLD,
    ),
    (
        "platform state is missing",
        |i, _| drop(i["tdx"].as_object_mut().unwrap().remove("tcb_status")),
        TDX_OLD,
    ),
    (
        "a second state accepted",
        |i, v| {
            i["tdx"]["tcb_status"] = json!("SWHardeningNeeded");
            v.insert(
                "tdx_tcb_status".into(),
                json!(["UpToDate", "SWHardeningNeeded"]),
            );
        },
        TDX_GOOD,
    ),
    (
        "string for states",
        |_, v| drop(v.insert("tdx_tcb_status".into(), json!("UpToDate"))),
        TDX_OLD,
    ),
    (
        "no states",
        |_, v| drop(v.remove("tdx_tcb_status")),
        TDX_OLD,
    ),
    (
        "collateral expired",
        |i, _| i["tdx"]["collateral_expiration_status"] = json!("1"),
        TDX_OLD,
    ),
    (
        "unknown node",
        |i, _| i["init_data_claims"]["uuid"] = json!("n2"),
        "97 2 3 2 evidence=tpm snp+tpm identity=init-data phase=initramfs tee=tdx",
    ),
];
const TDX_GOOD: &str =
    "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=tdx";
const TDX_OTHER_BOOT: &str = "2 2 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=tdx";
const TDX_OPEN: &str = "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=tdx";
const TDX_OLD: &str =
    "2 97 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=tdx";

fn launch(values: &mut BTreeMap<String, Value>) -> &mut Value {
    &mut values.get_mut("tdx_launches").unwrap()[0]
}

const AZ_SNP: &[(&str, Change, &str)] = &[
    ("approved", |_, _| {}, AZ_SNP_GOOD),
    (
        "beside our own key",
        |_, v| {
            v.get_mut("sheepfold_options").unwrap()["identity"] = json!("ak");
        },
        "0 2 3 2 evidence=tpm snp+tpm identity=ak phase=initramfs tee=az-snp-vtpm",
    ),
    (
        "other firmware",
        |i, _| i["az-snp-vtpm"]["measurement"] = json!("AAAA".repeat(16)),
        AZ_SNP_OTHER_BOOT,
    ),
    (
        "no measurements",
        |_, v| drop(v.remove("az_snp_measurements")),
        AZ_SNP_OTHER_BOOT,
    ),
    (
        "measurement of the plain report",
        |i, v| {
            i["az-snp-vtpm"]["measurement"] = json!("ab".repeat(48));
            v.insert("az_snp_measurements".into(), json!(["cd".repeat(48)]));
        },
        AZ_SNP_OTHER_BOOT,
    ),
    (
        "other boot code",
        |i, _| i["az-snp-vtpm"]["tpm"]["pcr04"] = json!("1".repeat(64)),
        "2 2 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-snp-vtpm",
    ),
    (
        "no tuples",
        |_, v| drop(v.remove("boot_tuples")),
        "2 2 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-snp-vtpm",
    ),
    (
        "registers in the wrong place",
        |i, _| {
            let pcrs = i["az-snp-vtpm"]["tpm"].take();
            i["az-snp-vtpm"]
                .as_object_mut()
                .unwrap()
                .extend(pcrs.as_object().unwrap().clone());
        },
        "2 2 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-snp-vtpm",
    ),
    (
        "sealed",
        |i, _| i["az-snp-vtpm"]["tpm"]["pcr11"] = json!("1".repeat(64)),
        AZ_SNP_OPEN,
    ),
    (
        "debugging allowed",
        |i, _| i["az-snp-vtpm"]["policy_debug_allowed"] = json!("true"),
        AZ_SNP_OPEN,
    ),
    (
        "migration allowed",
        |i, _| i["az-snp-vtpm"]["policy_migrate_ma"] = json!("true"),
        AZ_SNP_OPEN,
    ),
    (
        "debugging is no string",
        |i, _| i["az-snp-vtpm"]["policy_debug_allowed"] = json!(false),
        AZ_SNP_OPEN,
    ),
    (
        "old microcode, and text would order the other way",
        |i, _| i["az-snp-vtpm"]["reported_tcb_microcode"] = json!("99"),
        AZ_SNP_OLD,
    ),
    (
        "level is a number",
        |i, _| i["az-snp-vtpm"]["reported_tcb_snp"] = json!(99),
        AZ_SNP_OLD,
    ),
    (
        "level is null",
        |i, _| i["az-snp-vtpm"]["reported_tcb_snp"] = Value::Null,
        AZ_SNP_OLD,
    ),
    (
        "level is no number",
        |i, _| i["az-snp-vtpm"]["reported_tcb_snp"] = json!("many"),
        "error",
    ),
    (
        "floor is a string",
        |_, v| v.get_mut("snp_tcb_floors").unwrap()[0]["snp"] = json!("20"),
        AZ_SNP_OLD,
    ),
    (
        "floor is null",
        |_, v| v.get_mut("snp_tcb_floors").unwrap()[0]["snp"] = Value::Null,
        AZ_SNP_OLD,
    ),
    (
        "init-data that nobody issued",
        |i, _| i["init_data"] = json!("34".repeat(32)),
        "97 2 3 2 evidence=tpm snp+tpm identity=init-data phase=initramfs tee=az-snp-vtpm",
    ),
    (
        "claims of TDX count for nothing here",
        |i, v| {
            let claims = i["az-snp-vtpm"].as_object_mut().unwrap();
            claims.extend(az_tdx().input["az-tdx-vtpm"].as_object().unwrap().clone());
            claims.insert("measurement".into(), json!("x"));
            claims.insert("policy_debug_allowed".into(), json!("true"));
            v.remove("snp_tcb_floors");
        },
        "2 97 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-snp-vtpm",
    ),
];
const AZ_SNP_GOOD: &str =
    "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-snp-vtpm";
const AZ_SNP_OTHER_BOOT: &str =
    "2 2 33 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-snp-vtpm";
const AZ_SNP_OPEN: &str =
    "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-snp-vtpm";
const AZ_SNP_OLD: &str =
    "2 97 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-snp-vtpm";

const AZ_TDX: &[(&str, Change, &str)] = &[
    ("approved", |_, _| {}, AZ_TDX_GOOD),
    (
        "other firmware",
        |i, _| i["az-tdx-vtpm"]["quote"]["body"]["mr_td"] = json!("1".repeat(96)),
        "2 2 33 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-tdx-vtpm",
    ),
    (
        "no firmware",
        |_, v| drop(v.remove("az_tdx_mr_tds")),
        "2 2 33 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-tdx-vtpm",
    ),
    (
        "launches of plain TDX count for nothing here",
        |_, v| drop(v.remove("tdx_launches")),
        AZ_TDX_GOOD,
    ),
    (
        "other boot code",
        |i, _| i["az-tdx-vtpm"]["tpm"]["pcr04"] = json!("1".repeat(64)),
        "2 2 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-tdx-vtpm",
    ),
    (
        "sealed",
        |i, _| i["az-tdx-vtpm"]["tpm"]["pcr11"] = json!("1".repeat(64)),
        AZ_TDX_OPEN,
    ),
    (
        "debugging allowed",
        |i, _| i["az-tdx-vtpm"]["td_attributes"]["debug"] = json!(true),
        AZ_TDX_OPEN,
    ),
    (
        "platform out of date",
        |i, _| i["az-tdx-vtpm"]["tcb_status"] = json!("OutOfDate"),
        "2 97 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-tdx-vtpm",
    ),
    (
        "SNP levels count for nothing here",
        |i, v| {
            i["az-tdx-vtpm"]["tcb_status"] = json!("OutOfDate");
            for part in ["bootloader", "microcode", "snp", "tee"] {
                i["az-tdx-vtpm"][format!("reported_tcb_{part}")] = json!(255);
            }
            v.insert("az_snp_measurements".into(), json!(["x"]));
            i["az-tdx-vtpm"]["measurement"] = json!("x");
        },
        "2 97 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-tdx-vtpm",
    ),
    (
        "claims of SNP count for nothing here",
        |i, v| {
            let claims = i["az-tdx-vtpm"].as_object_mut().unwrap();
            claims.extend(az_snp().input["az-snp-vtpm"].as_object().unwrap().clone());
            claims["quote"]["body"]["mr_td"] = json!("x");
            claims["td_attributes"]["debug"] = json!(true);
            v.remove("tdx_tcb_status");
        },
        "2 97 33 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-tdx-vtpm",
    ),
];
const AZ_TDX_GOOD: &str =
    "2 2 3 2 evidence=tpm snp+tpm identity=init-data node=n1 phase=initramfs tee=az-tdx-vtpm";
const AZ_TDX_OPEN: &str =
    "2 2 3 36 evidence=tpm snp+tpm identity=init-data node=n1 tee=az-tdx-vtpm";

// ---- The resource policy.

pub(super) fn resource() -> Vec<Row<Request>> {
    let mut rows = Vec::new();
    let mut of = |base: fn() -> Value, cases: &[Case]| {
        for (why, change, answer) in cases {
            let mut question = Request {
                token: base(),
                plugin: "resource",
                path: vec!["default", "n1", "root"],
            };
            change(&mut question);
            rows.push(Row {
                why: (*why).to_owned(),
                question,
                answer: (*answer).to_owned(),
            });
        }
    };
    of(|| token("tpm", "ak", &[("tpm", Some("n1"))]), RESOURCE_TPM);
    of(
        || token("tpm snp+tpm", "ak", &[("snp", None), ("tpm", Some("n1"))]),
        RESOURCE_COMPOSITE,
    );
    of(
        || token("snp snp+tpm", "init-data", &[("snp", Some("n1"))]),
        RESOURCE_INIT_DATA,
    );
    let mut of = |base: fn() -> Value, cases: &[Case]| {
        for (why, change, answer) in cases {
            let mut question = Request {
                token: base(),
                plugin: "resource",
                path: vec!["runtime", "n1", "kubelet"],
            };
            change(&mut question);
            rows.push(Row {
                why: format!("runtime: {why}"),
                question,
                answer: (*answer).to_owned(),
            });
        }
    };
    of(
        || phases::sealed(token("tpm", "ak", &[("tpm", Some("n1"))])),
        phases::RUNTIME,
    );
    of(
        || {
            phases::sealed(token(
                "tdx+tpm",
                "ak",
                &[("tdx", None), ("tpm", Some("n1"))],
            ))
        },
        phases::RUNTIME_COMPOSITE,
    );
    rows
}

/// A token in which every piece of evidence is affirming; the first has the init-data of n1.
fn token(accepted: &str, identity: &str, pieces: &[(&str, Option<&str>)]) -> Value {
    let mut submods = json!({});
    for (index, (tee, node)) in pieces.iter().enumerate() {
        let mut submod = json!({
            "ear.status": "affirming", "sheepfold.tee": tee, "sheepfold.evidence": accepted,
            "sheepfold.identity": identity, "ear.veraison.annotated-evidence": {"init_data_claims": null},
        });
        if let Some(node) = node {
            submod["sheepfold.node"] = json!(node);
        }
        submods[format!("cpu{index}")] = submod;
    }
    submods["cpu0"]["ear.veraison.annotated-evidence"]["init_data_claims"] = json!({"uuid": "n1"});
    json!({"submods": submods})
}

fn cpu(request: &mut Request, n: usize) -> &mut Value {
    &mut request.token["submods"][format!("cpu{n}")]
}

const RESOURCE_TPM: &[Case] = &[
    ("own secret", |_| {}, "allow"),
    ("another volume of its own", |r| r.path[2] = "home", "allow"),
    (
        "own, for the running system",
        |r| r.path[0] = "runtime",
        "allow",
    ),
    (
        "for the running system of another",
        |r| r.path = vec!["runtime", "n2", "root"],
        "deny",
    ),
    ("secret of another", |r| r.path[1] = "n2", "deny"),
    ("another repository", |r| r.path[0] = "secrets", "deny"),
    (
        "node in another place",
        |r| r.path = vec!["n1", "default", "root"],
        "deny",
    ),
    ("two segments", |r| r.path = vec!["default", "n1"], "deny"),
    (
        "four segments",
        |r| r.path = vec!["default", "n1", "root", "x"],
        "deny",
    ),
    ("no segments", |r| r.path = vec![], "deny"),
    ("another plugin", |r| r.plugin = "provisioner", "deny"),
    (
        "warning",
        |r| cpu(r, 0)["ear.status"] = json!("warning"),
        "deny",
    ),
    (
        "contraindicated",
        |r| cpu(r, 0)["ear.status"] = json!("contraindicated"),
        "deny",
    ),
    (
        "no verdict",
        |r| cpu(r, 0)["ear.status"] = json!("none"),
        "deny",
    ),
    (
        "verdict is missing",
        |r| cpu(r, 0)["ear.status"] = Value::Null,
        "deny",
    ),
    (
        "nameless",
        |r| drop(cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.node")),
        "deny",
    ),
    (
        "name is null",
        |r| cpu(r, 0)["sheepfold.node"] = Value::Null,
        "deny",
    ),
    (
        "name is a list",
        |r| cpu(r, 0)["sheepfold.node"] = json!(["n1"]),
        "deny",
    ),
    (
        "cluster asks for more",
        |r| cpu(r, 0)["sheepfold.evidence"] = json!("snp+tpm"),
        "deny",
    ),
    (
        "cluster asks for nothing",
        |r| cpu(r, 0)["sheepfold.evidence"] = json!(""),
        "deny",
    ),
    (
        "part of a word is no word",
        |r| cpu(r, 0)["sheepfold.evidence"] = json!("tpm2 snp+tpm"),
        "deny",
    ),
    (
        "unknown evidence",
        |r| drop(cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.tee")),
        "deny",
    ),
    (
        "node of a report under identity ak",
        |r| {
            cpu(r, 0)["sheepfold.tee"] = json!("snp");
            cpu(r, 0)["sheepfold.evidence"] = json!("snp");
        },
        "deny",
    ),
    (
        "unknown identity",
        |r| cpu(r, 0)["sheepfold.identity"] = json!("any"),
        "deny",
    ),
    (
        "not the primary evidence",
        |r| {
            let only = cpu(r, 0).take();
            r.token = json!({"submods": {"cpu1": only}});
        },
        "deny",
    ),
    (
        "a second piece that is no evidence of ours",
        |r| {
            r.token["submods"]["gpu0"] = json!({"ear.status": "affirming"});
        },
        "deny",
    ),
    (
        "a second piece nobody asked for",
        |r| {
            r.token["submods"]["cpu1"] = cpu(r, 0).clone();
        },
        "deny",
    ),
    ("no evidence", |r| r.token = json!({"submods": {}}), "deny"),
    ("empty token", |r| r.token = json!({}), "deny"),
];

const RESOURCE_COMPOSITE: &[Case] = &[
    ("report with a quote beside it", |_| {}, "allow"),
    ("secret of another", |r| r.path[1] = "n2", "deny"),
    (
        "report is not affirming",
        |r| cpu(r, 0)["ear.status"] = json!("warning"),
        "deny",
    ),
    (
        "quote is not affirming",
        |r| cpu(r, 1)["ear.status"] = json!("contraindicated"),
        "deny",
    ),
    (
        "quote of a nameless TPM",
        |r| drop(cpu(r, 1).as_object_mut().unwrap().remove("sheepfold.node")),
        "deny",
    ),
    (
        "the quote is primary",
        |r| {
            let (first, second) = (cpu(r, 0).take(), cpu(r, 1).take());
            r.token = json!({"submods": {"cpu0": second, "cpu1": first}});
        },
        "deny",
    ),
    (
        "report and quote disagree about the node",
        |r| cpu(r, 0)["sheepfold.node"] = json!("n2"),
        "deny",
    ),
    (
        "report and quote agree about the node",
        |r| cpu(r, 0)["sheepfold.node"] = json!("n1"),
        "allow",
    ),
    (
        "the quote alone, which this cluster also takes",
        |r| {
            let quote = cpu(r, 1).take();
            r.token = json!({"submods": {"cpu0": quote}});
        },
        "allow",
    ),
    (
        "only the report names the node",
        |r| {
            cpu(r, 0)["sheepfold.node"] = json!("n1");
            cpu(r, 1).as_object_mut().unwrap().remove("sheepfold.node");
        },
        "deny",
    ),
    (
        "three pieces",
        |r| r.token["submods"]["cpu2"] = cpu(r, 1).clone(),
        "deny",
    ),
    (
        "two more pieces, in any order",
        |r| {
            let mut more = cpu(r, 1).clone();
            more["sheepfold.tee"] = json!("az-snp-vtpm");
            r.token["submods"]["cpu2"] = more;
            cpu(r, 0)["sheepfold.evidence"] = json!("snp+az-snp-vtpm+tpm");
        },
        "allow",
    ),
];

const RESOURCE_INIT_DATA: &[Case] = &[
    ("own secret", |_| {}, "allow"),
    ("secret of another", |r| r.path[1] = "n2", "deny"),
    (
        "init-data not sent",
        |r| {
            cpu(r, 0)["ear.veraison.annotated-evidence"]["init_data_claims"] = Value::Null;
        },
        "deny",
    ),
    (
        "uuid of another",
        |r| {
            cpu(r, 0)["ear.veraison.annotated-evidence"]["init_data_claims"]["uuid"] = json!("n2");
        },
        "deny",
    ),
    (
        "node not recognised",
        |r| drop(cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.node")),
        "deny",
    ),
    (
        "not affirming",
        |r| cpu(r, 0)["ear.status"] = json!("warning"),
        "deny",
    ),
    (
        "only the quote beside the report names the node",
        |r| {
            let mut quote = cpu(r, 0).clone();
            quote["sheepfold.tee"] = json!("tpm");
            r.token["submods"]["cpu1"] = quote;
            cpu(r, 0).as_object_mut().unwrap().remove("sheepfold.node");
        },
        "deny",
    ),
    (
        "report and quote name the node",
        |r| {
            let mut quote = cpu(r, 0).clone();
            quote["sheepfold.tee"] = json!("tpm");
            r.token["submods"]["cpu1"] = quote;
        },
        "allow",
    ),
    (
        "report and quote disagree",
        |r| {
            let mut quote = cpu(r, 0).clone();
            quote["sheepfold.tee"] = json!("tpm");
            quote["sheepfold.node"] = json!("n2");
            r.token["submods"]["cpu1"] = quote;
        },
        "deny",
    ),
];

// ---- The tests.

#[test]
fn attestation_policy_table() {
    let policy = AttestationPolicy::compile(super::ATTESTATION).unwrap();
    let wrong: Vec<_> = attestation()
        .iter()
        .filter_map(|row| {
            let answer = row.question.ask(&policy);
            (answer != row.answer).then(|| format!("{}: {answer}, not {}", row.why, row.answer))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn resource_policy_table() {
    let policy = ResourcePolicy::compile(super::RESOURCE).unwrap();
    for row in resource() {
        assert_eq!(row.question.ask(&policy), row.answer, "{}", row.why);
    }
    let closed = ResourcePolicy::compile(super::DENY_ALL).unwrap();
    for row in resource() {
        assert_eq!(row.question.ask(&closed), "deny", "{}", row.why);
    }
}

/// Both policies together, as a KBS chains them.
#[test]
fn evidence_to_secret() {
    let (attestation, resource) = (
        AttestationPolicy::compile(super::ATTESTATION).unwrap(),
        ResourcePolicy::compile(super::RESOURCE).unwrap(),
    );
    let read = |accepted: &str, identity: &str, pieces: &[Evidence], node: &str| {
        let mut submods = json!({});
        for (index, piece) in pieces.iter().enumerate() {
            let mut values = piece.values.clone();
            values.insert(
                "sheepfold_options".into(),
                json!({"evidence": [accepted], "identity": identity}),
            );
            let appraisal = attestation
                .appraise(&piece.input, &values.iter().collect())
                .unwrap();
            submods[format!("cpu{index}")] = appraisal.submodule(&piece.input);
        }
        resource
            .allows(
                &json!({"submods": submods}),
                "resource",
                &["default", node, "root"],
            )
            .unwrap()
    };
    for (accepted, identity, pieces) in [
        ("tpm", "ak", vec![tpm()]),
        ("snp", "init-data", vec![snp()]),
        ("tdx", "init-data", vec![tdx()]),
        ("az-snp-vtpm", "init-data", vec![az_snp()]),
        ("az-tdx-vtpm", "init-data", vec![az_tdx()]),
        ("snp+tpm", "ak", vec![snp(), tpm()]),
        ("tdx+tpm", "ak", vec![tdx(), tpm()]),
        ("snp+tpm", "init-data", vec![snp(), tpm()]),
        ("az-snp-vtpm+tpm", "ak", vec![az_snp(), tpm()]),
    ] {
        assert!(
            read(accepted, identity, &pieces, "n1"),
            "{accepted} {identity}"
        );
        assert!(
            !read(accepted, identity, &pieces, "n2"),
            "{accepted} {identity}, of another"
        );
        assert!(
            !read("other", identity, &pieces, "n1"),
            "{accepted} {identity}, not asked for"
        );
        for spoiled in 0..pieces.len() {
            let mut bad = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let (input, mut values) = (piece.input.clone(), piece.values.clone());
                if index == spoiled {
                    values.retain(|name, _| {
                        !["boot_tuples", "snp_measurements", "tdx_launches"]
                            .contains(&name.as_str())
                    });
                }
                bad.push(Evidence::new(input, values));
            }
            assert!(
                !read(accepted, identity, &bad, "n1"),
                "{accepted} {identity}, {spoiled} spoiled"
            );
        }
    }
    assert!(
        !read("tpm", "init-data", &[tpm()], "n1"),
        "a lone TPM must carry its init-data there"
    );
    assert!(
        !read("snp", "ak", &[snp()], "n1"),
        "a lone report has no key to be known by"
    );
}

/// A verifier never sends such claims; should one do so, nobody is let in.
#[test]
fn claims_that_are_no_text_are_denied_in_any_case() {
    let policy = AttestationPolicy::compile(super::ATTESTATION).unwrap();
    for odd in [json!(null), json!(1), json!([]), json!({}), json!(true)] {
        let mut evidence = tpm();
        evidence.input["tpm"]["ak_public"] = odd.clone();
        let answer = evidence.ask(&policy);
        assert!(answer == "error" || answer == STRANGER, "{odd}: {answer}");
        let mut evidence = snp();
        evidence.input["init_data"] = odd.clone();
        let answer = evidence.ask(&policy);
        assert!(
            answer == "error" || answer == SNP_STRANGER,
            "{odd}: {answer}"
        );
    }
}
