// SPDX-License-Identifier: Apache-2.0

//! TPM response codes in words; [`TpmError`](super::TpmError) is made of them.
//!
//! The codes are those of TPM 2.0 Library Part 2, section 6.6, and of the TSS layers above the TPM (TCG
//! TSS 2.0 Overview and Common Structures, "Response codes").

use std::fmt;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

/// What was being done when the TPM refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// TPM2_ReadPublic of the AK.
    ReadKey,
    /// TPM2_CreatePrimary under the endorsement hierarchy.
    CreateKey,
    /// TPM2_EvictControl by the owner.
    KeepKey,
    /// TPM2_Quote.
    Quote,
    /// TPM2_PCR_Read.
    ReadPcrs,
    /// TPM2_GetCapability.
    Capability,
    /// TPM2_NV_ReadPublic and TPM2_NV_Read of a certificate.
    ReadCertificate,
    /// TPM2_CreatePrimary of the endorsement key.
    CreateEk,
    /// TPM2_PolicySecret with the endorsement hierarchy.
    AuthorizeEk,
    /// TPM2_ActivateCredential.
    Activate,
    /// TPM2_PCR_Extend.
    Extend,
    /// TPM2_NV_Read of a paravisor's report.
    ReadIndex,
    /// TPM2_NV_DefineSpace and TPM2_NV_Write of what a paravisor's report is to carry.
    WriteIndex,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadKey => "reading the attestation key",
            Self::CreateKey => "creating the attestation key",
            Self::KeepKey => "storing the attestation key",
            Self::Quote => "quoting the PCRs",
            Self::ReadPcrs => "reading the PCRs",
            Self::Capability => "asking the TPM for its properties",
            Self::ReadCertificate => "reading the certificate of the endorsement key",
            Self::CreateEk => "making the endorsement key",
            Self::AuthorizeEk => "getting leave to use the endorsement key",
            Self::Activate => "opening the registrar's credential",
            Self::Extend => "extending a PCR",
            Self::ReadIndex => "reading the paravisor's report",
            Self::WriteIndex => "telling the paravisor what its report is to carry",
        })
    }
}

/// A response code in words, as far as the words change what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// No handle of that number.
    NoSuchHandle,
    /// The handle is taken (another process was faster).
    HandleTaken,
    /// Dictionary-attack lockout.
    Lockout,
    /// Retry, yielded, self-test, NV rate limit.
    Busy,
    /// No room for another transient object or session.
    OutOfMemory,
    /// No room in non-volatile memory.
    NvFull,
    /// An authorization value is set that we do not have.
    AuthorizationSet,
    /// The hierarchy is disabled.
    HierarchyDisabled,
    /// No TPM2_Startup yet.
    NotStarted,
    /// Failure mode, or a reset is needed.
    Broken,
    /// The TPM lacks a command, algorithm or key size.
    NotSupported,
    /// A credential that was made for another endorsement or attestation key, or changed on the way.
    NotOurs,
    /// The TCTI lost the TPM.
    Disconnected,
    /// Anything else.
    Other,
}

impl Meaning {
    pub(super) fn of(code: Tss2ResponseCode, raw: u32) -> Self {
        // Codes of the TSS's own layers share numbers with those of the TPM; only the TPM (layer 0) and
        // the resource manager (layers 11 and 12) speak TPM.
        match raw >> 16 {
            0 | 11 | 12 => {}
            10 => return Self::Disconnected,
            _ => return Self::Other,
        }
        match code.kind() {
            Some(Kind::Handle) => Self::NoSuchHandle,
            Some(Kind::NvDefined) => Self::HandleTaken,
            Some(Kind::Lockout) => Self::Lockout,
            Some(
                Kind::Retry
                | Kind::Yielded
                | Kind::Testing
                | Kind::Canceled
                | Kind::NvRate
                | Kind::NvUnavailable,
            ) => Self::Busy,
            Some(
                Kind::ObjectMemory
                | Kind::ObjectHandles
                | Kind::SessionMemory
                | Kind::SessionHandles
                | Kind::Memory,
            ) => Self::OutOfMemory,
            Some(Kind::NvSpace) => Self::NvFull,
            Some(Kind::BadAuth | Kind::AuthFail | Kind::AuthUnavailable | Kind::PolicyFail) => {
                Self::AuthorizationSet
            }
            Some(Kind::Integrity) => Self::NotOurs,
            Some(Kind::Hierarchy) => Self::HierarchyDisabled,
            Some(Kind::Initialize) => Self::NotStarted,
            Some(Kind::Failure | Kind::Reboot | Kind::Upgrade | Kind::NeedsTest) => Self::Broken,
            Some(
                Kind::CommandCode
                | Kind::Disabled
                | Kind::Scheme
                | Kind::Hash
                | Kind::KeySize
                | Kind::Asymmetric
                | Kind::Value,
            ) => Self::NotSupported,
            _ => Self::Other,
        }
    }
}

