// SPDX-License-Identifier: Apache-2.0

//! `[evidence]`: what this machine proves itself with. There is no detection: a host that could choose would
//! choose the weakest.

use super::raw;
use super::{ConfigError, Problem};
use kbs_protocol::Tee;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as NameError, StrDeserializer};
use std::path::PathBuf;

/// The sources of evidence, and where their interfaces are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The one that the KBS is told about first; its report covers the others.
    pub primary: Tee,
    /// Those that accompany it: a TPM, or nothing.
    pub additional: Vec<Tee>,
    /// The directory that `/sys`, `/dev` and `/run` are looked up in: `/` on a node.
    pub root: PathBuf,
    /// Azure's metadata service: `http://169.254.169.254` on a node.
    pub metadata: String,
}

impl Sources {
    pub(super) fn parse(raw: raw::Evidence) -> Result<Self, ConfigError> {
        let primary = source("evidence.primary", &raw.primary)?;
        let mut additional = Vec::new();
        for name in &raw.additional {
            let tee = source("evidence.additional", name)?;
            if tee != Tee::Tpm || primary == Tee::Tpm || !additional.is_empty() {
                return Err(ConfigError::value(
                    "evidence.additional",
                    name,
                    Problem::new(
                        "only one TPM can accompany another source",
                        "write additional = [\"tpm\"] beside snp, tdx, az-snp-vtpm or az-tdx-vtpm, else leave it out",
                    ),
                ));
            }
            additional.push(tee);
        }
        software_only("evidence.root", raw.root.as_ref().map(|p| p.display()))?;
        software_only("evidence.metadata", raw.metadata.as_ref())?;
        Ok(Self {
            primary,
            additional,
            metadata: raw.metadata.unwrap_or_else(|| METADATA.to_owned()),
            root: raw.root.unwrap_or_else(|| PathBuf::from("/")),
        })
    }

    /// All of them, the primary one first.
    pub fn all(&self) -> impl Iterator<Item = Tee> {
        std::iter::once(self.primary).chain(self.additional.iter().copied())
    }

    /// Whether a TPM's registers are in what this machine shows: its own, or a paravisor's.
    pub fn shows_pcrs(&self) -> bool {
        self.all()
            .any(|tee| matches!(tee, Tee::Tpm | Tee::AzSnpVtpm | Tee::AzTdxVtpm))
    }

    /// Whether anything in what this machine shows can move at the end of its initramfs.
    pub(super) fn can_be_sealed(&self) -> bool {
        self.shows_pcrs() || self.all().any(|tee| tee == Tee::Tdx)
    }

    /// Whether a TPM of ours is among them.
    pub fn has_tpm(&self) -> bool {
        self.all().any(|tee| tee == Tee::Tpm)
    }
}

fn source(key: &'static str, name: &str) -> Result<Tee, ConfigError> {
    let parsed: StrDeserializer<'_, NameError> = name.into_deserializer();
    match Tee::deserialize(parsed) {
        // It proves nothing; a node that could be told to use it would be told so.
        Ok(Tee::Sample) | Err(_) => Err(ConfigError::value(
            key,
            name,
            Problem::new(
                "it is no source of evidence",
                "write tpm, snp, tdx, az-snp-vtpm or az-tdx-vtpm",
            ),
        )),
        Ok(tee) => Ok(tee),
    }
}

/// Stand-ins for hardware are for tests: the program that a node runs does not know them.
fn software_only(key: &'static str, value: Option<impl ToString>) -> Result<(), ConfigError> {
    match value {
        Some(value) if !cfg!(feature = "software-tpm") => Err(ConfigError::value(
            key,
            &value.to_string(),
            Problem::new(
                "this build knows no stand-ins for hardware",
                "remove the key: it exists for tests",
            ),
        )),
        _ => Ok(()),
    }
}

/// Link-local, the same for every virtual machine.
const METADATA: &str = "http://169.254.169.254";

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use kbs_protocol::{Blame as _, Owner, Tee};

    fn parse(evidence: &str) -> Result<super::Sources, String> {
        let text = format!(
            "[kbs]\nservers = [\"http://kbs\"]\ninsecure_http = true\n[evidence]\n{evidence}"
        );
        match Config::parse(&text) {
            Ok(config) => Ok(config.evidence),
            Err(error) => {
                assert_eq!(error.owner(), Owner::Configuration);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn a_tpm_alone_unless_another_source_is_named() {
        let sources = parse("").unwrap();
        assert_eq!((sources.primary, sources.additional.len()), (Tee::Tpm, 0));
        assert_eq!(sources.root, std::path::Path::new("/"));
        for (name, tee) in [
            ("snp", Tee::Snp),
            ("tdx", Tee::Tdx),
            ("az-snp-vtpm", Tee::AzSnpVtpm),
            ("az-tdx-vtpm", Tee::AzTdxVtpm),
        ] {
            // SEV-SNP alone has nothing to seal.
            let seal = "[boot]\nconfidential = false\nseal = \"none\"";
            let alone = parse(&format!("primary = {name:?}\n{seal}")).unwrap();
            assert_eq!(alone.all().collect::<Vec<_>>(), [tee]);
            assert!(!alone.has_tpm());
            assert_eq!(alone.shows_pcrs(), name.starts_with("az-"));
            match parse(&format!("primary = {name:?}")) {
                Err(why) => assert!(tee == Tee::Snp && why.contains("no register"), "{why}"),
                Ok(_) => assert_ne!(tee, Tee::Snp),
            }
            let both = parse(&format!("primary = {name:?}\nadditional = [\"tpm\"]")).unwrap();
            assert_eq!(both.all().collect::<Vec<_>>(), [tee, Tee::Tpm]);
            assert!(both.has_tpm());
        }
    }

    #[test]
    fn nothing_else_is_a_source() {
        for bad in [
            "primary = \"sample\"",
            "primary = \"SNP\"",
            "primary = \"\"",
            "primary = \"auto\"",
            "primary = \"snp\"\nadditional = [\"tdx\"]",
            "primary = \"snp\"\nadditional = [\"sample\"]",
            "primary = \"snp\"\nadditional = [\"tpm\", \"tpm\"]",
            "additional = [\"tpm\"]",
        ] {
            let why = parse(bad).unwrap_err();
            assert!(why.contains("evidence."), "{bad}: {why}");
        }
        assert!(parse("fallback = \"tpm\"").is_err());
    }
}
