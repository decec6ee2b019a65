// SPDX-License-Identifier: Apache-2.0
//! The directory that an administrator keeps: one cluster, its approved boots, its machines. Written as files
//! and applied with `sheepfold-operator provision`, as a person would.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::administrator::boot_tuple;
use crate::lab::Lab;
use crate::paths;
use crate::process::Run;

/// A directory of objects for one laboratory KBS.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// Writes the object `Cluster`: nodes are named by their TPM's key.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn new(dir: &Path, lab: &Lab) -> Result<Self> {
        Self::with(dir, lab, "")
    }

    /// As [`Cluster::new`], with further lines of its spec.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn with(dir: &Path, lab: &Lab, more: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let cluster = Self {
            dir: dir.to_path_buf(),
        };
        let spec = format!(
            "  kbs:\n    url: {}\n    laboratory: {:?}\n  evidence: [tpm]\n  identity: ak\n{more}",
            lab.url(),
            lab.dir()
        );
        cluster.write("TrustedExecutionCluster", "demo", &spec)?;
        Ok(cluster)
    }

    /// Approves a boot: these PCRs, together.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn approve(&self, name: &str, pcrs: &[[u8; 32]]) -> Result<()> {
        self.approve_tuple(name, &boot_tuple(pcrs))
    }

    /// Approves a boot: a JSON object of `pcr00` … `pcr23`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn approve_tuple(&self, name: &str, tuple: &serde_json::Value) -> Result<()> {
        // JSON is YAML.
        let spec = format!("  referenceValues:\n    bootTuples: [{tuple}]\n");
        self.write("ApprovedImage", name, &spec)
    }

    /// Takes an approval back.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn disapprove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.dir.join(format!("{name}.yaml")))?)
    }

    /// Adds a machine from the registrar's record of its TPM.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, name: &str, record: &Path) -> Result<()> {
        self.add_with(name, record, "")
    }

    /// As [`Cluster::add`], with further lines of its spec.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_with(&self, name: &str, record: &Path, more: &str) -> Result<()> {
        let spec = format!("  state: approved\n  recordFile: {record:?}\n{more}");
        self.write("Machine", name, &spec)
    }

    /// Adds a machine by its attestation key (base64 of the SubjectPublicKeyInfo), with further lines of its spec.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_key(&self, name: &str, ak_public: &str, more: &str) -> Result<()> {
        let spec = format!("  state: approved\n  attestationKey: {ak_public}\n{more}");
        self.write("Machine", name, &spec)
    }

    /// A file beside the objects, for those that name it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.join(name), text)?)
    }

    /// As [`Cluster::add`], with what the machine has said of its volumes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_with_records(&self, name: &str, record: &Path, volumes: &[&Path]) -> Result<()> {
        self.add_with(name, record, &format!("  volumeRecords: {volumes:?}\n"))
    }

    /// Takes a machine away; none of this name is fine.
    pub fn remove(&self, name: &str) {
        drop(fs::remove_file(self.dir.join(format!("{name}.yaml"))));
    }

    /// `sheepfold-operator provision` on this directory.
    ///
    /// # Errors
    /// The program is not built.
    pub fn provision(&self, args: &[&str]) -> Result<Run> {
        Ok(Run::new(paths::binary("sheepfold-operator")?)
            .arg("provision")
            .arg(&self.dir)
            .args(args))
    }

    /// `sheepfold-operator` with a command that takes this directory last, such as `status`.
    ///
    /// # Errors
    /// The program is not built.
    pub fn command(&self, args: &[&str]) -> Result<Run> {
        let run = Run::new(paths::binary("sheepfold-operator")?).args(args);
        let run = if args == ["status"] {
            run
        } else {
            run.arg("--dir")
        };
        Ok(run.arg(&self.dir))
    }

    /// `sheepfold-operator revoke` of a machine of this directory.
    ///
    /// # Errors
    /// The program is not built.
    pub fn revoke(&self, name: &str) -> Result<Run> {
        Ok(Run::new(paths::binary("sheepfold-operator")?)
            .args(["revoke", name, "--dir"])
            .arg(&self.dir))
    }

    fn write(&self, kind: &str, name: &str, spec: &str) -> Result<()> {
        let text = format!(
            "apiVersion: trusted-execution-clusters.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n\
             spec:\n{spec}"
        );
        fs::write(self.dir.join(format!("{name}.yaml")), text)?;
        Ok(())
    }
}
