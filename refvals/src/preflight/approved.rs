// SPDX-License-Identifier: Apache-2.0

//! Lists of approved boots: an `ApprovedImage` as the operator reads it, or what `refvals predict` and `refvals combine`
//! wrote, in YAML or JSON.

use crate::Error;
use measured_boot::combine::Tuple;
use serde::Deserialize;
use std::path::Path;

/// Reads the boots that a file approves; several objects may stand in it, divided by `---`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Document`] for a file that is none of these or approves no boot.
pub fn read(path: &Path) -> Result<Vec<Tuple>, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |why: String| Error::document(path.display().to_string(), why);
    let mut boots = Vec::new();
    for object in text.split("\n---") {
        let is_blank =
            |line: &str| matches!(line.trim_start().chars().next(), None | Some('#' | '-'));
        if object.lines().all(is_blank) {
            continue;
        }
        let list: List =
            serde_saphyr::from_str(object).map_err(|error| wrong(error.to_string()))?;
        boots.extend(list.boot_tuples);
        boots.extend(list.spec.reference_values.boot_tuples);
        boots.extend(list.boots.into_iter().map(|boot| boot.pcrs));
    }
    match boots.is_empty() {
        true => Err(wrong("there is no approved boot in it".to_owned())),
        false => Ok(boots),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    boot_tuples: Vec<Tuple>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    boots: Vec<Boot>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    reference_values: ReferenceValues,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReferenceValues {
    #[serde(default)]
    boot_tuples: Vec<Tuple>,
}

#[derive(Deserialize)]
struct Boot {
    pcrs: Tuple,
}
