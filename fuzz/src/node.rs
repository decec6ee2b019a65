// SPDX-License-Identifier: Apache-2.0

//! `agent.toml`: nobody but the image's maker writes it, and a mistake there must not open a door.

use kbs_protocol::NodeId;
use kbs_protocol::resource::Volume;
use trustee_agent::config::Config;

/// A configuration that is accepted asks servers that have to prove who they are, unless plain HTTP was asked for by
/// name, and for a path of the protocol.
pub fn agent_toml(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(config) = Config::parse(text) else {
        return false;
    };
    let kbs = &config.kbs;
    assert!((1..=16).contains(&kbs.servers.len()));
    for server in &kbs.servers {
        assert!(server.is_https() || kbs.insecure_http, "{server}");
        assert!(!server.as_str().contains(char::is_control));
        let named = !kbs.anchors.is_empty() || text.contains("ca_file");
        assert!(
            !server.is_https() || named,
            "{server} is trusted without a name"
        );
    }
    let node = NodeId::from_spki_der(b"fuzz");
    let path = kbs.path.expand(&node, &Volume::default()).unwrap();
    assert!(kbs.path.volume(&node, path.as_str()).is_some());
    assert!((0x8100_0000..=0x817f_ffff).contains(&config.tpm.ak_handle));
    assert!(!config.timeouts.request.is_zero());
    assert_eq!(
        Config::parse(text).unwrap().pinned_digest(),
        config.pinned_digest()
    );
    true
}
