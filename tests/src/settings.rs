// SPDX-License-Identifier: Apache-2.0
//! The agent's configuration, as a test wants it. Written as text, so that the shipped parser reads it.

use std::fmt::Write as _;
use std::path::PathBuf;

/// What goes into `agent.toml`. Public members: a test changes what it is about and writes it again.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `kbs.servers`.
    pub servers: Vec<String>,
    /// `kbs.ca_file`.
    pub ca_file: Option<PathBuf>,
    /// `kbs.path`.
    pub path: String,
    /// `kbs.insecure_http`.
    pub insecure_http: bool,
    /// `enroll.registrar`.
    pub registrar: Option<String>,
    /// Further lines of `[enroll]`.
    pub enroll: String,
    /// `ignition.path`.
    pub ignition: Option<String>,
    /// The lines of `[evidence]`; empty for a TPM alone.
    pub evidence: String,
    /// `kbs.init_data_file`.
    pub init_data_file: Option<PathBuf>,
    /// `tpm.tcti`.
    pub tcti: String,
    /// `trust.mode`.
    pub mode: &'static str,
    /// `secret.binding`.
    pub binding: &'static str,
    /// Lines of `[unlock]`.
    pub unlock: &'static str,
    /// `timeouts.connect`.
    pub connect: &'static str,
    /// `timeouts.request`.
    pub request: &'static str,
    /// `timeouts.fetch`, `decrypt`, `encrypt` and `config`: none of them may wait for ever in a test.
    pub overall: &'static str,
}

impl Settings {
    /// One server, trusted through `ca_file`, and generous deadlines.
    pub fn new(server: &str, ca_file: PathBuf, tcti: String) -> Self {
        Self {
            servers: vec![server.to_owned()],
            ca_file: Some(ca_file),
            path: "default/{node}/root".to_owned(),
            insecure_http: false,
            registrar: None,
            enroll: String::new(),
            ignition: None,
            evidence: String::new(),
            init_data_file: None,
            tcti,
            mode: "measured",
            binding: "required",
            unlock: "",
            connect: "5s",
            request: "20s",
            overall: "60s",
        }
    }

    /// The text of the file.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("[kbs]\n");
        let ca_file = self
            .ca_file
            .iter()
            .map(|file| format!("ca_file = {file:?}\n"));
        let _ = write!(
            text,
            "servers = {:?}\n{}path = {:?}\ninsecure_http = {}\n\n\
             [timeouts]\nconnect = {:?}\nrequest = {:?}\n",
            self.servers,
            ca_file.collect::<String>(),
            self.path,
            self.insecure_http,
            self.connect,
            self.request,
        );
        if let Some(file) = &self.init_data_file {
            text = text.replacen("[kbs]\n", &format!("[kbs]\ninit_data_file = {file:?}\n"), 1);
        }
        for name in ["fetch", "decrypt", "encrypt", "config"] {
            let _ = writeln!(text, "{name} = {:?}", self.overall);
        }
        if let Some(registrar) = &self.registrar {
            let enroll = &self.enroll;
            let _ = write!(text, "\n[enroll]\nregistrar = {registrar:?}\n{enroll}");
        }
        if let Some(path) = &self.ignition {
            let _ = write!(text, "\n[ignition]\npath = {path:?}\n");
        }
        if !self.evidence.is_empty() {
            let _ = write!(text, "\n[evidence]\n{}\n", self.evidence);
        }
        if !self.unlock.is_empty() {
            let _ = write!(text, "\n[unlock]\n{}", self.unlock);
        }
        let _ = write!(
            text,
            "\n[tpm]\ntcti = {:?}\n\n[trust]\nmode = {:?}\n\n[secret]\nbinding = {:?}\n",
            self.tcti, self.mode, self.binding,
        );
        text
    }
}
