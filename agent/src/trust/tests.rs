// SPDX-License-Identifier: Apache-2.0

use super::{Hint, Origin, TrustError, admit, configured};
use crate::config::{Config, sha256_hex};
use kbs_protocol::resource::Volume;
use kbs_protocol::{Blame as _, NodeId, Owner, Persistence};

const INIT_DATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\na = \"b\"\n";

fn node() -> NodeId {
    NodeId::from_spki_der(b"node")
}

fn path() -> String {
    format!("default/{}/root", node())
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem()
}

/// Two servers, one authority, init-data.
fn config(mode: &str, pem: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("init.toml"), INIT_DATA).unwrap();
    let file = directory.path().join("agent.toml");
    let text = format!(
        "[kbs]\nservers = [\"https://kbs1.example:8080\", \"https://kbs2.example\"]\n\
         ca_pem = '''\n{pem}'''\ninit_data_file = \"init.toml\"\n[trust]\nmode = {mode:?}\n"
    );
    std::fs::write(&file, text).unwrap();
    Config::load(&file).unwrap()
}

fn refuse(config: &Config, hint: &Hint<'_>) -> TrustError {
    let error = admit(config, &node(), hint).unwrap_err();
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Data, Persistence::Permanent)
    );
    assert!(!error.advice().is_empty());
    error
}

#[test]
fn a_token_that_agrees_gives_the_configured_target() {
    let pem = authority();
    let config = config("measured", &pem);
    let expected = configured(&config, &node(), &Volume::default()).unwrap();
    assert_eq!(expected.path.to_string(), path());
    assert_eq!(expected.servers.len(), 2);
    assert_eq!(expected.init_data.as_ref().unwrap().body, INIT_DATA);
    let digest = &config.kbs.anchors.ca_digests()[0];
    for (servers, init_data) in [
        (vec![("https://kbs1.example:8080", "")], None),
        (
            vec![
                ("https://KBS2.example:443/", ""),
                ("https://kbs1.example:8080", ""),
            ],
            Some(INIT_DATA),
        ),
        (vec![("https://kbs1.example:8080", pem.as_str())], None),
        (vec![("https://kbs1.example:8080", digest.as_str())], None),
    ] {
        let hint = Hint {
            servers,
            path: &path(),
            init_data,
            ..Hint::default()
        };
        assert_eq!(
            admit(&config, &node(), &hint).unwrap(),
            expected,
            "{hint:?}"
        );
    }
}

/// What the host would write: its own server, its own authority, another path, other init-data.
#[test]
fn a_token_that_says_more_than_the_configuration_is_refused() {
    let config = config("measured", &authority());
    let path = path();
    let good = Hint {
        servers: vec![("https://kbs1.example:8080", "")],
        path: &path,
        ..Hint::default()
    };
    assert!(admit(&config, &node(), &good).is_ok());

    for server in [
        "https://evil.example",
        "http://kbs1.example:8080",
        "https://kbs1.example",
        "https://kbs1.example:8081",
        "https://kbs1.example:8080/prefix",
        "https://kbs1.example:8080@evil.example",
        "",
        "nonsense",
    ] {
        let servers = vec![("https://kbs1.example:8080", ""), (server, "")];
        let error = refuse(
            &config,
            &Hint {
                servers,
                ..good.clone()
            },
        );
        assert!(
            matches!(&error, TrustError::Server { named, .. } if named == server),
            "{error}"
        );
        assert!(
            error.to_string().contains("https://kbs2.example"),
            "names what is allowed: {error}"
        );
    }
    let foreign = authority();
    let both = format!("{}{foreign}", config_pem(&config));
    for certificate in [foreign.as_str(), &both, &sha256_hex(b"x"), "garbage"] {
        let servers = vec![("https://kbs1.example:8080", certificate)];
        let error = refuse(
            &config,
            &Hint {
                servers,
                ..good.clone()
            },
        );
        assert!(matches!(error, TrustError::Certificate { .. }), "{error}");
    }
    let other = format!("default/{}/root", NodeId::from_spki_der(b"other"));
    for named in [other.as_str(), "default/x/root", "", "../../etc"] {
        let error = refuse(
            &config,
            &Hint {
                path: named,
                ..good.clone()
            },
        );
        assert!(
            matches!(&error, TrustError::Path { expected, .. } if *expected == path),
            "{error}"
        );
    }
    let more = format!("{INIT_DATA}\n");
    let error = refuse(
        &config,
        &Hint {
            init_data: Some(&more),
            ..good.clone()
        },
    );
    assert!(
        error.to_string().contains(&sha256_hex(more.as_bytes())),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&sha256_hex(INIT_DATA.as_bytes())),
        "{error}"
    );
}

