// SPDX-License-Identifier: Apache-2.0

//! The older upstream pin must be able to read our headers: they deserialise into its shapes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clevis_pin::encrypt;
use serde::Deserialize;

use crate::common::{FixedSource, config};

/// The members, types and missing defaults of the older pin's structures.
#[derive(Deserialize)]
struct UpstreamHeader {
    pin: String,
    servers: Vec<UpstreamServer>,
    path: String,
    initdata: Option<String>,
}

#[derive(Deserialize)]
struct UpstreamServer {
    url: String,
    cert: String,
}

#[derive(Deserialize)]
struct TopLevel {
    alg: String,
    enc: String,
    clevis: UpstreamHeader,
}

#[test]
fn our_header_has_the_older_pins_shape() {
    let toml = "version = \"0.1.0\"\n";
    let ours = config(&serde_json::json!({ "initdata": toml }).to_string());
    for (config, initdata) in [(config("{}"), None), (ours, Some(toml))] {
        let header: TopLevel = serde_json::from_slice(&protected(&config)).unwrap();
        assert_eq!(
            (header.alg.as_str(), header.enc.as_str()),
            ("dir", "A256GCM")
        );
        assert_eq!(header.clevis.pin, "trustee");
        assert_eq!(
            header.clevis.path,
            "default/00000000-0000-8000-8000-000000000001/root"
        );
        assert_eq!(header.clevis.initdata.as_deref(), initdata);
        let [server] = header.clevis.servers.as_slice() else {
            panic!("one server")
        };
        assert_eq!(
            (server.url.as_str(), server.cert.as_str()),
            ("https://kbs.example:8080", "")
        );
    }
}

/// The exact text, so that a change of the format is a change of this test.
#[test]
fn our_header_to_the_byte() {
    let config = config(r#"{"num_retries":"infinity","attestation_key":{"a":1}}"#);
    assert_eq!(
        String::from_utf8(protected(&config)).unwrap(),
        concat!(
            r#"{"alg":"dir","enc":"A256GCM","clevis":{"pin":"trustee","#,
            r#""servers":[{"url":"https://kbs.example:8080","cert":""}],"#,
            r#""path":"default/00000000-0000-8000-8000-000000000001/root","#,
            r#""num_retries":"infinity","attestation_key":{"a":1},"#,
            r#""trustee":{"v":1,"cfg":"cfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcfcf","#,
            r#""kid":"D_cpqTtpmTvkRDHcYnebbg"}}}"#
        )
    );
}

fn protected(config: &clevis_pin::Config) -> Vec<u8> {
    let token = encrypt(config, b"x", &mut FixedSource::new()).unwrap();
    URL_SAFE_NO_PAD
        .decode(token.split('.').next().unwrap())
        .unwrap()
}
