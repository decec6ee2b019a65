// SPDX-License-Identifier: Apache-2.0

//! Logs made by hand, each with one thing wrong.

use super::{EventLog, EventType};
use crate::bank::Bank;

/// A log in the SHA-1 form whose first entry holds a Specification ID Version Event for these algorithms.
fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut id = b"Spec ID Event03\0".to_vec();
    id.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    id.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (algorithm, size) in algorithms {
        id.extend(algorithm.to_le_bytes());
        id.extend(size.to_le_bytes());
    }
    id.push(0);
    sha1_event(0, 3, &id)
}

fn sha1_event(pcr: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [pcr.to_le_bytes(), kind.to_le_bytes()].concat();
    bytes.extend([0; 20]);
    bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes.extend(data);
    bytes
}

fn agile_event(pcr: u32, digests: &[(u16, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut bytes = [pcr.to_le_bytes(), 0x0d_u32.to_le_bytes()].concat();
    bytes.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
    for (algorithm, digest) in digests {
        bytes.extend(algorithm.to_le_bytes());
        bytes.extend(digest);
    }
    bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes.extend(data);
    bytes
}

fn parse_after(header: &[u8], rest: &[u8]) -> Result<EventLog, String> {
    EventLog::parse(&[header, rest].concat()).map_err(|e| e.to_string())
}

#[test]
fn an_agile_log_and_its_unused_space() {
    let header = header(&[(0x0b, 32), (0x1234, 7)]);
    let digest = Bank::Sha256.hash(b"data");
    let event = agile_event(
        11,
        &[(0x0b, digest.as_bytes().to_vec()), (0x1234, vec![1; 7])],
        b"data",
    );
    for unused in [vec![], vec![0; 100], vec![0xff; 100]] {
        let log = parse_after(&header, &[event.clone(), unused].concat()).unwrap();
        assert_eq!(log.events.len(), 2);
        assert_eq!(log.banks(), [Bank::Sha256]);
        let [(1, event)] = log.extends().collect::<Vec<_>>()[..] else {
            panic!("the first entry extends nothing");
        };
        assert_eq!((event.pcr, event.kind), (11, EventType::IPL));
        assert!(event.covers_data(Bank::Sha256) && !event.covers_data(Bank::Sha384));
    }
}

#[test]
fn a_log_in_the_sha1_form() {
    let log =
        EventLog::parse(&[sha1_event(0, 8, b"1.0"), sha1_event(4, 4, &[0; 4])].concat()).unwrap();
    assert_eq!(log.banks(), [Bank::Sha1]);
    assert_eq!(log.extends().count(), 2);
    assert_eq!(log.events[1].kind.to_string(), "EV_SEPARATOR");
}

#[test]
fn each_structure_is_checked() {
    let good = header(&[(0x0b, 32)]);
    let digest = vec![(0x0b_u16, vec![9; 32])];
    let event = agile_event(4, &digest, b"x");
    assert!(parse_after(&good, &event).is_ok());

    let says = |result: Result<EventLog, String>, text: &str| {
        let error = result.unwrap_err();
        assert!(error.contains(text), "{error} does not say {text:?}");
    };
    says(parse_after(&header(&[]), &[]), "no algorithm");
    says(
        parse_after(&header(&[(0x0b, 20)]), &[]),
        "a digest size of 20 for algorithm 0x000b",
    );
    says(
        parse_after(&header(&[(0x99, 65)]), &[]),
        "a digest size of 65 for algorithm 0x0099",
    );
    says(
        parse_after(&header(&[(0x99, 0)]), &[]),
        "a digest size of 0 for algorithm 0x0099",
    );
    says(
        parse_after(&header(&[(0x0b, 32), (0x0b, 32)]), &[]),
        "algorithm 0x000b twice",
    );
    says(
        parse_after(&header(&[(0x99, 9); 17]), &[]),
        "a length of 17, at most 16",
    );
    says(
        parse_after(&good, &agile_event(4, &[], b"x")),
        "0 digests, the log announces 1 algorithms",
    );
    says(
        parse_after(&good, &agile_event(4, &[(0x04, vec![0; 20])], b"x")),
        "algorithm 0x0004, which the log does not announce",
    );
    says(
        parse_after(&good, &agile_event(24, &digest, b"x")),
        "PCR 24, there are 24",
    );
    let two = header(&[(0x0b, 32), (0x0c, 48)]);
    says(
        parse_after(
            &two,
            &agile_event(4, &[digest[0].clone(), digest[0].clone()], b""),
        ),
        "two digests of algorithm 0x000b",
    );
    // The event's own size is its last field before the data.
    let mut long = event.clone();
    let size = long.len() - 5;
    long[size..size + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    says(
        parse_after(&good, &long),
        "TCG_PCR_EVENT2 is malformed at offset",
    );
    says(
        parse_after(&good, &event[..event.len() - 1]),
        "TCG_PCR_EVENT2 is cut short at offset",
    );
    // A length inside the Specification ID event that leads out of it.
    let mut vendor = good.clone();
    *vendor.last_mut().unwrap() = 1;
    says(
        parse_after(&vendor, &[]),
        "TCG_EfiSpecIDEvent is cut short at offset 33",
    );
    says(
        EventLog::parse(&vec![0; 16 * 1024 * 1024 + 1]).map_err(|e| e.to_string()),
        "at most 16777216",
    );
    let many = event.repeat(16_384);
    says(parse_after(&good, &many), "more than 16384 entries");
}
