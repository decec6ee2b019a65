// SPDX-License-Identifier: Apache-2.0

//! `[enroll]`: where this node proves once that its key lives in a TPM, and how it knows the registrar. Whether that is
//! told of each boot.

use super::{Anchors, ConfigError, Problem, ServerUrl, anchors, raw, read_anchors};
use std::path::{Path, PathBuf};

/// The registrar.
#[derive(Debug, Clone)]
pub struct Enroll {
    /// Its address.
    pub registrar: ServerUrl,
    /// What it must prove, if it is an `https` server: its own anchors, or those of the KBS.
    pub anchors: Anchors,
    /// Tell it of each boot which volumes were opened.
    pub record_boots: bool,
    source: Source,
}

/// Where the anchors come from.
#[derive(Debug, Clone)]
enum Source {
    /// This file, and what the text says besides.
    File(PathBuf),
    /// The text.
    Inline,
    /// Those of the KBS.
    Kbs,
}

impl Enroll {
    /// Checks the table. `of_kbs` are the anchors of the KBS as far as its text tells, if it has any.
    pub(super) fn parse(raw: raw::Enroll, of_kbs: Option<&Anchors>) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::value("enroll.registrar", &raw.registrar, problem);
        let registrar = ServerUrl::parse(&raw.registrar, raw.insecure_http).map_err(wrong)?;
        let own = Anchors::parse(&anchors::ENROLL, raw.ca_pem.as_deref(), &raw.spki_sha256)?;
        let (anchors, source) = match (raw.ca_file, of_kbs) {
            (Some(file), _) => (own, Source::File(file)),
            (None, _) if !own.is_empty() => (own, Source::Inline),
            (None, Some(of_kbs)) => (of_kbs.clone(), Source::Kbs),
            (None, None) if !registrar.is_https() => (own, Source::Inline),
            (None, None) => {
                return Err(wrong(Problem::new(
                    "an https registrar, and nothing says how to recognise it",
                    "set enroll.ca_file, enroll.ca_pem or enroll.spki_sha256",
                )));
            }
        };
        Ok(Self {
            registrar,
            anchors,
            record_boots: raw.record_boots,
            source,
        })
    }

    /// Reads the file that the text names, or takes what was read for the KBS.
    pub(super) fn read_files(
        &mut self,
        directory: &Path,
        of_kbs: &Anchors,
    ) -> Result<(), ConfigError> {
        match &self.source {
            Source::File(file) => {
                read_anchors(&anchors::ENROLL, &directory.join(file), &mut self.anchors)
            }
            Source::Kbs => {
                self.anchors.clone_from(of_kbs);
                Ok(())
            }
            Source::Inline => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};

    const ONE: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    const TWO: &str = "0000000000000000000000000000000000000000000000000000000000000002";

    fn parse(kbs: &str, enroll: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("[kbs]\n{kbs}\n[enroll]\n{enroll}"))
    }

    fn pinned() -> String {
        format!("servers = [\"https://kbs.example\"]\nspki_sha256 = [\"{ONE}\"]")
    }

    #[test]
    fn the_registrar_is_known_by_its_own_anchors_or_those_of_the_kbs() {
        let enroll = |text: &str| parse(&pinned(), text).unwrap().enroll.unwrap();
        let inherited = enroll("registrar = \"https://registrar.example:8443\"");
        assert_eq!(
            inherited.registrar.as_str(),
            "https://registrar.example:8443"
        );
        assert_eq!(inherited.anchors.spki_digests(), [ONE]);
        assert!(!inherited.record_boots, "only who asks for it");
        assert!(enroll("registrar = \"https://r.example\"\nrecord_boots = true").record_boots);
        let own = enroll(&format!(
            "registrar = \"https://r.example\"\nspki_sha256 = [\"{TWO}\"]"
        ));
        assert_eq!(own.anchors.spki_digests(), [TWO], "not both");
        let file = enroll("registrar = \"https://r.example\"\nca_file = \"x.pem\"");
        assert!(
            file.anchors.is_empty(),
            "until the file is read it vouches for nobody"
        );
    }

    #[test]
    fn files_are_read_for_the_table_that_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let ca = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let certificate = params.self_signed(&key).unwrap();
            std::fs::write(dir.path().join(name), certificate.pem()).unwrap();
            crate::config::sha256_hex(certificate.der())
        };
        let (kbs, registrar) = (ca("kbs.pem"), ca("registrar.pem"));
        let load = |more: &str| {
            let file = dir.path().join("agent.toml");
            let text = format!(
                "[kbs]\nservers = [\"https://kbs.example\"]\nca_file = \"kbs.pem\"\n\
                 [enroll]\nregistrar = \"https://r.example\"\n{more}"
            );
            std::fs::write(&file, text).unwrap();
            Config::load(&file)
                .unwrap()
                .enroll
                .unwrap()
                .anchors
                .ca_digests()
        };
        assert_eq!(load("ca_file = \"registrar.pem\""), [registrar]);
        assert_eq!(load(""), [kbs]);
    }

    #[test]
    fn mistakes_are_named() {
        let plain = "servers = [\"http://kbs.example\"]\ninsecure_http = true";
        for (kbs, enroll, reason) in [
            (&pinned()[..], "", "registrar"),
            (
                &pinned(),
                "registrar = \"http://r.example\"",
                "insecure_http",
            ),
            (
                &pinned(),
                "registrar = \"https://r.example\"\nca = 1",
                "unknown field",
            ),
            (
                &pinned(),
                "registrar = \"https://r.example\"\nspki_sha256 = [\"x\"]",
                "enroll.spki_sha256",
            ),
            (
                &pinned(),
                "registrar = \"https://r.example\"\nca_pem = \"x\"",
                "enroll.ca_pem",
            ),
            (
                plain,
                "registrar = \"https://r.example\"",
                "how to recognise it",
            ),
        ] {
            let error = parse(kbs, enroll).err().unwrap();
            let shown = format!("{error} {:?}", kbs_protocol::Blame::advice(&error));
            assert!(shown.contains(reason), "{enroll}: {shown}");
        }
        let laboratory = parse(
            plain,
            "registrar = \"http://r.example\"\ninsecure_http = true",
        );
        assert!(laboratory.is_ok());
    }
}
