// SPDX-License-Identifier: Apache-2.0

//! The PCR values of one boot, which count together or not at all: one entry of the reference value `boot_tuples`.

use crate::bank::{Bank, Digest};
use crate::error::Error;
use crate::predict::Prediction;
use crate::replay::Pcrs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// PCR values by claim name: `{"pcr04": "<hex>", "pcr07": "<hex>", "pcr14": "<hex>"}`, with a unified kernel image
/// also `pcr11`, `pcr12` and `pcr13`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tuple(BTreeMap<String, Digest>);

impl Tuple {
    /// The values of the PCRs that a prediction speaks about.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when the facts do not hold this bank.
    pub fn of(prediction: &Prediction, bank: Bank) -> Result<Self, Error> {
        let pcrs = prediction.pcrs(bank)?;
        let value = |pcr: &u8| (claim(*pcr), pcrs.get(*pcr));
        Ok(Self(prediction.pcrs.iter().map(value).collect()))
    }

    /// The value of one PCR, when the tuple names it.
    pub fn get(&self, pcr: u8) -> Option<&Digest> {
        self.0.get(&claim(pcr))
    }

    /// Whether a machine with these PCRs shows this boot: every named PCR has its value.
    pub fn matches(&self, pcrs: &Pcrs) -> bool {
        (0..24).all(|pcr| self.get(pcr).is_none_or(|value| *value == pcrs.get(pcr)))
    }
}

/// The name of a PCR among the claims of a verifier.
fn claim(pcr: u8) -> String {
    format!("pcr{pcr:02}")
}
