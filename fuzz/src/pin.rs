// SPDX-License-Identifier: Apache-2.0

//! Tokens of the Clevis pin: written on a disk that belongs to the host.

use clevis_pin::header::MAX_HEADER;
use clevis_pin::{Cek, CompactJwe, Config, Header};
use std::sync::LazyLock;
use trustee_agent::config::Config as AgentConfig;
use trustee_agent::trust::{Hint, admit};

/// The key of all tokens among the vectors, `clevis-pin/tests/pin/common.rs`.
const KEY: &[u8; 32] = b"test-only-key-0123456789-abcdef!";

/// What opens was sealed: a token that opens with the test key is one of those that were made with it.
pub fn pin_token(bytes: &[u8]) -> bool {
    let Ok(token) = CompactJwe::parse(bytes) else {
        return false;
    };
    header_holds(token.header());
    if token.open(&Cek::new(KEY)).is_ok() {
        assert!(
            AUTHENTIC
                .iter()
                .any(|token| token == bytes.trim_ascii_end()),
            "a token opens that nobody sealed"
        );
        return true;
    }
    false
}

/// What a header says is bounded, and written again it says the same. What a node then follows is its own
/// configuration.
pub fn pin_header(bytes: &[u8]) -> bool {
    let Ok(header) = Header::parse(bytes) else {
        return false;
    };
    header_holds(&header);
    true
}

/// What the administrator gives `clevis encrypt trustee`.
pub fn pin_config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(config) = Config::parse(text) else {
        return false;
    };
    let request = config.request();
    assert_eq!(request.path, config.path.as_deref());
    for shown in config.unknown.iter().chain(&config.path) {
        assert!(
            !shown.contains(char::is_control),
            "{shown:?} reaches a console"
        );
    }
    true
}

fn header_holds(header: &Header) {
    for text in header
        .servers
        .iter()
        .map(|server| &server.url)
        .chain([&header.path])
    {
        assert!(
            !text.contains(char::is_control),
            "{text:?} reaches a console"
        );
    }
    // Without spaces, and with our own members in their order, it may only become shorter or be refused.
    if let Ok(json) = header.to_json() {
        assert!(json.len() <= MAX_HEADER);
        assert_eq!(Header::parse(json.as_bytes()).as_ref(), Ok(header));
    }
    let request = header.request();
    let hint = Hint {
        servers: header
            .servers
            .iter()
            .map(|s| (s.url.as_str(), s.cert.as_str()))
            .collect(),
        path: request.path.unwrap(),
        init_data: request.init_data,
        ..Hint::default()
    };
    let node = kbs_protocol::NodeId::from_spki_der(b"fuzz");
    if let Ok(target) = admit(&AGENT, &node, &hint) {
        assert_eq!(target.servers.len(), 1);
        assert_eq!(target.servers[0].url.as_str(), SERVER);
        assert_eq!(target.servers[0].anchors, AGENT.kbs.anchors);
        let own = format!("default/{node}/");
        assert!(target.path.as_str().starts_with(&own), "{}", target.path);
        assert_eq!(target.init_data, None);
    }
}

/// A node that trusts one server.
static AGENT: LazyLock<AgentConfig> = LazyLock::new(|| {
    let pin = "00".repeat(32);
    let text = format!(
        "[kbs]\nservers = [{SERVER:?}]\nspki_sha256 = [{pin:?}]\npath = \"default/{{node}}/{{volume}}\"\n"
    );
    AgentConfig::parse(&text).unwrap()
});

const SERVER: &str = "https://kbs.example:8080";

/// The vectors that open, without the white space after them.
static AUTHENTIC: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    crate::good_vectors("clevis-pin/tests/vectors/tokens")
        .map(|bytes| bytes.trim_ascii_end().to_vec())
        .collect()
});
