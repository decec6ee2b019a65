// SPDX-License-Identifier: Apache-2.0

//! A record that begins where another memory of the same KBS ends: the one on the disk of whoever began the cluster.

use super::pieces::{MAIN, piece_of_path, piece_of_value};
use super::{Counters, Record};
use crate::plan::Observed;
use crate::provision::Error;

impl Record {
    /// Whether this is the record with this number, or none yet.
    pub fn may_become(&self, id: &str) -> bool {
        let main = self
            .pieces
            .get(MAIN)
            .and_then(|main| main.content.id.as_deref());
        match main {
            Some(known) => known == id,
            None => self.pieces.is_empty(),
        }
    }

    /// Says from now on what that memory says, under its number, which the KBS has. No operator may be at work. When this
    /// is interrupted, the same call continues.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn adopt(&mut self, id: &str, stamped: bool, observed: &Observed) -> Result<(), Error> {
        id.clone_into(&mut self.id);
        self.stamped = stamped;
        self.observed = observed.clone();
        for (name, part) in observed.split(piece_of_value, piece_of_path, MAIN) {
            let piece = self.pieces.entry(name).or_default();
            let paths = part.under("").map(|(path, _)| path.to_owned());
            let first = paths.filter(|path| is_first_place(path));
            piece.content.counters = first
                .map(|path| {
                    let rotating = second_places(&part, &path) > 1;
                    let counters = Counters {
                        rotating,
                        ..Counters::default()
                    };
                    (path, counters)
                })
                .collect();
            piece.content.observed = part;
            piece.changed = true;
        }
        // The number first: it says whose the other pieces are.
        self.save(MAIN, &[])?;
        self.settle()
    }
}

/// `default/<node>/root`, and not `root.<id>` beside it.
fn is_first_place(path: &str) -> bool {
    let tag = path.rsplit('/').next().unwrap_or_default();
    !tag.contains('.')
}

/// Secrets that are kept for this path, the present one among them.
fn second_places(observed: &Observed, path: &str) -> usize {
    let prefix = format!("{path}.");
    let kept = observed.under(&prefix).filter(|(at, secret)| {
        let id = secret.map(|id| id.0.as_str());
        at.strip_prefix(&prefix) == id
    });
    kept.count()
}