/// One agent.toml, several volumes: the token says which of this node's, and never another node's.
#[test]
fn a_token_names_one_of_the_volumes_that_the_template_gives() {
    let text = "[kbs]\nservers = [\"http://kbs.example\"]\ninsecure_http = true\n\
                path = \"default/{node}/{volume}\"\n";
    let config = Config::parse(text).unwrap();
    fn hint(path: &str) -> Hint<'_> {
        Hint {
            path,
            ..Hint::default()
        }
    }
    for volume in ["root", "data"] {
        let path = format!("default/{}/{volume}", node());
        let target = admit(&config, &node(), &hint(&path)).unwrap();
        assert_eq!(target.path.as_str(), path);
        let asked = configured(&config, &node(), &volume.parse().unwrap());
        assert_eq!(asked.unwrap(), target);
    }
    let other = format!("default/{}/data", NodeId::from_spki_der(b"other"));
    for named in [other.as_str(), "default/x/data", "default/data", "{volume}"] {
        let error = refuse(&config, &hint(named));
        let own = format!("default/{}/{{volume}}", node());
        assert!(
            matches!(&error, TrustError::Path { expected, .. } if *expected == own),
            "{error}"
        );
    }
}

#[test]
fn a_template_for_one_volume_is_not_asked_for_another() {
    let config = config("measured", &authority());
    let error = configured(&config, &node(), &"data".parse().unwrap()).unwrap_err();
    assert_eq!(error.owner(), Owner::Configuration);
    assert!(error.to_string().contains("volume data"), "{error}");
    assert!(error.advice().contains("{volume}"), "{}", error.advice());
}

#[test]
fn an_administrators_own_words_are_not_called_tampering() {
    let config = config("measured", &authority());
    let path = path();
    let good = Hint {
        origin: Origin::PinConfig,
        path: &path,
        ..Hint::default()
    };
    assert!(admit(&config, &node(), &good).is_ok());
    let servers = |url| vec![(url, "garbage")];
    for bad in [
        Hint {
            servers: servers("https://evil.example"),
            ..good.clone()
        },
        Hint {
            servers: servers("https://kbs2.example"),
            ..good.clone()
        },
        Hint {
            path: "default/x/root",
            ..good.clone()
        },
        Hint {
            init_data: Some("x"),
            ..good.clone()
        },
    ] {
        let error = admit(&config, &node(), &bad).unwrap_err();
        assert!(
            error.to_string().starts_with("the pin configuration "),
            "{error}"
        );
        assert_eq!(error.owner(), Owner::Configuration, "{error}");
        assert!(!error.advice().contains("tampered"), "{error}");
    }
}

#[test]
fn what_a_stranger_wrote_is_quoted_and_cut() {
    let config = config("measured", &authority());
    let long = format!("https://evil\u{1b}[2J{}", "x".repeat(10_000));
    let servers = vec![(long.as_str(), "")];
    let text = refuse(
        &config,
        &Hint {
            servers,
            path: &path(),
            ..Hint::default()
        },
    )
    .to_string();
    assert!(text.len() < 400 && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn header_mode_follows_the_token_but_never_trusts_without_a_name() {
    let pem = authority();
    let config = config("header", &pem);
    let foreign = authority();
    let servers = vec![
        ("https://old.example:8080", foreign.as_str()),
        ("https://other.example", ""),
    ];
    let hint = Hint {
        servers,
        path: "default/some-uuid/root",
        init_data: Some(INIT_DATA),
        ..Hint::default()
    };
    let target = admit(&config, &node(), &hint).unwrap();
    assert_eq!(target.servers[0].url.as_str(), "https://old.example:8080");
    assert_ne!(target.servers[0].anchors, config.kbs.anchors);
    assert_eq!(target.servers[0].anchors.ca().len(), 1);
    assert_eq!(target.servers[1].anchors, config.kbs.anchors);
    assert_eq!(target.path.as_str(), "default/some-uuid/root");
    assert_eq!(target.init_data.unwrap().body, INIT_DATA);

    let many = vec![("https://old.example", ""); 17];
    for bad in [
        Hint {
            servers: vec![],
            ..hint.clone()
        },
        Hint {
            servers: many,
            ..hint.clone()
        },
        Hint {
            servers: vec![("http://old.example", "")],
            ..hint.clone()
        },
        Hint {
            servers: vec![("https://old.example", "garbage")],
            ..hint.clone()
        },
        Hint {
            path: "two/segments",
            ..hint.clone()
        },
        Hint {
            init_data: Some("not = [toml"),
            ..hint.clone()
        },
    ] {
        let error = refuse(&config, &bad);
        assert!(matches!(error, TrustError::Unusable { .. }), "{error}");
    }
}

#[test]
fn header_mode_without_any_anchor_is_refused() {
    let text = "[kbs]\nservers = [\"http://127.0.0.1:1\"]\ninsecure_http = true\n[trust]\nmode = \"header\"\n";
    let config = Config::parse(text).unwrap();
    let hint = |url| Hint {
        servers: vec![(url, "")],
        path: "a/b/c",
        ..Hint::default()
    };
    assert!(admit(&config, &node(), &hint("http://kbs.example")).is_ok());
    let error = refuse(&config, &hint("https://kbs.example"));
    assert!(
        error.to_string().contains("nothing says how to recognise"),
        "{error}"
    );
}

fn config_pem(config: &Config) -> String {
    use base64::Engine as _;
    let der = base64::engine::general_purpose::STANDARD.encode(&config.kbs.anchors.ca()[0]);
    format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
}
