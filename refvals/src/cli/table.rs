// SPDX-License-Identifier: Apache-2.0

//! Tuples for people, for programs, and for an ApprovedImage.

use super::arguments::{FormatArg, Pcrs};
use measured_boot::combine::Tuple;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Each tuple with remarks about it. `about` is what JSON says beside them.
pub(super) fn boots(
    boots: &[(Tuple, Vec<String>)],
    pcrs: &Pcrs,
    format: FormatArg,
    about: impl FnOnce() -> Value,
) -> String {
    let named = |tuple: &Tuple| -> BTreeMap<String, String> {
        let named = (0..24).filter(|pcr| pcrs.wants(*pcr)).filter_map(|pcr| {
            let value = tuple.get(pcr)?;
            Some((format!("pcr{pcr:02}"), value.to_string()))
        });
        named.collect()
    };
    let mut text = String::new();
    match format {
        FormatArg::Json => {
            let boots = boots
                .iter()
                .map(|(tuple, remarks)| json!({"pcrs": named(tuple), "remarks": remarks}));
            let json = json!({"about": about(), "boots": boots.collect::<Value>()});
            text = format!("{json:#}\n");
        }
        FormatArg::Yaml => {
            text += "bootTuples:\n";
            for (tuple, remarks) in boots {
                remarks
                    .iter()
                    .for_each(|remark| text += &format!("# {remark}\n"));
                for (index, (name, value)) in named(tuple).iter().enumerate() {
                    let begin = if index == 0 { "- " } else { "  " };
                    text += &format!("{begin}{name}: {value}\n");
                }
            }
        }
        FormatArg::Table => {
            for (number, (tuple, remarks)) in (1_usize..).zip(boots) {
                if boots.len() > 1 {
                    text += &format!("boot {number} of {}\n", boots.len());
                }
                for (name, value) in named(tuple) {
                    text += &format!("  {name}  {value}\n");
                }
                remarks
                    .iter()
                    .for_each(|remark| text += &format!("  ! {remark}\n"));
            }
        }
    }
    text
}
