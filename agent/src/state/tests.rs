// SPDX-License-Identifier: Apache-2.0

use super::file::parse;
use super::{
    Answered, Attested, Extend, Phase, Reason, Refused, RunDirectory, State, StateError, Volume,
    Waiting,
};
use crate::unlock::Meant;
use kbs_protocol::{Blame as _, Owner};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn run() -> (tempfile::TempDir, RunDirectory) {
    let parent = tempfile::tempdir().unwrap();
    let run = RunDirectory::at(parent.path().join("trustee")).unwrap();
    (parent, run)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn volume() -> Volume {
    Volume {
        luks_uuid: "0a1b2c3d-0000-4000-8000-0123456789ab".to_owned(),
        source: "/dev/vda4".into(),
        source_number: "254:4".to_owned(),
        number: "253:0".to_owned(),
        vk_id: "AAAA".to_owned(),
        path: "default/node/root".to_owned(),
    }
}

fn answered() -> Answered {
    Answered {
        source: "/dev/vda5".into(),
        source_number: "254:5".to_owned(),
        vk_id: "BBBB".to_owned(),
        path: "default/node/data".to_owned(),
        table: Meant {
            sector_size: 4096,
            ..Meant::usual(&volume().luks_uuid)
        },
    }
}

fn extend(event: &str) -> Extend {
    Extend {
        register: "pcr11".to_owned(),
        event: event.to_owned(),
        before: "0".repeat(64),
        after: "a".repeat(64),
    }
}

fn full() -> State {
    let mut state = State {
        phase: Phase::Sealed,
        ..State::default()
    };
    state.record_volume("root", volume());
    state.record_answered("data", answered());
    state.record_extend(extend("trustee:leave-initrd"));
    state.attested = Some(Attested {
        at_ms: 2500,
        server: "https://kbs.example:8080".to_owned(),
        verdict: "affirming".to_owned(),
        pcr11: Some("0".repeat(64)),
    });
    let reason = Reason {
        why: "no connection".to_owned(),
        owner: "network".to_owned(),
        exit_code: 12,
        advice: "look at the cable".to_owned(),
    };
    let waiting = Waiting {
        pid: 1,
        since_ms: 1,
        next_ms: 2,
        tries: 3,
        reason: reason.clone(),
    };
    state.record_waiting("a-b-c", waiting);
    let refused = Refused {
        times: 1,
        until_ms: 2,
        reason,
    };
    state.record_refused("0a", refused);
    state
}

#[test]
fn what_is_recorded_is_read_by_the_next_process() {
    let (_parent, run) = run();
    assert_eq!(run.read().unwrap(), State::default());
    let set = |state: &mut State| -> Result<(), StateError> {
        *state = full();
        Ok(())
    };
    run.update(set).unwrap();
    let state = RunDirectory::at(run.path().to_owned())
        .unwrap()
        .read()
        .unwrap();
    assert_eq!(state, full());
    assert!(state.extend("pcr11", "trustee:leave-initrd").is_some());
    assert!(state.extend("pcr11", "other").is_none());
    assert!(state.extend("pcr15", "trustee:leave-initrd").is_none());
}

#[test]
fn nobody_else_reads_it() {
    let (_parent, run) = run();
    run.update(|_| Ok::<_, StateError>(())).unwrap();
    assert_eq!(mode(run.path()), 0o700);
    assert_eq!(mode(&run.path().join("state.json")), 0o600);
    assert_eq!(mode(&run.path().join("lock")), 0o600);
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let (_parent, run) = run();
    run.update(|state| {
        state.record_extend(extend("first"));
        Ok::<_, StateError>(())
    })
    .unwrap();
    let before = run.read().unwrap();
    let failed: Result<(), StateError> = run.update(|state| {
        state.phase = Phase::Sealed;
        Err(StateError::Impossible {
            why: "no".to_owned(),
        })
    });
    assert!(failed.is_err());
    assert_eq!(run.read().unwrap(), before);
}

#[test]
fn what_an_interrupted_process_left_is_in_nobodys_way() {
    let (_parent, run) = run();
    let half = run.path().join("state.json.new");
    std::fs::write(&half, "{\"ver").unwrap();
    assert_eq!(run.read().unwrap(), State::default());
    run.update(|state| {
        state.phase = Phase::Sealed;
        Ok::<_, StateError>(())
    })
    .unwrap();
    assert_eq!(run.read().unwrap().phase, Phase::Sealed);
    assert!(!half.exists());
}

/// Sixteen threads, as many extends: each sees what the one before it has written.
#[test]
fn processes_wait_for_each_other() {
    let (_parent, run) = run();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let run = &run;
            scope.spawn(move || {
                run.update(|state| {
                    state.record_extend(extend(&format!("event {number}")));
                    Ok::<_, StateError>(())
                })
                .unwrap();
            });
        }
    });
    assert_eq!(run.read().unwrap().extends.len(), 16);
}

