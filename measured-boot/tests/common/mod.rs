// SPDX-License-Identifier: Apache-2.0

//! Facts made by hand from the recorded boots: their JSON documents and the small binary parts that were
//! kept. Nothing here looks at a recorded PCR value or an event log.

#![allow(dead_code)] // Each test binary uses a part of it.

pub(crate) mod fleet;
pub(crate) mod made_up;
pub(crate) mod pe_file;

use measured_boot::bank::Bank;
use measured_boot::facts::{
    ImageFacts, SectionFacts, ShimFacts, ShimVersion, UkiFacts, vendor_cert,
};
use measured_boot::path::{BootPath, Route};
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::sbat::SbatLevels;
use measured_boot::signature::SignatureFacts;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The recorded boots, or `None` with a loud word about it.
pub(crate) fn fixtures() -> Option<Fixtures> {
    let base = std::env::var_os("SHEEPFOLD_FIXTURES").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../shared/fixtures"
            ))
        },
        PathBuf::from,
    );
    let root = base.join("measured-boot");
    if !root.join("scenarios.json").exists() {
        eprintln!(
            "SKIPPED: no recorded boots in {}; set SHEEPFOLD_FIXTURES to the directory that holds measured-boot/",
            root.display()
        );
        return None;
    }
    let binaries = json_of(&root.join("binaries.json"));
    Some(Fixtures { root, binaries })
}

pub(crate) struct Fixtures {
    pub(crate) root: PathBuf,
    binaries: Value,
}

/// One recorded boot: what went in.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) image: ImageFacts,
    pub(crate) platform: PlatformFacts,
    pub(crate) path: BootPath,
    pub(crate) has_log: bool,
}

impl Fixtures {
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let all = json_of(&self.root.join("scenarios.json"));
        all.as_array()
            .unwrap()
            .iter()
            .map(|one| self.scenario(one))
            .collect()
    }

    pub(crate) fn named(&self, name: &str) -> Scenario {
        let mut all = self.scenarios();
        all.retain(|scenario| scenario.name == name);
        all.pop().expect(name)
    }

    fn scenario(&self, one: &Value) -> Scenario {
        let name = one["scenario"].as_str().unwrap().to_owned();
        let chain: Vec<(&str, u8)> = one["chain"]
            .as_array()
            .unwrap()
            .iter()
            .map(|link| {
                (
                    link[0].as_str().unwrap(),
                    u8::try_from(link[1].as_u64().unwrap()).unwrap(),
                )
            })
            .collect();
        let mut image = ImageFacts {
            name: name.clone(),
            shim: one["shim"].as_str().map(|id| self.shim(id)),
            ..ImageFacts::default()
        };
        let mut path = match (chain[0].0.starts_with("uki"), &image.shim) {
            (false, _) => BootPath::new(Route::ShimGrub),
            (true, Some(_)) => BootPath::new(Route::ShimUki),
            (true, None) => BootPath::new(Route::Uki),
        };
        if path.route == Route::ShimGrub {
            image.boot_loader = Some(self.program(chain[0].0));
            image.kernel = Some(self.program("linux-6.1.0-56-cloud"));
            path.kernel_measurements = Some(chain.get(1).map_or(0, |(_, count)| *count));
        } else {
            image.uki = Some(self.uki(chain[0].0));
        }
        path.failed_boot_options = one["failed_boot_options"]
            .as_u64()
            .unwrap()
            .try_into()
            .unwrap();
        Scenario {
            name,
            image,
            platform: self.platform(one["platform"].as_str().unwrap()),
            path,
            has_log: one["event_log"].as_bool().unwrap(),
        }
    }

    pub(crate) fn platform(&self, name: &str) -> PlatformFacts {
        let json = self.bytes(&format!("platform/{name}.json"));
        PlatformFacts::from_variable_store(name, &json).unwrap()
    }

    fn entry(&self, id: &str) -> &Value {
        let all = self.binaries.as_array().unwrap();
        all.iter().find(|one| one["id"] == id).expect(id)
    }

    /// The recorded binary with this SHA-256 over the whole file.
    pub(crate) fn id_of_file(&self, sha256: &str) -> Option<String> {
        let mut all = self.binaries.as_array().unwrap().iter();
        let found = all.find(|one| one["sha256"] == sha256)?;
        Some(found["id"].as_str().unwrap().to_owned())
    }

    /// A program as `binaries.json` describes it, through the JSON form of our own facts.
    pub(crate) fn program(&self, id: &str) -> PeFacts {
        let entry = self.entry(id);
        let facts = json!({"name": id, "authenticode": entry["authenticode"]});
        let mut facts: PeFacts = serde_json::from_value(facts).unwrap();
        for signature in entry["signatures"].as_array().unwrap() {
            let pkcs7 = self.bytes(signature["file"].as_str().unwrap());
            facts
                .signatures
                .push(SignatureFacts::parse(&pkcs7).unwrap());
        }
        facts
    }

    pub(crate) fn shim(&self, id: &str) -> ShimFacts {
        let section = |part: &str| self.bytes(self.entry(id)[part].as_str().unwrap());
        let (vendor_authorized, vendor_deauthorized) =
            vendor_cert(&section("vendor_cert")).unwrap();
        let version = id.strip_prefix("shim-").unwrap().to_owned();
        ShimFacts {
            file: self.program(id),
            version: ShimVersion::try_from(version).unwrap(),
            vendor_authorized,
            vendor_deauthorized,
            build_certificate: None,
            sbat_levels: Some(SbatLevels::parse(&section("sbatlevel")).unwrap()),
        }
    }

    pub(crate) fn uki(&self, id: &str) -> UkiFacts {
        let sections = self.entry(id)["sections"].as_array().unwrap();
        let facts = |section: &Value| -> SectionFacts {
            let facts =
                json!({"name": section["name"], "digests": {"sha256": section["sha256_virtual"]}});
            serde_json::from_value(facts).unwrap()
        };
        UkiFacts {
            file: self.program(id),
            sections: sections.iter().map(facts).collect(),
            profiles: vec![],
        }
    }

    /// What the machine's TPM showed: for comparison only.
    pub(crate) fn recorded_pcrs(&self, scenario: &str) -> Vec<(Bank, u8, String)> {
        let json = json_of(&self.root.join(scenario).join("pcrs.json"));
        let mut pcrs = Vec::new();
        for (bank, values) in json.as_object().unwrap() {
            let bank: Bank = serde_json::from_value(json!(bank)).unwrap();
            for (pcr, value) in values.as_object().unwrap() {
                pcrs.push((
                    bank,
                    pcr.parse().unwrap(),
                    value.as_str().unwrap().to_owned(),
                ));
            }
        }
        pcrs
    }

    pub(crate) fn log(&self, scenario: &str) -> Vec<u8> {
        self.bytes(&format!("{scenario}/eventlog.bin"))
    }
}

fn json_of(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn blob(bytes: &[u8]) -> measured_boot::bytes::Blob {
    measured_boot::bytes::Blob::from(bytes)
}
