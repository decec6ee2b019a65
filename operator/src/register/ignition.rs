// SPDX-License-Identifier: Apache-2.0

//! `GET /ignition`: the part of an Ignition config that encrypts a node's volumes on first boot and binds them,
//! for `ignition.config.merge` in whatever config the node has. The same for every node, and nothing in it is
//! secret: a node proves who it is later, to the KBS.

use super::config::ConfigError;
use crate::ignition::{Filesystem, Format, Fragment, Integrity, SpecVersion, Volume};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The path.
pub const PATH: &str = "/ignition";

/// `[ignition]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wishes {
    volumes: Vec<Wish>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    name: String,
    device: String,
    label: Option<String>,
    uuid: Option<String>,
    #[serde(default)]
    integrity: Integrity,
    #[serde(default)]
    discard: bool,
    filesystem: Option<FilesystemWish>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesystemWish {
    format: Word,
    label: Option<String>,
    path: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ext4,
    Xfs,
    Btrfs,
}

/// The text for each version of the specification that can say what is wished.
#[derive(Debug, Clone)]
pub struct Fragments(BTreeMap<SpecVersion, String>);

impl Fragments {
    /// Renders all of them: what cannot be rendered is known before a node asks.
    pub(super) fn new(wishes: Wishes) -> Result<Self, ConfigError> {
        let wrong =
            |error: crate::ignition::Error| ConfigError::value("ignition", error.to_string());
        let volumes = wishes.volumes.into_iter().map(volume);
        let volumes = volumes.collect::<Result<_, _>>().map_err(wrong)?;
        let fragment = Fragment { volumes };
        let rendered = SpecVersion::ALL.map(|spec| (spec, fragment.render(spec)));
        if let [.., (_, Err(error))] = &rendered {
            return Err(wrong(error.clone()));
        }
        let fine = rendered.into_iter();
        Ok(Self(
            fine.filter_map(|(spec, text)| Some((spec, text.ok()?)))
                .collect(),
        ))
    }

    /// For the Ignition that asks.
    pub fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let agent = headers.get(header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        let (status, kind, text) = match self.text_for(agent) {
            Ok(text) => (StatusCode::OK, MEDIA_TYPE, text.to_owned()),
            Err(why) => (StatusCode::NOT_ACCEPTABLE, "text/plain", why + "\n"),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// An Ignition says its version (`Ignition/2.26.0`), and reads older specifications than its newest. Whoever
    /// says nothing gets one that every Ignition since 2.15 reads.
    fn text_for(&self, agent: Option<&str>) -> Result<&str, String> {
        let said = agent.and_then(|agent| agent.strip_prefix("Ignition/"));
        let spec = match said.map(SpecVersion::for_ignition) {
            None => SpecVersion::V3_4,
            Some(known) => known.map_err(|error| error.to_string())?,
        };
        // 3.6.0-experimental is read by one Ignition alone.
        let readable =
            |of: &SpecVersion| *of == spec || (*of < spec && *of != SpecVersion::V3_6Experimental);
        let mut newest_first = self.0.iter().rev().filter(|(of, _)| readable(of));
        let newest = newest_first.next().map(|(_, text)| text.as_str());
        newest.ok_or_else(|| {
            format!("Ignition reads {spec}, which cannot say what [ignition] wishes")
        })
    }
}

fn volume(wish: Wish) -> Result<Volume, crate::ignition::Error> {
    let mut volume = Volume::new(wish.name.parse()?, wish.device.parse()?);
    volume.label = wish.label.map(|label| label.parse()).transpose()?;
    volume.uuid = wish.uuid.map(|uuid| uuid.parse()).transpose()?;
    volume.integrity = wish.integrity;
    volume.discard = wish.discard;
    if let Some(wish) = wish.filesystem {
        volume.filesystem = Some(Filesystem {
            format: match wish.format {
                Word::Ext4 => Format::Ext4,
                Word::Xfs => Format::Xfs,
                Word::Btrfs => Format::Btrfs,
            },
            label: wish.label.map(|label| label.parse()).transpose()?,
            path: wish.path.map(|path| path.parse()).transpose()?,
        });
    }
    Ok(volume)
}

/// As Ignition asks for it (`Accept`).
const MEDIA_TYPE: &str = "application/vnd.coreos.ignition+json";

#[cfg(test)]
mod tests {
    use super::{Fragments, Wishes};

    fn wished(more: &str) -> Result<Fragments, String> {
        let text = format!(
            "[[volumes]]\nname = \"root\"\ndevice = \"/dev/disk/by-partlabel/root\"\n{more}"
        );
        let wishes: Wishes = toml::from_str(&text).map_err(|error| error.to_string())?;
        Fragments::new(wishes).map_err(|error| error.to_string())
    }

    fn fragments(more: &str) -> Fragments {
        wished(more).unwrap()
    }

    #[test]
    fn each_ignition_gets_a_version_that_it_reads() {
        let fragments = fragments("");
        for (agent, version) in [
            (None, "3.4.0"),
            (Some("curl/8.0"), "3.4.0"),
            (Some("Ignition/2.14.0"), "3.3.0"),
            (Some("Ignition/v2.21.0"), "3.5.0"),
            (Some("Ignition/2.26.0"), "3.6.0"),
        ] {
            let text = fragments.text_for(agent).unwrap();
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(json["ignition"]["version"], version, "{agent:?}");
            assert_eq!(json["storage"]["luks"][0]["name"], "root");
        }
        let why = fragments.text_for(Some("Ignition/2.6.0")).unwrap_err();
        assert!(why.contains("2.7 or newer"), "{why}");
    }

    #[test]
    fn what_an_old_ignition_cannot_say_is_not_left_out() {
        let fragments = fragments("discard = true\n");
        assert!(fragments.text_for(Some("Ignition/2.18.0")).is_ok());
        let why = fragments.text_for(Some("Ignition/2.14.0")).unwrap_err();
        assert!(why.contains("3.3.0"), "{why}");
    }

    #[test]
    fn sectors_are_authenticated_where_it_is_wished() {
        for agent in ["Ignition/2.14.0", "Ignition/2.26.0"] {
            let made = |more: &str| {
                let text = fragments(more).text_for(Some(agent)).unwrap().to_owned();
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                json["storage"]["luks"][0]["options"].to_string()
            };
            assert!(!made("").contains("--integrity"));
            let made = made("integrity = \"aead\"\n");
            assert!(made.contains(r#""--integrity","aead""#), "{made}");
        }
        for (wrong, why) in [
            ("integrity = \"crc32c\"\n", "hmac-sha256"),
            (
                "integrity = \"aead\"\ndiscard = true\n",
                "discard does not go with integrity aead",
            ),
        ] {
            let said = wished(wrong).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
