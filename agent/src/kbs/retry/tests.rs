// SPDX-License-Identifier: Apache-2.0

use super::{Pace, Patience, Wait, retry};
use crate::config::ServerUrl;
use crate::kbs::KbsError;
use kbs_protocol::Blame as _;
use kbs_protocol::refusal::{Refusal, Step};
use std::time::{Duration, Instant};

/// A clock that only sleeping moves, and chance from a list.
struct Fake {
    now: Instant,
    random: u32,
    slept: Vec<Duration>,
}

impl Fake {
    fn with(random: u32) -> Self {
        Self {
            now: Instant::now(),
            random,
            slept: Vec::new(),
        }
    }
}

impl Pace for Fake {
    fn now(&self) -> Instant {
        self.now
    }
    fn sleep(&mut self, duration: Duration) {
        self.slept.push(duration);
        self.now = self.now.checked_add(duration).unwrap();
    }
    fn random(&mut self) -> u32 {
        self.random
    }
}

fn server() -> ServerUrl {
    ServerUrl::parse("https://kbs.example", false).unwrap()
}

fn temporary() -> KbsError {
    KbsError::Connect {
        server: server(),
        why: "refused".into(),
    }
}

fn refused(status: u16, kind: &str, retry_after: Option<Duration>) -> KbsError {
    let body = format!(r#"{{"type":"x/{kind}","detail":"d"}}"#);
    KbsError::Refused {
        server: server(),
        asked: None,
        refusal: Refusal::read(Step::Resource, status, body.as_bytes()),
        session_age: None,
        retry_after,
        token: None,
    }
}

/// Fails with these errors, then succeeds.
fn run(
    patience: Patience,
    pace: &mut Fake,
    errors: Vec<KbsError>,
) -> (Result<(), KbsError>, Vec<u32>) {
    let mut errors = errors.into_iter();
    let mut waits = Vec::new();
    let mut on_wait = |wait: Wait<'_>| waits.push(wait.tries);
    let result = retry(patience, pace, &mut on_wait, |_| {
        errors.next().map_or(Ok(()), Err)
    });
    assert_eq!(errors.count(), 0, "not all planned attempts were made");
    (result, waits)
}

#[test]
fn the_ceiling_doubles_to_a_minute_and_jitter_is_full() {
    let many = |n| (0..n).map(|_| temporary()).collect::<Vec<_>>();
    let mut pace = Fake::with(u32::MAX);
    assert!(run(Patience::Forever, &mut pace, many(9)).0.is_ok());
    let seconds: Vec<u128> = pace
        .slept
        .iter()
        .map(|d| d.as_millis().div_ceil(1000))
        .collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);

    let mut pace = Fake::with(0);
    run(Patience::Forever, &mut pace, many(3)).0.unwrap();
    assert_eq!(pace.slept, [Duration::ZERO; 3]);

    let mut pace = Fake::with(1 << 31);
    run(Patience::Forever, &mut pace, many(3)).0.unwrap();
    assert_eq!(pace.slept, [500, 1000, 2000].map(Duration::from_millis));

    // Centuries of failures do not overflow.
    let mut pace = Fake::with(u32::MAX);
    run(Patience::Forever, &mut pace, many(300)).0.unwrap();
    assert!(pace.slept.iter().all(|d| *d <= Duration::from_secs(60)));
}

#[test]
fn a_deadline_ends_it_with_all_causes() {
    let mut pace = Fake::with(u32::MAX);
    // Pauses of 1 s and 2 s, then 1 s, so that the last try has one second of the five.
    let errors = vec![
        temporary(),
        KbsError::Dns {
            server: server(),
            why: "unknown".into(),
        },
        temporary(),
        KbsError::Timeout {
            server: server(),
            step: Step::Auth,
            after: Duration::from_secs(1),
        },
    ];
    let (result, waits) = run(Patience::For(Duration::from_secs(5)), &mut pace, errors);
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("gave up after 4 s and 4 tries, at last because of"),
        "{text}"
    );
    assert!(text.contains("no complete answer"), "{text}");
    assert!(
        text.contains("refused (2 times)") && text.contains("unknown (1 times)"),
        "{text}"
    );
    assert_eq!(error.owner(), kbs_protocol::Owner::Network);
    assert_eq!(waits, [1, 2, 3]);
    assert_eq!(pace.slept.iter().sum::<Duration>(), Duration::from_secs(4));
}

