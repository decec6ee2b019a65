// SPDX-License-Identifier: Apache-2.0
//! What systemd-cryptsetup does at a socket in the place of a key file (crypttab(5)): it binds itself to an abstract
//! address with the volume's name in it, connects, and reads to the end.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, socket};

/// Asks from this abstract address, or from none, and gives back what was read.
///
/// # Errors
/// Nobody listens, or nobody answers within half a minute.
pub fn ask(at: &Path, from: Option<&str>) -> Result<Vec<u8>> {
    let mut stream = dial(at, from)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut key = Vec::new();
    stream.read_to_end(&mut key)?;
    Ok(key)
}

/// Connects, and does not read yet.
///
/// # Errors
/// Nobody listens.
pub fn dial(at: &Path, from: Option<&str>) -> Result<UnixStream> {
    let socket: OwnedFd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    if let Some(name) = from {
        bind(
            &socket,
            &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        )?;
    }
    connect(&socket, &SocketAddrUnix::new(at)?)?;
    Ok(UnixStream::from(socket))
}
