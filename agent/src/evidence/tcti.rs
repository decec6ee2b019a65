// SPDX-License-Identifier: Apache-2.0

//! Reaching the TPM: reads the `tpm.tcti` setting and opens one ESYS context; called by the TPM attester
//! and by the status report.
//!
//! TCTI is the TSS's word for the way to a TPM (TCG TSS 2.0 TPM Command Transmission Interface). The
//! library for it is loaded by name at run time (`libtss2-tcti-device.so.0`), so an initramfs must carry
//! that file although nothing links it.
//!
//! tpm2-tss writes its own lines to standard error before we say what they mean. This program forbids
//! unsafe code and therefore cannot set `TSS2_LOG` for itself: units that start it set
//! `Environment=TSS2_LOG=all+none`, since every failure comes back as a [`TpmError`] anyway.

use super::tpm_error::TpmError;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::str::FromStr;
use tss_esapi::Context;
use tss_esapi::tcti_ldr::{DeviceConfig, TctiInfo, TctiNameConf};

/// The TPM behind the kernel's resource manager.
pub const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";

/// Opens the TPM that `tcti` names; sends it no command yet.
///
/// `device:/absolute/path` always works. Other TCTIs, such as `swtpm:host=127.0.0.1,port=2321`, are for
/// tests and laboratories and need the cargo feature `software-tpm`.
///
/// # Errors
/// [`TpmError::BadTcti`] for a string we cannot use, otherwise why the TPM cannot be reached.
pub(super) fn open(tcti: &str) -> Result<Context, TpmError> {
    let parsed = parse(tcti)?;
    if let Some(path) = device_path(tcti).filter(|path| bypasses_resource_manager(path)) {
        log::warn!(
            "{path} bypasses the kernel's resource manager: only one program can use it at a time; \
             prefer {DEFAULT_TCTI}"
        );
    }
    // Asked first: the library would print three lines of its own before we could say it in one.
    if let Some(path) = device_path(tcti)
        && let Err(source) = OpenOptions::new().read(true).write(true).open(path)
    {
        return Err(device_error(path, source));
    }
    Context::new(parsed.clone()).map_err(|_| why_unreachable(tcti, parsed))
}

/// Reads a TCTI string.
fn parse(tcti: &str) -> Result<TctiNameConf, TpmError> {
    let bad = |why: &str| TpmError::BadTcti {
        text: tcti.to_owned(),
        why: why.to_owned(),
    };
    let Some(path) = device_path(tcti) else {
        return parse_other(tcti);
    };
    // An empty path would silently become /dev/tpm0.
    if !Path::new(path).is_absolute() {
        return Err(bad("a device is named by its absolute path"));
    }
    let config = DeviceConfig::from_str(path).map_err(|_| bad("the path is not usable"))?;
    Ok(TctiNameConf::Device(config))
}

fn device_path(tcti: &str) -> Option<&str> {
    if tcti == "device" {
        return Some("");
    }
    tcti.strip_prefix("device:")
}

/// Only the part behind the name is left to the binding: each of its regular expressions costs a
/// millisecond to compile.
#[cfg(feature = "software-tpm")]
fn parse_other(tcti: &str) -> Result<TctiNameConf, TpmError> {
    use tss_esapi::tcti_ldr::NetworkTPMConfig;
    let (name, address) = tcti.split_once(':').unwrap_or((tcti, ""));
    let address = || NetworkTPMConfig::from_str(address).ok();
    match name {
        "swtpm" => address().map(TctiNameConf::Swtpm),
        "mssim" => address().map(TctiNameConf::Mssim),
        _ => None,
    }
    .ok_or_else(|| TpmError::BadTcti {
        text: tcti.to_owned(),
        why: "expected device:/path, or swtpm: or mssim: with host= and port=".to_owned(),
    })
}

/// The TSS binding parses these strings with a regular-expression engine of about 1 MiB; not calling it
/// keeps the engine out of an initramfs.
#[cfg(not(feature = "software-tpm"))]
fn parse_other(tcti: &str) -> Result<TctiNameConf, TpmError> {
    Err(TpmError::BadTcti {
        text: tcti.to_owned(),
        why: "this build knows only device:/path, because it was made without the cargo feature \
              software-tpm"
            .to_owned(),
    })
}

