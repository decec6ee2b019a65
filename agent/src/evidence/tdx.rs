// SPDX-License-Identifier: Apache-2.0

//! Evidence from Intel TDX: a quote over the handshake's digest, and the firmware's event log.
//!
//! Through configfs-tsm only. Older kernels have an ioctl that yields a report; to make a quote of it takes the
//! host's quoting service, which the kernel talks to by itself since 6.7.

use super::tee_error::TeeError;
use super::tsm::{DRIVER, Tsm};
use super::{Attester, EvidenceError, ccel};
use kbs_protocol::Tee;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::evidence::{TdQuote, TdxEvidence};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A TD that can be asked for quotes.
pub struct TdxAttester {
    tsm: Tsm,
    root: PathBuf,
    init_data: Option<InitDataToml>,
}

impl TdxAttester {
    /// Finds the kernel's interface. `root` is `/` on a node.
    ///
    /// # Errors
    /// [`TeeError::Missing`] with what is not there, [`TeeError::Provider`] on another kind of machine.
    pub fn open(root: &Path, init_data: Option<InitDataToml>) -> Result<Self, TeeError> {
        let tsm = Tsm::find(root).ok_or_else(|| missing(root))?;
        tsm.expect(Tee::Tdx, PROVIDER)?;
        Ok(Self {
            tsm,
            root: root.to_owned(),
            init_data,
        })
    }

    fn evidence(&self, digest: &RuntimeDigest) -> Result<TdxEvidence, TeeError> {
        let data = digest.report_data(Tee::Tdx);
        let quote = self.tsm.sign(Tee::Tdx, PROVIDER, &data)?.report;
        let read = TdQuote::parse(&quote)?;
        if read.report_data[..] != data {
            return Err(TeeError::Stale { tee: Tee::Tdx });
        }
        let expected = self.init_data.as_ref().map(InitDataToml::launch_register);
        if let Some(expected) = expected.filter(|expected| *expected != read.mr_config_id) {
            return Err(TeeError::InitData {
                register: "MRCONFIGID",
                found: hex::encode(read.mr_config_id),
                expected: hex::encode(expected),
            });
        }
        Ok(TdxEvidence {
            quote: b64::encode(quote),
            cc_eventlog: ccel::read(&self.root)?.map(b64::encode),
        })
    }
}

impl Attester for TdxAttester {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn detect(&mut self) -> Result<String, EvidenceError> {
        let log = match ccel::read(&self.root)? {
            Some(_) => "with",
            None => "without",
        };
        Ok(format!(
            "TDX quotes through configfs-tsm, {log} an event log (CCEL)"
        ))
    }

    fn node_key(&self) -> Option<&[u8]> {
        None
    }

    fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError> {
        Ok(json!(self.evidence(digest)?))
    }
}

fn missing(root: &Path) -> TeeError {
    let (why, cure) = match root.join("dev/tdx_guest").exists() {
        true => (
            "there is /dev/tdx_guest, but no /sys/kernel/config/tsm/report: this kernel makes reports and no quotes"
                .to_owned(),
            "use Linux 6.7 or newer with CONFIG_TDX_GUEST_DRIVER and CONFIG_TSM_REPORTS, and have configfs in the \
             initramfs",
        ),
        false => (
            format!(
                "there is no /sys/kernel/config/tsm/report: {}",
                Tsm::what_is_missing(root)
            ),
            DRIVER,
        ),
    };
    TeeError::Missing {
        tee: Tee::Tdx,
        why,
        cure,
    }
}

const PROVIDER: &str = "tdx_guest";
