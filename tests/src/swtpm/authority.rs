// SPDX-License-Identifier: Apache-2.0

//! A maker of software TPMs: a certificate authority of its own (root and intermediate, as `swtpm_localca`
//! makes them), and TPMs that leave the factory with certificates for their endorsement keys.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::paths;
use crate::process::Run;

/// The maker. Its keys go when it is dropped; its TPMs keep their certificates.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// The first program that is needed and not installed.
    pub fn missing() -> Option<&'static str> {
        ["swtpm_setup", "swtpm_localca", "certtool"]
            .into_iter()
            .find(|name| paths::tool(name).is_none())
    }

    /// A new maker. Its certificates exist once it has made a TPM.
    ///
    /// # Errors
    /// Its directory cannot be written.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("swtpm-ca-").tempdir()?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let localca = paths::tool("swtpm_localca").context("swtpm_localca is not installed")?;
        fs::write(
            dir.path().join("localca.conf"),
            format!(
                "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
                dir.path().display(),
                path("signkey.pem"),
                path("issuercert.pem"),
                path("certserial"),
            ),
        )?;
        fs::write(
            dir.path().join("localca.options"),
            "--platform-manufacturer Sheepfold\n--platform-version 1\n--platform-model test\n",
        )?;
        fs::write(
            dir.path().join("setup.conf"),
            format!(
                "create_certs_tool = {}\ncreate_certs_tool_config = {}\n\
                 create_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
                localca.display(),
                path("localca.conf"),
                path("localca.options"),
            ),
        )?;
        Ok(Self { dir })
    }

    /// The root certificate, PEM.
    ///
    /// # Errors
    /// No TPM was made yet.
    pub fn root(&self) -> Result<String> {
        self.read("swtpm-localca-rootca-cert.pem")
    }

    /// The certificate between the root and those of the TPMs, PEM.
    ///
    /// # Errors
    /// No TPM was made yet.
    pub fn intermediate(&self) -> Result<String> {
        self.read("issuercert.pem")
    }

    /// Makes a TPM: its state goes into `state`.
    pub(super) fn manufacture(&self, state: &Path) -> Result<()> {
        let setup = paths::tool("swtpm_setup").context("swtpm_setup is not installed")?;
        Run::new(setup)
            .args(["--tpm2", "--overwrite", "--lock-nvram", "--create-ek-cert"])
            .args(["--create-platform-cert", "--tpm-state"])
            .arg(state)
            .arg("--config")
            .arg(self.dir.path().join("setup.conf"))
            .success()
            .map(drop)
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.dir.path().join(name))
            .with_context(|| format!("{name}: the maker has made no TPM yet"))
    }
}
