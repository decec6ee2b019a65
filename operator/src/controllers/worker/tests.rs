// SPDX-License-Identifier: Apache-2.0

//! When a worker may work.

use super::Worker;
use crate::controllers::Settings;
use crate::controllers::deploy::Objects;
use crate::controllers::metrics::Metrics;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::controllers::watch::{Change, Seen};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(super) fn worker(server: &Server) -> Worker {
    let (client, runtime) = (&server.client, server.runtime.handle());
    let place = (client, NAMESPACE, runtime);
    let objects = Objects::new(client, NAMESPACE, runtime);
    let (settings, metrics) = (Settings::new("one"), Metrics::default());
    let held = Arc::new(AtomicBool::new(true));
    Worker::new(&settings, metrics, place, objects, held)
}

/// The last of each watch's first list, and the lease.
fn beginning(number: usize) -> Seen {
    let nothing = BTreeSet::new();
    match number {
        0 => Seen::Leading,
        1 => Seen::Cluster(Change::All(nothing)),
        2 => Seen::Image(Change::All(nothing)),
        3 => Seen::Machine(Change::All(nothing)),
        _ => Seen::Key(Change::All(nothing)),
    }
}

#[test]
fn whoever_has_not_the_lease_or_has_not_seen_everything_does_nothing() {
    let server = Server::start();
    for missing in 0..5 {
        let mut worker = worker(&server);
        assert!(!worker.may_work());
        for number in (0..5).filter(|number| *number != missing) {
            worker.take_in(beginning(number));
        }
        assert!(!worker.may_work(), "without {:?}", beginning(missing));
        worker.take_in(beginning(missing));
        assert!(worker.may_work(), "with everything");
    }
}
