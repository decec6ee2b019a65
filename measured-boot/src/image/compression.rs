// SPDX-License-Identifier: Apache-2.0

//! How a layer, or an archive of layers, is compressed. Its media type says so too, but tools disagree about it and the
//! first bytes do not.

use crate::error::Error;
use std::io::{self, BufReader, Cursor, Read};

/// What is in it, unpacked: gzip (RFC 1952, several members), zstd (RFC 8878, several frames), or as it is.
///
/// # Errors
/// [`Error::Read`] for what the reader or the decompressor says.
pub fn decompressed<'a>(mut layer: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let mut magic = Vec::with_capacity(MAGIC);
    let read = (&mut layer).take(4).read_to_end(&mut magic);
    read.map_err(|error| unreadable(&error))?;
    let is_gzip = magic.starts_with(&GZIP);
    let is_zstd = is_zstd(&magic);
    let whole = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(layer));
    if is_gzip {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole)));
    }
    if is_zstd {
        let limited = zstd::stream::read::Decoder::with_buffer(whole).and_then(|mut decoder| {
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Ok(decoder)
        });
        return Ok(Box::new(limited.map_err(|error| unreadable(&error))?));
    }
    Ok(Box::new(whole))
}

/// Whether a file that begins so is compressed in a way that [`decompressed`] knows.
pub fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&GZIP) || is_zstd(start.get(..MAGIC).unwrap_or_default())
}

/// zstd:chunked begins with an ordinary frame, but a skippable one may come first.
fn is_zstd(magic: &[u8]) -> bool {
    magic == ZSTD || matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

fn unreadable(error: &io::Error) -> Error {
    Error::Read {
        structure: "layer",
        offset: 0,
        why: error.to_string(),
    }
}

/// RFC 1952, section 2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// RFC 8878, section 3.1.1.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const MAGIC: usize = 4;
const BUFFER: usize = 128 * 1024;
/// 8 MiB: what every decoder must be able to hold (RFC 8878, section 3.1.1.1.2), and level 19 uses.
const MAX_WINDOW_LOG: u32 = 23;
