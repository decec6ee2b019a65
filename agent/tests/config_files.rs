// SPDX-License-Identifier: Apache-2.0

//! Every file in `config/` is a case: its name begins with the verdict, its first line says what the error
//! must contain. Adding a case needs no code.

use kbs_protocol::{Blame as _, Owner, Persistence};
use std::path::Path;
use trustee_agent::config::Config;

#[test]
fn each_file_gets_its_verdict() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut refused = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = text
            .lines()
            .next()
            .unwrap()
            .strip_prefix("# expect: ")
            .unwrap();
        match (name.split_once('-').unwrap().0, Config::parse(&text)) {
            ("accept", Ok(_)) => assert_eq!(expected, "", "{name}: nothing to expect"),
            ("accept", Err(error)) => panic!("{name} is refused: {error}"),
            ("refuse", Ok(_)) => panic!("{name} is accepted"),
            ("refuse", Err(error)) => {
                refused += 1;
                let message = error.to_string();
                assert!(
                    !expected.is_empty() && message.contains(expected),
                    "{name}: {message}"
                );
                assert!(
                    !message.contains('\n') && !error.advice().is_empty(),
                    "{name}: {message}"
                );
                assert_eq!(error.owner(), Owner::Configuration);
                assert_eq!(error.persistence(), Persistence::Permanent);
            }
            (verdict, _) => panic!("{name}: {verdict:?} is no verdict"),
        }
    }
    assert!(
        refused >= 54,
        "only {refused} files were refused: are they all there?"
    );
}