#[test]
fn the_attempt_knows_the_deadline() {
    let mut pace = Fake::with(0);
    let begin = pace.now();
    let mut seen = None;
    retry(
        Patience::For(Duration::from_secs(7)),
        &mut pace,
        &mut |_| (),
        |until| {
            seen = until;
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(seen, begin.checked_add(Duration::from_secs(7)));
}

#[test]
fn permanent_errors_and_single_tries_stop_as_they_are() {
    let mut pace = Fake::with(0);
    let (result, waits) = run(
        Patience::Forever,
        &mut pace,
        vec![refused(404, "PluginNotFound", None)],
    );
    assert!(matches!(result, Err(KbsError::Refused { .. })));
    assert!(waits.is_empty());

    let (result, waits) = run(Patience::Once, &mut pace, vec![temporary()]);
    assert!(matches!(result, Err(KbsError::Connect { .. })));
    assert!(waits.is_empty());
}

#[test]
fn approval_is_awaited_slowly_and_only_by_those_who_wait_for_ever() {
    let deny = || refused(401, "PolicyDeny", None);
    for (random, seconds) in [
        (0, [5, 10, 20, 40, 60, 60]),
        (1 << 31, [15, 30, 60, 120, 180, 180]),
        (u32::MAX, [24, 49, 99, 199, 299, 299]),
    ] {
        let mut pace = Fake::with(random);
        let many = (0..6).map(|_| deny()).collect();
        run(Patience::Forever, &mut pace, many).0.unwrap();
        let slept: Vec<_> = pace.slept.iter().map(Duration::as_secs).collect();
        assert_eq!(slept, seconds);
    }
    for patience in [Patience::Once, Patience::For(Duration::from_secs(9999))] {
        let mut pace = Fake::with(0);
        assert!(run(patience, &mut pace, vec![deny()]).0.is_err());
        assert!(pace.slept.is_empty());
    }
}

#[test]
fn a_busy_server_is_given_the_time_it_asks_for_and_jitter() {
    let mut pace = Fake::with(1 << 31);
    let busy = || refused(429, "x", Some(Duration::from_secs(20)));
    run(Patience::Forever, &mut pace, vec![busy()]).0.unwrap();
    assert_eq!(pace.slept, [Duration::from_millis(20_500)]);
}

/// A connection that is closed without a word: with endless patience the node waits on, else the server is to blame.
#[test]
fn silence_is_waited_out() {
    let silence = || KbsError::NoAnswer {
        server: server(),
        step: Step::Attest,
        why: "connection closed".into(),
    };
    let many = |n| (0..n).map(|_| silence()).collect::<Vec<_>>();
    let mut pace = Fake::with(u32::MAX);
    let (result, waits) = run(Patience::Forever, &mut pace, many(100));
    result.unwrap();
    assert_eq!(waits.len(), 100);
    assert!(pace.slept.iter().rev().take(90).all(|d| d.as_secs() >= 59));

    let mut pace = Fake::with(u32::MAX);
    let error = run(Patience::For(Duration::from_secs(600)), &mut pace, many(16))
        .0
        .unwrap_err();
    assert_eq!(error.owner(), kbs_protocol::Owner::Server);
    let text = error.to_string();
    assert!(text.contains("gave up after 599 s and 16 tries"), "{text}");
    // One sentence, however often.
    assert!(!text.contains("before that"), "{text}");
}