#[test]
fn only_one_process_attests() {
    let (_parent, run) = run();
    let held = run.attestation_lock().unwrap();
    let file = std::fs::File::open(run.path().join("attestation.lock")).unwrap();
    assert!(file.try_lock().is_err());
    drop(held);
    file.try_lock().unwrap();
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("open")).unwrap();
    std::fs::set_permissions(at("open"), PermissionsExt::from_mode(0o750)).unwrap();
    std::fs::create_dir(at("target")).unwrap();
    std::fs::set_permissions(at("target"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink(at("target"), at("link")).unwrap();
    for (name, why) in [
        ("file", "something else"),
        ("open", "mode is 0750"),
        ("link", "something else"),
    ] {
        let error = RunDirectory::at(at(name)).unwrap_err();
        assert!(matches!(error, StateError::NotOurs { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    if rustix::process::geteuid().is_root() {
        std::fs::create_dir(at("theirs")).unwrap();
        std::fs::set_permissions(at("theirs"), PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(at("theirs"), Some(1), Some(1)).unwrap();
        let error = RunDirectory::at(at("theirs")).unwrap_err();
        assert!(error.to_string().contains("user 1"), "{error}");
    }
    let missing = RunDirectory::at(at("no/such")).unwrap_err();
    assert!(
        matches!(missing, StateError::Io { action: "make", .. }),
        "{missing}"
    );
}

/// One thing wrong at a time in a state that is good otherwise.
#[test]
fn anything_else_is_an_error_and_never_an_empty_state() {
    let good = || serde_json::to_value(full()).unwrap();
    assert_eq!(parse(good().to_string().as_bytes()).unwrap(), full());
    let changed = |pointer: &str, value: Value| {
        let mut state = good();
        *state.pointer_mut(pointer).unwrap() = value;
        state.to_string()
    };
    let added = |pointer: &str, name: &str| {
        let mut state = good();
        let object = state.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        object.insert(name.to_owned(), json!(1));
        state.to_string()
    };
    let removed = |name: &str| {
        let mut state = good();
        state.as_object_mut().unwrap().remove(name).unwrap();
        state.to_string()
    };
    let named = |name: &str| changed("/volumes", json!({ name: volume() }));
    let long = "x".repeat(1025);
    let many_volumes: serde_json::Map<String, Value> = (0..65)
        .map(|n| (format!("v{n}"), json!(volume())))
        .collect();
    let many_answers: serde_json::Map<String, Value> = (0..65)
        .map(|n| (format!("v{n}"), json!(answered())))
        .collect();
    for (what, text) in [
        ("empty", String::new()),
        ("cut", good().to_string()[..40].to_owned()),
        ("followed by more", format!("{}{{}}", good())),
        ("an array", "[]".to_owned()),
        ("zeros", "\0".repeat(100)),
        ("too large", format!("{}{}", good(), " ".repeat(512 * 1024))),
        ("another version", changed("/version", json!(2))),
        ("no version", removed("version")),
        ("no phase", removed("phase")),
        ("no volumes", removed("volumes")),
        ("no extends", removed("extends")),
        ("another phase", changed("/phase", json!("opened"))),
        ("more at the top", added("", "more")),
        ("more in a volume", added("/volumes/root", "more")),
        ("more in an extend", added("/extends/0", "more")),
        ("more in the attestation", added("/attested", "more")),
        ("more in the waiting", added("/waiting/a-b-c", "more")),
        ("more in the refused", added("/refused/0a", "more")),
        ("more in a reason", added("/refused/0a/reason", "more")),
        ("no name", named("")),
        ("a path as name", named("a/b")),
        ("dots as name", named("..")),
        ("an escape as name", named("a\u{1b}[2J")),
        ("a long name", named(&"n".repeat(128))),
        ("65 volumes", changed("/volumes", json!(many_volumes))),
        ("UUID", changed("/volumes/root/luks_uuid", json!("root"))),
        (
            "UUID in capitals",
            changed(
                "/volumes/root/luks_uuid",
                json!("0A1B2C3D-0000-4000-8000-0123456789AB"),
            ),
        ),
        (
            "UUID without hyphens",
            changed("/volumes/root/luks_uuid", json!("0".repeat(36))),
        ),
        ("number", changed("/volumes/root/number", json!("253"))),
        (
            "source number",
            changed("/volumes/root/source_number", json!("a:b")),
        ),
        (
            "minor number",
            changed("/volumes/root/source_number", json!("254:b")),
        ),
        (
            "major number",
            changed("/volumes/root/source_number", json!("-1:4")),
        ),
        ("source", changed("/volumes/root/source", json!("vda4"))),
        (
            "long source",
            changed("/volumes/root/source", json!(format!("/{long}"))),
        ),
        ("no id", changed("/volumes/root/vk_id", json!(""))),
        ("long id", changed("/volumes/root/vk_id", json!(long))),
        ("no path", changed("/volumes/root/path", json!(""))),
        ("path", changed("/volumes/root/path", json!("../a/b"))),
        (
            "an answer's path",
            changed("/answered/data/path", json!("root")),
        ),
        ("more in an answer", added("/answered/data", "more")),
        ("more in its table", added("/answered/data/table", "more")),
        (
            "a cipher of another's",
            changed("/answered/data/table/cipher", json!("cipher_null-ecb")),
        ),
        (
            "an integrity of another's",
            changed("/answered/data/table/integrity", json!("crc32c")),
        ),
        (
            "an answer's UUID",
            changed("/answered/data/table/luks_uuid", json!("data")),
        ),
        (
            "an answer's source",
            changed("/answered/data/source_number", json!("254")),
        ),
        ("65 answers", changed("/answered", json!(many_answers))),
        ("register", changed("/extends/0/register", json!("pcr 11"))),
        ("event", changed("/extends/0/event", json!("a\nb"))),
        ("before", changed("/extends/0/before", json!("00"))),
        ("after", changed("/extends/0/after", json!("g".repeat(64)))),
        (
            "257 extends",
            changed("/extends", json!(vec![extend("e"); 257])),
        ),
        ("server", changed("/attested/server", json!(long))),
        ("verdict", changed("/attested/verdict", json!("a\u{7}"))),
        ("PCR 11", changed("/attested/pcr11", json!("0"))),
        (
            "reason",
            changed("/waiting/a-b-c/reason/why", json!("a\u{1b}b")),
        ),
        (
            "advice",
            changed("/refused/0a/reason/advice", json!("a\u{1b}b")),
        ),
        ("time", changed("/waiting/a-b-c/since_ms", json!(-1))),
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{what}: {text}");
    }
}

#[test]
fn a_damaged_state_is_neither_read_nor_replaced() {
    let (_parent, run) = run();
    let file = run.path().join("state.json");
    std::fs::write(&file, "{}").unwrap();
    let error = run.read().unwrap_err();
    assert!(error.to_string().contains("is not the state of a boot"));
    assert_eq!(error.owner(), Owner::Machine);
    let updated: Result<(), StateError> = run.update(|_| Ok(()));
    assert!(matches!(updated, Err(StateError::Damaged { .. })));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "{}");
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let (_parent, run) = run();
    let error = run
        .update(|state| {
            state.record_volume("a/b", volume());
            Ok::<_, StateError>(())
        })
        .unwrap_err();
    assert!(matches!(error, StateError::Impossible { .. }), "{error}");
    assert_eq!(run.read().unwrap(), State::default());
}

/// Reasons quote servers, and servers write what they like.
#[test]
fn foreign_words_become_one_short_line() {
    let (_parent, run) = run();
    run.update(|state| {
        *state = full();
        let waiting = state.waiting.get_mut("a-b-c").unwrap();
        waiting.reason.why = format!("no\n\u{1b}[2J{}", "ä".repeat(1000));
        Ok::<_, StateError>(())
    })
    .unwrap();
    let why = run.read().unwrap().waiting["a-b-c"].reason.why.clone();
    assert!(why.starts_with("no  [2Jää"), "{why}");
    assert!(why.len() <= 1024);
}

/// A flood of paths costs no memory and no error: the oldest is forgotten.
#[test]
fn what_waits_has_room_for_a_machines_volumes() {
    let (_parent, run) = run();
    run.update(|state| {
        let full = full();
        for number in 0..200_u64 {
            let mut waiting = full.waiting["a-b-c"].clone();
            waiting.since_ms = number;
            state.record_waiting(&number.to_string(), waiting);
            let mut refused = full.refused["0a"].clone();
            refused.until_ms = number;
            state.record_refused(&number.to_string(), refused);
        }
        Ok::<_, StateError>(())
    })
    .unwrap();
    let state = run.read().unwrap();
    assert_eq!((state.waiting.len(), state.refused.len()), (64, 64));
    assert!(state.waiting.contains_key("199") && !state.waiting.contains_key("0"));
    assert!(state.refused.contains_key("199") && !state.refused.contains_key("0"));
}
