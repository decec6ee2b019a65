// SPDX-License-Identifier: Apache-2.0

//! The PCR values of one boot, which count together or not at all: one entry of the reference value
//! `boot_tuples`.

use crate::bank::{Bank, Digest};
use crate::error::Error;
use crate::predict::Prediction;
use crate::replay::Pcrs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// PCR values by the names that a verifier's claims have: `{"pcr04": "<hex>", "pcr07": "<hex>", "pcr14": "<hex>"}`, with a unified
/// kernel image also `pcr11`, `pcr12` and `pcr13`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, Digest>",
    into = "BTreeMap<String, Digest>"
)]
pub struct Tuple(BTreeMap<u8, Digest>);

impl Tuple {
    /// The values of the PCRs that a prediction speaks about.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when the facts do not hold this bank.
    pub fn of(prediction: &Prediction, bank: Bank) -> Result<Self, Error> {
        let pcrs = prediction.pcrs(bank)?;
        let value = |pcr: &u8| (*pcr, pcrs.get(*pcr));
        Ok(Self(prediction.pcrs.iter().map(value).collect()))
    }

    /// The value of one PCR, when the tuple names it.
    pub fn get(&self, pcr: u8) -> Option<&Digest> {
        self.0.get(&pcr)
    }

    /// Whether a machine with these PCRs shows this boot: every named PCR has its value.
    pub fn matches(&self, pcrs: &Pcrs) -> bool {
        self.0.iter().all(|(pcr, value)| *value == pcrs.get(*pcr))
    }
}

impl From<Tuple> for BTreeMap<String, Digest> {
    fn from(tuple: Tuple) -> Self {
        let named = |(pcr, value)| (format!("pcr{pcr:02}"), value);
        tuple.0.into_iter().map(named).collect()
    }
}

impl TryFrom<BTreeMap<String, Digest>> for Tuple {
    type Error = String;

    /// A name that is none would be compared with nothing, and a tuple of such names would match every machine.
    fn try_from(named: BTreeMap<String, Digest>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for (name, value) in named {
            let pcr = (0..24_u8).find(|pcr| name == format!("pcr{pcr:02}"));
            let pcr = pcr.ok_or_else(|| format!("{name:?} is not pcr00 to pcr23"))?;
            values.insert(pcr, value);
        }
        match values.contains_key(&BOOT_CODE) {
            true => Ok(Self(values)),
            false => Err("a tuple that does not name pcr04".to_owned()),
        }
    }
}

/// Without the PCR of the boot code a tuple approves nothing in particular.
const BOOT_CODE: u8 = 4;

#[cfg(test)]
mod tests {
    use super::Tuple;
    use crate::bank::Bank;
    use crate::replay::Pcrs;

    #[test]
    fn a_tuple_names_pcrs_and_the_boot_code_among_them() {
        let zero = Bank::Sha256.zero();
        let one = Bank::Sha256.hash(b"1");
        let json = format!(r#"{{"pcr04":"{one}","pcr14":"{zero}"}}"#);
        let tuple: Tuple = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&tuple).unwrap(), json);

        let mut pcrs = Pcrs::new(Bank::Sha256);
        assert!(!tuple.matches(&pcrs));
        pcrs.set(4, one.clone());
        assert!(tuple.matches(&pcrs));
        pcrs.set(14, one);
        assert!(!tuple.matches(&pcrs));

        for wrong in ["pcr4", "pcr24", "pcr004", "PCR04", ""] {
            let json = json.replace("pcr14", wrong);
            assert!(serde_json::from_str::<Tuple>(&json).is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<Tuple>(&json.replace("pcr04", "pcr05")).is_err());
        assert!(serde_json::from_str::<Tuple>("{}").is_err());
    }
}
