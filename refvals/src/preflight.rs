// SPDX-License-Identifier: Apache-2.0

//! Before a reboot: will this node unlock after it? From the parts that the next boot will run, the variables that
//! firmware has now, and what the present boot tells about the machine, to the PCRs of the next boot; these are held
//! against the boots that are approved. Where the present boot is not understood, nothing is promised about the next.

mod approved;
mod judge;
mod node;
mod ostree;

pub use approved::read as approved;
pub use judge::{Observed, Question, judge};
pub use node::{Node, with_boot_loader_of};
pub use ostree::Deployment;

use measured_boot::combine::Tuple;
use serde::Serialize;

/// What a node can expect from its next boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether it will unlock.
    pub unlocks: Verdict,
    /// The same as a sentence, with the reason.
    pub sentence: String,
    /// What else a person should know.
    pub remarks: Vec<String>,
    /// What the next boot will show; several where nobody knows better.
    pub boots: Vec<Tuple>,
}

/// Yes, no, or nobody can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// What the next boot shows is approved.
    Yes,
    /// It is not, or the machine will not start.
    No,
    /// Something that the answer depends on is not known.
    Unknown,
}
