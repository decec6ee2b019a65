// SPDX-License-Identifier: Apache-2.0

//! A write is on record as begun before it is sent, and as finished some time after it was.

use super::Record;
use super::pieces::{path_of, piece_of};
use crate::plan::{Note, Observed, Write};
use crate::provision::Error;
use crate::provision::apply::Memory;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

impl Memory for Record {
    fn observed(&self) -> &Observed {
        &self.observed
    }

    fn begin(&mut self, writes: &[Write], count: usize) -> Result<(), Error> {
        if !self.held.load(Ordering::Acquire) {
            return Err(Error::ApiServer {
                action: "keep the record",
                why: "the lease is lost".to_owned(),
            });
        }
        let batch: Vec<Note> = writes.iter().take(count).map(Note::from).collect();
        // Pieces that the API server does not have as they will be.
        let mut stale = BTreeSet::new();
        for note in &batch {
            let name = piece_of(note);
            let piece = self.pieces.entry(name.clone()).or_default();
            let known = path_of(note).is_some_and(|path| piece.announced.contains(path));
            if let Some(path) = path_of(note)
                && let Some(counters) = self.pending.remove(path)
            {
                piece.content.counters.insert(path.to_owned(), counters);
            }
            if let Note::Delete { path } = note {
                piece.content.counters.remove(path);
                piece.content.volume_keys.remove(path);
            }
            self.observed.begin_note(note);
            piece.content.observed.begin_note(note);
            if !known {
                stale.insert(name);
            }
        }
        if stale.is_empty() {
            return Ok(());
        }
        // What comes next in the same piece begins with it.
        let following = writes.iter().skip(count).take(AHEAD).map(Note::from);
        let ahead: Vec<Note> = following
            .take_while(|note| path_of(note).is_some() && stale.contains(&piece_of(note)))
            .collect();
        for note in &ahead {
            if let Some(path) = path_of(note)
                && let Some(counters) = self.pending.remove(path)
                && let Some(piece) = self.pieces.get_mut(&piece_of(note))
            {
                piece.content.counters.insert(path.to_owned(), counters);
            }
        }
        // Pieces that are done go first: what is finished must not be forgotten for long.
        let done = self.pieces.iter().filter(|(_, piece)| piece.changed);
        let done: Vec<String> = done.map(|(name, _)| name.clone()).collect();
        for name in done.iter().filter(|name| !stale.contains(*name)) {
            self.save(name, &[])?;
        }
        for name in &stale {
            let own: Vec<Note> = ahead
                .iter()
                .filter(|note| piece_of(note) == *name)
                .cloned()
                .collect();
            self.save(name, &own)?;
        }
        Ok(())
    }

    fn finish(&mut self, writes: &[Write]) -> Result<(), Error> {
        for note in writes.iter().map(Note::from) {
            self.observed.finish_note(&note);
            let piece = self.pieces.entry(piece_of(&note)).or_default();
            piece.content.observed.finish_note(&note);
            piece.changed = true;
        }
        Ok(())
    }
}

/// Secrets that begin together at most.
const AHEAD: usize = 512;
