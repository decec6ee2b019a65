// SPDX-License-Identifier: Apache-2.0

//! What a platform says: the UEFI variables that PCR 7 and 14 depend on. One document per kind of machine,
//! for a person to approve. Three sources: a firmware variable store, a directory of efivarfs, an event
//! log.

use crate::bank::Bank;
use crate::bytes::Blob;
use crate::error::Error;
use crate::eventlog::{EventLog, EventType};
use crate::uefi::{Guid, VariableData, guid, store};
use kbs_protocol::encoding::hex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A platform, before it boots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlatformFacts {
    /// How to call it.
    pub platform: String,
    /// Whether firmware enforces Secure Boot.
    pub secure_boot: bool,
    /// Contents by name, those of [`KNOWN`] only. An absent variable is measured as an empty one.
    pub variables: BTreeMap<String, Blob>,
    /// Texts such as `UEFI Debug Mode` that this firmware measures into PCR 7. Nothing is predicted for
    /// such a platform.
    #[serde(default)]
    pub preboot_actions: Vec<String>,
    /// EFI_SIGNATURE_DATA that authorised option ROMs, which firmware measures before the separator.
    #[serde(default)]
    pub option_rom_authorities: Vec<Blob>,
    /// Where this came from, for the person who approves it.
    #[serde(default)]
    pub source: String,
    /// When it was captured (RFC 3339), for the same person.
    #[serde(default)]
    pub captured_at: String,
}

/// The variables that are looked at, with their vendors.
pub const KNOWN: [(&str, Guid); 16] = [
    ("SecureBoot", guid::GLOBAL),
    ("PK", guid::GLOBAL),
    ("KEK", guid::GLOBAL),
    ("dbDefault", guid::GLOBAL),
    ("dbxDefault", guid::GLOBAL),
    ("db", guid::IMAGE_SECURITY),
    ("dbx", guid::IMAGE_SECURITY),
    ("dbt", guid::IMAGE_SECURITY),
    ("dbr", guid::IMAGE_SECURITY),
    ("MokList", guid::SHIM_LOCK),
    ("MokListX", guid::SHIM_LOCK),
    ("MokListTrusted", guid::SHIM_LOCK),
    ("MokPolicy", guid::SHIM_LOCK),
    ("MokSBState", guid::SHIM_LOCK),
    ("SbatLevel", guid::SHIM_LOCK),
    ("SbatPolicy", guid::SHIM_LOCK),
];

impl PlatformFacts {
    /// From variables, wherever they were read. Those that no measurement depends on are dropped.
    ///
    /// Secure Boot is on when the SecureBoot variable says so; a store of a machine that is off does not
    /// have that variable, and then an enrolled PK means that firmware will turn it on (UEFI 2.10, section
    /// 32.3).
    pub fn from_variables(
        platform: &str,
        source: &str,
        variables: impl IntoIterator<Item = VariableData>,
    ) -> Self {
        let variables: BTreeMap<String, Blob> = variables
            .into_iter()
            .filter(|variable| KNOWN.contains(&(variable.name.as_str(), variable.vendor)))
            .map(|variable| (variable.name, Blob::from(variable.data)))
            .collect();
        let secure_boot = match variables.get("SecureBoot") {
            Some(state) => state.as_ref() == [1],
            None => variables.get("PK").is_some_and(|pk| !pk.0.is_empty()),
        };
        Self {
            platform: platform.to_owned(),
            secure_boot,
            variables,
            source: source.to_owned(),
            ..Self::default()
        }
    }

    /// From a firmware variable store as virt-firmware writes it in JSON (`{"version": 2, "variables":
    /// [...]}`).
    ///
    /// # Errors
    /// [`Error::Document`] for another format, a GUID that is none, or data that is not hexadecimal.
    pub fn from_variable_store(platform: &str, json: &[u8]) -> Result<Self, Error> {
        let wrong = |why: String| Error::Document {
            what: "the variable store",
            why,
        };
        let store: VariableStore =
            serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        if store.version != 2 {
            return Err(wrong(format!("version {}, expected 2", store.version)));
        }
        let mut variables = Vec::new();
        for stored in store.variables {
            let data = hex::decode(&stored.data)
                .ok_or_else(|| wrong(format!("the data of {} is not hexadecimal", stored.name)))?;
            // A vendor we do not know has no variable we measure.
            if let Some((_, vendor)) = KNOWN
                .iter()
                .find(|(_, vendor)| vendor.to_string() == stored.guid.to_lowercase())
            {
                variables.push(VariableData::new(*vendor, &stored.name, data));
            }
        }
        Ok(Self::from_variables(platform, "variable store", variables))
    }

    /// From a flash image of EDK II, such as `OVMF_VARS_4M.ms.fd`. Enrolled keys do not suffice there: a person may
    /// have turned Secure Boot off in the firmware's menu (variable `SecureBootEnable`).
    ///
    /// # Errors
    /// As [`store::variables`].
    pub fn from_flash(platform: &str, file: &[u8]) -> Result<Self, Error> {
        let variables = store::variables(file)?;
        let is_off = |variable: &VariableData| {
            variable.name == "SecureBootEnable"
                && variable.vendor.to_string() == SECURE_BOOT_ENABLE
                && variable.data == [0]
        };
        let is_off = variables.iter().any(is_off);
        let mut facts = Self::from_variables(platform, "flash image", variables);
        facts.secure_boot &= !is_off;
        Ok(facts)
    }

