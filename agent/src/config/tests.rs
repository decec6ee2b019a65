// SPDX-License-Identifier: Apache-2.0

use super::{Binding, Config, ConfigError, Mode, Seal, TEXT_LIMIT};
use kbs_protocol::{Blame as _, NodeId, Owner, Persistence};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

const PIN: &str = "0000000000000000000000000000000000000000000000000000000000000001";

fn minimal(more: &str) -> String {
    format!("[kbs]\nservers = [\"https://kbs.example\"]\nspki_sha256 = [\"{PIN}\"]\n{more}")
}

#[test]
fn what_is_left_out_has_a_safe_default() {
    let config = Config::parse(&minimal("")).unwrap();
    assert_eq!(config.mode, Mode::Measured);
    assert_eq!(config.binding, Binding::IfPresent);
    assert!(!config.kbs.insecure_http);
    assert!(config.boot.confidential && config.boot.allow_arguments.is_empty());
    assert_eq!(config.boot.seal, Seal::Pcr11);
    assert_eq!(config.ignition, None);
    assert_eq!(config.tpm.tcti, "device:/dev/tpmrm0");
    assert_eq!(config.tpm.ak_handle, 0x8101_0002);
    let seconds = Duration::from_secs;
    let t = config.timeouts.clone();
    assert_eq!(
        (t.connect, t.request, t.hedge),
        (seconds(5), seconds(30), seconds(1))
    );
    assert_eq!(
        (t.fetch, t.decrypt, t.encrypt, t.config),
        (
            Some(seconds(60)),
            Some(seconds(90)),
            Some(seconds(600)),
            None
        )
    );
    let node = NodeId::from_spki_der(b"n");
    assert_eq!(
        config.kbs.path.of_node(&node),
        format!("default/{node}/root")
    );
}

/// The value is fixed: tokens on disks carry it.
#[test]
fn the_pinned_digest_covers_what_decides_trust_and_nothing_else() {
    let digest = |text: &str| Config::parse(text).unwrap().pinned_digest();
    let base = digest(&minimal(""));
    let canonical = format!(
        r#"{{"ca":[],"mode":"measured","path":"default/{{node}}/root","servers":["https://kbs.example"],"spki":["{PIN}"]}}"#
    );
    let expected: [u8; 32] = Sha256::digest(canonical).into();
    assert_eq!(base, expected);

    for same in [
        minimal("[timeouts]\nfetch = \"1s\""),
        minimal("[tpm]\nak_handle = 0x81010003"),
        minimal("").replace("https://kbs.example", "HTTPS://KBS.example:443/"),
    ] {
        assert_eq!(digest(&same), base, "{same}");
    }
    let ca = rcgen::generate_simple_self_signed(Vec::new())
        .unwrap()
        .cert
        .pem();
    for other in [
        minimal("path = \"a/b/c\""),
        minimal("[trust]\nmode = \"header\""),
        minimal("").replace("kbs.example", "other.example"),
        minimal("").replace("kbs.example\"", "kbs.example\", \"https://two.example\""),
        minimal("").replace("0001", "0002"),
        minimal(&format!("ca_pem = '''{ca}'''")),
    ] {
        assert_ne!(digest(&other), base, "{other}");
    }
    let order = |a: &str, b: &str| {
        digest(&format!(
            "[kbs]\nservers = [\"https://{a}\", \"https://{b}\"]\nspki_sha256 = [\"{PIN}\"]"
        ))
    };
    assert_eq!(
        order("a", "b"),
        order("b", "a"),
        "order is preference, not trust"
    );
}

#[test]
fn loading_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    let missing = Config::load(&file).unwrap_err();
    assert!(
        missing.to_string().contains(&file.display().to_string()),
        "{missing}"
    );
    assert_eq!(
        (missing.owner(), missing.persistence()),
        (Owner::Configuration, Persistence::Permanent)
    );

    let with_files = "[kbs]\nservers = [\"https://kbs.example\"]\nca_file = \"ca.pem\"\ninit_data_file = \"init.toml\"\n";
    std::fs::write(&file, with_files).unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    assert!(
        error.contains("agent.toml: kbs.ca_file") && error.contains("ca.pem"),
        "{error}"
    );

    std::fs::write(directory.path().join("ca.pem"), "nothing").unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    assert!(error.contains("no certificate inside"), "{error}");

    let ca = rcgen::generate_simple_self_signed(Vec::new())
        .unwrap()
        .cert
        .pem();
    std::fs::write(directory.path().join("ca.pem"), ca).unwrap();
    std::fs::write(directory.path().join("init.toml"), "version = 1").unwrap();
    let error = Config::load(&file).unwrap_err();
    assert!(error.to_string().contains("kbs.init_data_file"), "{error}");
    assert!(error.advice().contains("[data]"), "{}", error.advice());

    let init = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
    std::fs::write(directory.path().join("init.toml"), init).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.kbs.init_data.as_deref(), Some(init));
    assert_eq!(config.kbs.anchors.ca().len(), 1);
}

#[test]
fn sizes_are_limited() {
    let big = minimal(&format!("# {}", "x".repeat(TEXT_LIMIT)));
    assert!(matches!(
        Config::parse(&big),
        Err(ConfigError::TooLarge { .. })
    ));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, &big).unwrap();
    assert!(matches!(
        Config::load(&file),
        Err(ConfigError::TooLarge { .. })
    ));
}