/// `/dev/tpm0` and its like, but not `/dev/tpmrm0`.
fn bypasses_resource_manager(path: &str) -> bool {
    path.strip_prefix("/dev/tpm")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// tpm2-tss reports every failure to connect with one code, so this looks for itself.
fn why_unreachable(tcti: &str, parsed: TctiNameConf) -> TpmError {
    if TctiInfo::get_info(parsed).is_err() {
        return TpmError::NoLibrary {
            tcti: tcti.to_owned(),
        };
    }
    match device_path(tcti) {
        Some(path) => TpmError::Mute {
            path: path.to_owned(),
        },
        None => TpmError::NoAnswer {
            tcti: tcti.to_owned(),
        },
    }
}

/// Why the kernel does not let us at the TPM.
fn device_error(path: &str, source: io::Error) -> TpmError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound => TpmError::NoDevice { path },
        ErrorKind::PermissionDenied => TpmError::Forbidden { path },
        ErrorKind::ResourceBusy => TpmError::Occupied { path },
        _ => TpmError::Device { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::{bypasses_resource_manager, device_error, open, parse};
    use crate::evidence::TpmError;
    use kbs_protocol::{Blame, Owner, Persistence};
    use tss_esapi::tcti_ldr::TctiNameConf;

    #[test]
    fn devices_are_named_by_absolute_path() {
        assert!(matches!(
            parse("device:/dev/tpmrm0"),
            Ok(TctiNameConf::Device(_))
        ));
        for text in ["device", "device:", "device:tpmrm0", "device:./tpm"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, TpmError::BadTcti { .. }), "{text}: {error}");
            assert_eq!(error.owner(), Owner::Configuration);
        }
    }

    #[test]
    #[cfg(feature = "software-tpm")]
    fn software_tpms_are_read_by_the_library() {
        let swtpm = parse("swtpm:host=127.0.0.1,port=2321");
        assert!(matches!(swtpm, Ok(TctiNameConf::Swtpm(_))));
        for text in [
            "",
            "tpm",
            "/dev/tpmrm0",
            "swtpm:port=many",
            "devices:/dev/tpmrm0",
        ] {
            assert!(
                matches!(parse(text), Err(TpmError::BadTcti { .. })),
                "{text}"
            );
        }
    }

    #[test]
    #[cfg(not(feature = "software-tpm"))]
    fn software_tpms_are_refused_by_a_small_build() {
        let error = parse("swtpm:host=127.0.0.1,port=2321").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("without the cargo feature software-tpm"),
            "{error}"
        );
        assert_eq!(error.owner(), Owner::Configuration);
    }

    #[test]
    fn raw_devices_are_told_from_managed_ones() {
        assert!(bypasses_resource_manager("/dev/tpm0"));
        assert!(bypasses_resource_manager("/dev/tpm12"));
        assert!(!bypasses_resource_manager("/dev/tpmrm0"));
        assert!(!bypasses_resource_manager("/dev/tpm"));
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = open("device:/nonexistent/tpmrm0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no TPM device /nonexistent/tpmrm0"
        );
        assert_eq!(error.owner(), Owner::Machine);
        assert!(
            error.advice().contains("dev-tpmrm0.device"),
            "{}",
            error.advice()
        );
    }

    #[test]
    fn the_kernels_answers_have_sentences() {
        let busy = Persistence::Temporary;
        let stop = Persistence::Permanent;
        for (errno, sentence, persistence) in [
            (2, "there is no TPM device /dev/tpm0", stop),
            (13, "this user may not open the TPM device /dev/tpm0", stop),
            (16, "another program holds the TPM device /dev/tpm0", busy),
            (5, "the TPM device /dev/tpm0 does not open: ", stop),
        ] {
            let error = device_error("/dev/tpm0", std::io::Error::from_raw_os_error(errno));
            assert!(error.to_string().starts_with(sentence), "{error}");
            assert_eq!(
                (error.owner(), error.persistence()),
                (Owner::Machine, persistence)
            );
        }
    }
}
