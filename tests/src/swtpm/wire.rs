// SPDX-License-Identifier: Apache-2.0

//! The little of the TPM's wire format that forwarding and counting commands needs (TPM 2.0 Library
//! Part 1, "Command/Response Structure"): tag u16, size u32, command or response code u32, big endian.

use std::io::{ErrorKind, Read};

use anyhow::{Context as _, Result, bail};

/// One command or response, or `None` at an orderly end.
pub(super) fn read_message(stream: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut message = vec![0; HEADER];
    match stream.read_exact(&mut message) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let size = usize::try_from(word(&message, 2).context("no size")?)?;
    if !(HEADER..=LARGEST).contains(&size) {
        bail!("a message of {size} bytes");
    }
    let mut body = vec![0; size - HEADER];
    stream.read_exact(&mut body)?;
    message.extend(body);
    Ok(Some(message))
}

pub(super) fn tagged(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    [
        &tag.to_be_bytes()[..],
        &size.to_be_bytes(),
        &code.to_be_bytes(),
        body,
    ]
    .concat()
}

pub(super) fn word(message: &[u8], at: usize) -> Option<u32> {
    message
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}

/// The name of a command code, for those that appear in our tests; others as a number.
pub(super) fn name(code: u32) -> String {
    let name = match code {
        0x11f => "NV_UndefineSpace",
        0x120 => "EvictControl",
        0x131 => "CreatePrimary",
        0x137 => "NV_Write",
        0x144 => "Startup",
        0x145 => "Shutdown",
        0x158 => "Quote",
        0x165 => "FlushContext",
        0x173 => "ReadPublic",
        0x176 => "StartAuthSession",
        0x17a => "GetCapability",
        0x17b => "GetRandom",
        0x17e => "PCR_Read",
        0x182 => "PCR_Extend",
        other => return format!("{other:#x}"),
    };
    name.to_owned()
}

pub(super) const TPM_ST_NO_SESSIONS: u16 = 0x8001;
pub(super) const TPM_ST_SESSIONS: u16 = 0x8002;
/// Tag, size, code.
const HEADER: usize = 10;
/// `swtpm` knows no larger message.
const LARGEST: usize = 4096;
