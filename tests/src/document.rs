// SPDX-License-Identifier: Apache-2.0
//! Tables in documents that a program writes: they stand between two comments, and nothing else does.

use std::fs;

use anyhow::{Context as _, Result};

use crate::paths;

/// Replaces the table called `name` in a document (its path in the workspace). `table` ends with a line break.
///
/// # Errors
/// The document has no such table, or cannot be written.
pub fn write_table(document: &str, name: &str, table: &str) -> Result<()> {
    let file = paths::workspace().join(document);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {document}"))?;
    let begin = text.find(&format!("<!-- {name}: begin"));
    let table_at = begin.and_then(|begin| Some(begin + text.get(begin..)?.find('\n')? + 1));
    let end = text.find(&format!("<!-- {name}: end -->"));
    let around = table_at
        .zip(end)
        .and_then(|(from, to)| Some((text.get(..from)?, text.get(to..)?)));
    let (before, after) = around.with_context(|| format!("{document} has no table {name}"))?;
    Ok(fs::write(&file, format!("{before}{table}{after}"))?)
}
