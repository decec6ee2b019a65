// SPDX-License-Identifier: Apache-2.0
//! Headers that the real cryptsetup wrote, and the same with one thing changed and its checksum made good again:
//! what a host would do. Each rule of the whitelist has a row here, and falls over if the rule is taken out.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

mod copies;
mod hostile;
mod made;
mod real;
mod rows;
