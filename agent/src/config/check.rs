// SPDX-License-Identifier: Apache-2.0

//! Values of `agent.toml` that belong to other rooms, checked here so that the key can be named.

use super::{ConfigError, Problem};
use kbs_protocol::resource::PathTemplate;

pub(super) fn path(template: &str) -> Result<PathTemplate, ConfigError> {
    template.parse().map_err(|error: kbs_protocol::Error| {
        let cure = "write repository/type/tag with letters, digits, \"-\", \"_\" and \".\", for example \
                    default/{node}/root, or default/{node}/{volume} for nodes with several volumes";
        ConfigError::value("kbs.path", template, Problem::new(error.to_string(), cure))
    })
}

pub(super) fn tcti(tcti: &str) -> Result<(), ConfigError> {
    let problem = match tcti.split_once(':') {
        Some(("device", path)) if path.starts_with('/') => return Ok(()),
        Some(("swtpm" | "mssim", _)) if cfg!(feature = "software-tpm") => return Ok(()),
        Some(("swtpm" | "mssim", _)) => Problem::new(
            "this build knows hardware TPMs only",
            "use device:/dev/tpmrm0, or a build with the feature software-tpm",
        ),
        _ => Problem::new(
            "expected \"device:\" and an absolute path, or \"swtpm:\" and its parameters",
            "use device:/dev/tpmrm0",
        ),
    };
    Err(ConfigError::value("tpm.tcti", tcti, problem))
}

/// TCG "Registry of Reserved TPM 2.0 Handles and Localities": what the owner may persist. The upper half of
/// the persistent handles is the platform's.
pub(super) fn handle(handle: u32) -> Result<(), ConfigError> {
    if (0x8100_0000..=0x817f_ffff).contains(&handle) {
        return Ok(());
    }
    let problem = Problem::new(
        "expected one of the owner's persistent handles, 0x81000000 to 0x817fffff",
        "use 0x81010002, or leave the key out",
    );
    Err(ConfigError::value(
        "tpm.ak_handle",
        &format!("{handle:#010x}"),
        problem,
    ))
}