impl Meaning {
    /// The same, knowing what was being done: to a seed that does not decrypt one TPM answers with a wrong
    /// value, another with a general failure, and goes on working.
    pub(super) fn when(self, step: Step) -> Self {
        match (step, self) {
            (Step::Activate, Self::Broken | Self::NotSupported) => Self::NotOurs,
            _ => self,
        }
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchHandle => "the TPM has nothing at that handle",
            Self::HandleTaken => "the TPM already keeps something at that handle",
            Self::Lockout => "the TPM is in dictionary-attack lockout",
            Self::Busy => "the TPM is busy",
            Self::OutOfMemory => "the TPM has no room for another key or session",
            Self::NvFull => "the TPM's non-volatile memory is full",
            Self::AuthorizationSet => "it needs an authorization that this program does not have",
            Self::HierarchyDisabled => "the hierarchy is disabled in the firmware",
            Self::NotStarted => "the firmware has not started the TPM",
            Self::Broken => "the TPM is in failure mode or wants a reset",
            Self::NotSupported => "the TPM does not support it",
            Self::NotOurs => "it was made for other keys than this TPM's",
            Self::Disconnected => "the connection to the TPM broke",
            Self::Other => "the TPM refused",
        })
    }
}

/// The next step when `step` met `meaning`.
pub(super) fn advice(step: Step, meaning: Meaning) -> &'static str {
    match (meaning, step) {
        (Meaning::AuthorizationSet, Step::CreateEk | Step::AuthorizeEk) => {
            "the endorsement hierarchy has a password: clear it (`tpm2_changeauth -c e -p OLD`) for the \
             enrolment, it can be set again afterwards"
        }
        (Meaning::AuthorizationSet, Step::ReadCertificate) => {
            "the index of the certificate cannot be read without a password: read it with \
             `tpm2_getekcertificate` and have the EK's digest listed instead"
        }
        (Meaning::NotOurs, _) => {
            "something between this node and the registrar mixes up answers: try again, then look for a \
             proxy"
        }
        (Meaning::AuthorizationSet, Step::CreateKey) => {
            "the endorsement hierarchy has a password: clear it (`tpm2_changeauth -c e -p OLD`), or \
             create the attestation key beforehand"
        }
        (Meaning::AuthorizationSet, Step::ReadIndex | Step::WriteIndex) => {
            "the owner hierarchy has a password, or the index was made by another program with other rights: clear the \
             one (`tpm2_changeauth -c o -p OLD`), remove the other (`tpm2_nvundefine -C o 0x1400002`)"
        }
        (Meaning::AuthorizationSet, Step::KeepKey) => {
            "the owner hierarchy has a password: clear it (`tpm2_changeauth -c o -p OLD`), or create \
             the attestation key beforehand"
        }
        (Meaning::AuthorizationSet, _) => {
            "the attestation key has a password or policy: remove it with `tpm2_evictcontrol`, and this \
             program creates one without"
        }
        (Meaning::NoSuchHandle | Meaning::HandleTaken, _) => {
            "another program changes the TPM's persistent keys: try again when it has finished"
        }
        (Meaning::Lockout, _) => {
            "wait for the lockout to run out or clear it with `tpm2_dictionarylockout -c`; keys that \
             this program creates are exempt from it"
        }
        (Meaning::Busy, _) => "try again in a moment",
        (Meaning::Disconnected, _) => {
            "try again; if it stays, look at the kernel's messages about the TPM (dmesg)"
        }
        (Meaning::OutOfMemory, _) => {
            "use device:/dev/tpmrm0, which swaps keys in and out, instead of /dev/tpm0; on a software \
             TPM flush with `tpm2_flushcontext -t`"
        }
        (Meaning::NvFull, _) => {
            "remove persistent keys or NV indices that nothing needs (`tpm2_getcap handles-persistent`)"
        }
        (Meaning::HierarchyDisabled, _) => {
            "enable the TPM's owner and endorsement hierarchies in the firmware"
        }
        (Meaning::NotStarted, _) => {
            "the firmware must send TPM2_Startup: enable the TPM in the firmware and reboot"
        }
        (Meaning::Broken, _) => {
            "power the machine off and on; if it stays, update the TPM's firmware or replace it"
        }
        (Meaning::NotSupported, _) => {
            "this program needs a TPM 2.0 with RSA-2048, RSASSA and SHA-256: update its firmware"
        }
        (Meaning::Other, _) => "look the response code up with `tpm2_rc_decode`",
    }
}

