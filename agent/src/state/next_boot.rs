// SPDX-License-Identifier: Apache-2.0

//! What `refvals preflight --record` left beside the state of this boot: whether the next one will unlock. Computing that
//! is no business of an initramfs; showing it is `trustee-agent status`.

use super::file::place;
use super::limits;
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;

/// The answer as it was left, and its sentence; `None` where nobody asked, or what is there is no answer.
pub fn next_boot() -> Option<(Value, String)> {
    let mut bytes = Vec::new();
    let file = File::open(place().join(ANSWER)).ok()?;
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    let answer: Value = serde_json::from_slice(&bytes).ok()?;
    let text = |member| Some(limits::line(answer.get(member)?.as_str()?));
    let sentence = format!("{} ({})", text("sentence")?, text("boot")?);
    Some((answer, sentence))
}

const ANSWER: &str = "preflight.json";
const LIMIT: u64 = 64 * 1024;
