// SPDX-License-Identifier: Apache-2.0

//! What has to be looked at again, because something was seen that can have changed it.

use crate::plan::Part;
use std::collections::BTreeSet;

/// What events can have changed. A round plans and reports exactly this.
#[derive(Debug, Default)]
pub struct Dirty {
    /// In the plan.
    pub part: Part,
    /// Everything, because the cluster itself changed.
    pub all: bool,
    /// Machines whose status is to be looked at, by name. What is planned for them is in the part.
    pub machines: BTreeSet<String>,
    /// Images whose status is to be looked at.
    pub images: BTreeSet<String>,
    /// Keys whose status is to be looked at.
    pub keys: BTreeSet<String>,
    /// The objects of the Trustee that is run here.
    pub deployed: bool,
}

impl Dirty {
    /// Everything.
    pub fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.all
            && self.part == Part::default()
            && self.machines.is_empty()
            && self.images.is_empty()
            && self.keys.is_empty()
            && !self.deployed
    }

    /// Takes in what a round that failed left undone.
    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.part.nodes.extend(other.part.nodes);
        self.part.values.extend(other.part.values);
        self.machines.extend(other.machines);
        self.images.extend(other.images);
        self.keys.extend(other.keys);
        self.deployed |= other.deployed;
    }
}