/// The number behind a response code. The binding keeps it to itself, but prints it.
pub(super) fn raw_code(code: Tss2ResponseCode) -> u32 {
    let text = match code {
        Tss2ResponseCode::Success => return 0,
        Tss2ResponseCode::FormatZero(inner) => inner.to_string(),
        Tss2ResponseCode::FormatOne(inner) => inner.to_string(),
    };
    text.rsplit_once("0x")
        .and_then(|(_, hex)| u32::from_str_radix(hex, 16).ok())
        .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Meaning, Step, raw_code};
    use crate::evidence::TpmError;
    use kbs_protocol::{Blame, Persistence};
    use tss_esapi::constants::response_code::Tss2ResponseCode;

    fn error(step: Step, code: u32) -> TpmError {
        TpmError::response(
            step,
            tss_esapi::Error::Tss2Error(Tss2ResponseCode::from(code)),
        )
    }

    #[test]
    fn codes_survive_the_binding() {
        for code in [0x100, 0x18b, 0x902, 0x921, 0x9a2, 0x000a_000a, 0x000b_0143] {
            assert_eq!(raw_code(Tss2ResponseCode::from(code)), code);
        }
    }

    #[test]
    fn likely_codes_have_words() {
        let cases = [
            (0x18b, Meaning::NoSuchHandle),
            (0x14c, Meaning::HandleTaken),
            (0x921, Meaning::Lockout),
            (0x922, Meaning::Busy),
            (0x908, Meaning::Busy),
            (0x90a, Meaning::Busy),
            (0x902, Meaning::OutOfMemory),
            (0x14b, Meaning::NvFull),
            (0x9a2, Meaning::AuthorizationSet),
            (0x98e, Meaning::AuthorizationSet),
            (0x185, Meaning::HierarchyDisabled),
            (0x100, Meaning::NotStarted),
            (0x101, Meaning::Broken),
            (0x143, Meaning::NotSupported),
            // The same, from the kernel's resource manager.
            (0x000b_0143, Meaning::NotSupported),
            // TSS2_TCTI_RC_IO_ERROR; TSS2_ESYS_RC_BAD_VALUE, whose low bits would read TPM_RC_…
            (0x000a_000a, Meaning::Disconnected),
            (0x0007_000b, Meaning::Other),
        ];
        for (code, meaning) in cases {
            assert_eq!(
                error(Step::Quote, code).meaning(),
                Some(meaning),
                "{code:#x}"
            );
        }
    }

    #[test]
    fn a_credential_for_others_is_told_from_a_broken_tpm() {
        for code in [0x101, 0x1df, 0x2c4, 0x084] {
            assert_eq!(
                error(Step::Activate, code).meaning(),
                Some(Meaning::NotOurs),
                "{code:#x}"
            );
        }
        assert_eq!(
            error(Step::CreateEk, 0x101).meaning(),
            Some(Meaning::Broken)
        );
        // A hierarchy with a password is not a credential for others.
        assert_eq!(
            error(Step::AuthorizeEk, 0x9a2).meaning(),
            Some(Meaning::AuthorizationSet)
        );
        assert!(
            error(Step::AuthorizeEk, 0x9a2)
                .advice()
                .contains("endorsement hierarchy")
        );
    }

    #[test]
    fn a_sentence_names_step_meaning_and_code() {
        assert_eq!(
            error(Step::KeepKey, 0x9a2).to_string(),
            "storing the attestation key failed: it needs an authorization that this program does not \
             have (response 0x9a2)"
        );
    }

    #[test]
    fn authorizations_are_told_apart() {
        let advice = |step| error(step, 0x9a2).advice();
        assert!(advice(Step::CreateKey).contains("endorsement hierarchy"));
        assert!(advice(Step::KeepKey).contains("owner hierarchy"));
        assert!(advice(Step::Quote).contains("attestation key"));
    }

    #[test]
    fn only_what_passes_by_itself_is_temporary() {
        let persistence = |code| error(Step::Quote, code).persistence();
        assert_eq!(persistence(0x922), Persistence::Temporary);
        assert_eq!(persistence(0x902), Persistence::Temporary);
        assert_eq!(persistence(0x000a_000a), Persistence::Temporary);
        assert_eq!(persistence(0x101), Persistence::Permanent);
        assert_eq!(persistence(0x9a2), Persistence::Permanent);
    }
}