    /// From the log of a machine that booted: firmware logs each variable with its content.
    ///
    /// The log must be one whose replay gives the PCR 7 that the machine's TPM signed; here it is only
    /// checked that every entry's digest covers its text. What shim keeps (MokList, MokListX) is not in a
    /// log: it is taken as empty, and SbatLevel is what this boot left behind.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when the log does not have this bank, [`Error::Malformed`] for an entry that is
    /// not a variable or whose text is not what was measured.
    pub fn from_event_log(platform: &str, log: &EventLog, bank: Bank) -> Result<Self, Error> {
        let mut variables = Vec::new();
        let mut actions = Vec::new();
        for (index, event) in log.extends().filter(|(_, event)| event.pcr == 7) {
            if event.digest(bank).is_none() {
                return Err(Error::NoDigest {
                    what: format!("entry {index} of the event log"),
                    bank,
                });
            }
            if !event.covers_data(bank) {
                return Err(Error::Malformed {
                    structure: "event log",
                    offset: event.offset,
                    why: format!("the text of entry {index} is not what was measured"),
                });
            }
            match event.kind {
                EventType::VARIABLE_DRIVER_CONFIG => {
                    variables.push(VariableData::parse(&event.data)?);
                }
                EventType::VARIABLE_AUTHORITY => {
                    let variable = VariableData::parse(&event.data)?;
                    // The other authorities are single entries of db or MokList, not variables.
                    if variable.name == "SbatLevel" {
                        variables.push(variable);
                    }
                }
                EventType::ACTION => actions.push(event.text()),
                _ => {}
            }
        }
        let mut facts = Self::from_variables(platform, "event log", variables);
        facts.preboot_actions = actions;
        Ok(facts)
    }

    /// The content of a variable; an absent one is empty.
    pub fn variable(&self, name: &str) -> &[u8] {
        self.variables.get(name).map_or(&[], AsRef::as_ref)
    }

    /// The variable as firmware or shim measures it.
    pub(crate) fn measured(&self, name: &str) -> VariableData {
        let vendor = KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(guid::GLOBAL, |(_, vendor)| *vendor);
        let data = match name {
            "SecureBoot" => vec![u8::from(self.secure_boot)],
            _ => self.variable(name).to_vec(),
        };
        VariableData::new(vendor, name, data)
    }
}

/// EDK II, gEfiSecureBootEnableDisableGuid.
const SECURE_BOOT_ENABLE: &str = "f0a30bc7-af08-4556-99c4-001009c93a44";

#[derive(Deserialize)]
struct VariableStore {
    version: u32,
    variables: Vec<StoredVariable>,
}

#[derive(Deserialize)]
struct StoredVariable {
    name: String,
    guid: String,
    data: String,
}

#[cfg(test)]
mod tests {
    use super::PlatformFacts;
    use crate::uefi::{VariableData, guid};

    #[test]
    fn a_store_is_read_and_a_wrong_one_refused() {
        let store = |version: u32, data: &str| {
            let json = format!(
                r#"{{"version":{version},"variables":[
                {{"name":"PK","guid":"8BE4DF61-93CA-11D2-AA0D-00E098032B8C","attr":39,"data":"{data}"}},
                {{"name":"Boot0001","guid":"8be4df61-93ca-11d2-aa0d-00e098032b8c","attr":7,"data":"00"}},
                {{"name":"db","guid":"8be4df61-93ca-11d2-aa0d-00e098032b8c","attr":7,"data":"00"}}]}}"#
            );
            PlatformFacts::from_variable_store("p", json.as_bytes())
        };
        let facts = store(2, "0102").unwrap();
        assert!(facts.secure_boot);
        assert_eq!(facts.variable("PK"), [1, 2]);
        // Not ours, and under a vendor that is not db's.
        assert_eq!(facts.variables.len(), 1);
        assert!(!store(2, "").unwrap().secure_boot);
        for (wrong, text) in [
            (store(1, "01"), "version 1"),
            (store(2, "0"), "hexadecimal"),
        ] {
            let error = wrong.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(PlatformFacts::from_variable_store("p", b"{}").is_err());
    }

    #[test]
    fn secure_boot_is_what_firmware_says() {
        let variables = |state: u8| {
            [
                VariableData::new(guid::GLOBAL, "PK", [1]),
                VariableData::new(guid::GLOBAL, "SecureBoot", [state]),
            ]
        };
        assert!(PlatformFacts::from_variables("p", "", variables(1)).secure_boot);
        assert!(!PlatformFacts::from_variables("p", "", variables(0)).secure_boot);
    }

    #[test]
    fn the_document_is_stable_and_strict() {
        let facts = PlatformFacts::from_variables(
            "qemu",
            "test",
            [VariableData::new(guid::GLOBAL, "PK", [255])],
        );
        let json = serde_json::to_string(&facts).unwrap();
        assert!(
            json.starts_with(r#"{"platform":"qemu","secureBoot":true,"variables":{"PK":"/w=="}"#)
        );
        assert_eq!(serde_json::from_str::<PlatformFacts>(&json).unwrap(), facts);
        let unknown = json.replace("source", "sauce");
        assert!(serde_json::from_str::<PlatformFacts>(&unknown).is_err());
    }
}
