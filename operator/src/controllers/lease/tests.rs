// SPDX-License-Identifier: Apache-2.0

//! Whose lease it is, by our own clock; and that nobody works who has lost it.

use super::{Lease, NAME, Rival};
use crate::controllers::Settings;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::controllers::watch::Seen;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

fn lease(server: &Server) -> Lease {
    let mut settings = Settings::new("us");
    settings.lease = Duration::from_millis(600);
    Lease::new(server.client.clone(), NAMESPACE, &settings)
}

fn put(server: &Server, holder: Option<&str>, transitions: u32, seconds: u32) {
    server.put(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME},
        "spec": {
            "holderIdentity": holder, "leaseTransitions": transitions, "leaseDurationSeconds": seconds,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
        },
    }));
}

#[test]
fn a_lease_is_taken_when_it_is_free_or_was_not_renewed_for_as_long_as_it_says() {
    let server = Server::start();
    let (lease, mut rival) = (lease(&server), Rival::default());
    let acquire = |rival: &mut Rival| server.runtime.block_on(lease.acquire(rival)).unwrap();
    let written = || -> Option<Value> {
        let write = server.writes().pop()?;
        Some(write.body["spec"].clone())
    };
    // Somebody else's, of whom nobody knows yet for how long they have been silent, whatever their clock says.
    for transitions in [1, 2] {
        put(&server, Some("another"), transitions, 0);
        assert!(!acquire(&mut rival));
    }
    // Not renewed since then.
    std::thread::sleep(Duration::from_millis(5));
    assert!(acquire(&mut rival));
    let taken = written().unwrap();
    assert_eq!(taken["holderIdentity"], "us");
    assert_eq!(taken["leaseTransitions"], 3);
    put(&server, Some("another"), 4, 3600);
    for _ in 0..2 {
        assert!(!acquire(&mut rival));
    }
    assert_eq!(written(), None);
    // Given back; then renewed, which is no change of holders.
    put(&server, None, 4, 3600);
    assert!(acquire(&mut rival));
    assert_eq!(written().unwrap()["leaseTransitions"], 5);
    put(&server, Some("us"), 5, 3600);
    assert!(acquire(&mut rival));
    let renewed = written().unwrap();
    assert_eq!(renewed["leaseTransitions"], 5);
    assert_eq!(renewed["acquireTime"], "2026-01-01T00:00:00.000000Z");
    assert!(renewed["renewTime"].is_string(), "{renewed}");
}

#[test]
fn whoever_cannot_renew_stops() {
    for (code, by_another) in [(None, true), (Some(500), false), (Some(409), false)] {
        let server = Server::start();
        let lease = lease(&server);
        let (held, (sender, seen)) = (lease.held(), channel());
        assert!(!held.load(Ordering::Acquire));
        server.runtime.spawn(lease.hold(sender));
        assert!(matches!(seen.recv().unwrap(), Seen::Leading));
        assert!(held.load(Ordering::Acquire));
        server.writes();
        match code {
            None => put(&server, Some("another"), 2, 3600),
            Some(code) => server.fail(code),
        }
        let lost = seen.recv_timeout(Duration::from_secs(30)).unwrap();
        let Seen::LeaseLost(why) = lost else {
            panic!("{lost:?}")
        };
        assert!(!held.load(Ordering::Acquire), "before anybody is told");
        assert_eq!(
            why.contains("another operator holds it"),
            by_another,
            "{why}"
        );
        // Whoever's lease was replaced in between need not try again.
        let tries = server.writes().len();
        assert_eq!(tries > 1, code == Some(500), "{tries} tries after {code:?}");
    }
}

#[test]
fn a_lease_is_given_back_by_its_holder() {
    let server = Server::start();
    let lease = lease(&server);
    for (holder, released) in [("us", true), ("another", false)] {
        put(&server, Some(holder), 1, 3600);
        server.runtime.block_on(lease.release());
        let writes = server.writes();
        assert_eq!(writes.len(), usize::from(released), "{holder}");
        for write in writes {
            assert_eq!(write.body["spec"]["holderIdentity"], Value::Null);
        }
    }
}
