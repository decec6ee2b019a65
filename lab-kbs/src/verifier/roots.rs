// SPDX-License-Identifier: Apache-2.0

//! What hardware evidence is believed on: AMD's and Intel's own roots, those that a laboratory adds, and Intel's
//! collateral from files. Read once, when the server starts.

use crate::options::Options;
use anyhow::{Context as _, bail, ensure};
use dcap_qvl::QuoteCollateralV3;
use sev::Generation;
use sev::certs::snp::{Certificate, builtin};
use std::mem::discriminant;
use std::path::Path;

/// Everything that can vouch for hardware.
pub(crate) struct Roots {
    amd: Vec<Amd>,
    /// DER.
    pub(crate) intel: Option<Vec<u8>>,
    pub(crate) collateral: Vec<QuoteCollateralV3>,
    /// `vcek/<chip id>/vcek.der` for reports that come without certificates.
    pub(crate) vcek_store: std::path::PathBuf,
}

/// One root key of AMD's kind and the key below it.
#[derive(Clone)]
pub(crate) struct Amd {
    /// `None`: a laboratory's own, for every generation.
    pub(crate) generation: Option<Generation>,
    pub(crate) ark: Certificate,
    pub(crate) ask: Certificate,
}

impl Roots {
    pub(crate) fn load(options: &Options) -> anyhow::Result<Self> {
        let built_in = [
            (
                Generation::Milan,
                builtin::milan::ark()?,
                builtin::milan::ask()?,
            ),
            (
                Generation::Genoa,
                builtin::genoa::ark()?,
                builtin::genoa::ask()?,
            ),
            (
                Generation::Turin,
                builtin::turin::ark()?,
                builtin::turin::ask()?,
            ),
        ];
        let mut amd: Vec<Amd> = built_in
            .into_iter()
            .map(|(generation, ark, ask)| Amd {
                generation: Some(generation),
                ark,
                ask,
            })
            .collect();
        for path in &options.amd_roots {
            let found = certificates(path)?;
            let [ark, ask] = found.as_slice() else {
                bail!(
                    "{} holds {} certificates, expected ARK and ASK",
                    path.display(),
                    found.len()
                );
            };
            amd.push(Amd {
                generation: None,
                ark: Certificate::from_der(ark)?,
                ask: Certificate::from_der(ask)?,
            });
        }
        let intel = options.intel_root.as_deref().map(|path| {
            let first = certificates(path)?.into_iter().next();
            first.with_context(|| format!("{} holds no certificate", path.display()))
        });
        let collateral = options.tdx_collateral.iter().map(|path| {
            let text =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is no collateral for quotes", path.display()))
        });
        Ok(Self {
            amd,
            intel: intel.transpose()?,
            collateral: collateral.collect::<anyhow::Result<_>>()?,
            vcek_store: options.dir.join("kds-store"),
        })
    }

    /// The roots that may stand above a chip of this generation; of any, if the report does not say.
    pub(crate) fn amd(&self, generation: Option<Generation>) -> impl Iterator<Item = &Amd> {
        self.amd
            .iter()
            .filter(move |root| match (generation, root.generation) {
                (Some(wanted), Some(offered)) => discriminant(&wanted) == discriminant(&offered),
                _ => true,
            })
    }
}

/// Certificates of a PEM file, DER.
fn certificates(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let pem =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found = pem_certificates(&pem);
    ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}

fn pem_certificates(pem: &str) -> Vec<Vec<u8>> {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(|der| der.ok().map(|der| der.to_vec()))
        .collect()
}
