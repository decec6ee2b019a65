// SPDX-License-Identifier: Apache-2.0

//! The socket at which systemd-cryptsetup asks for the passphrase of a volume (crypttab(5), "AF_UNIX"): it finds a
//! socket where a key file may lie, connects from an abstract address of its own that ends with the volume's name, and
//! reads to the end. `answer` serves it.
//!
//! Whoever can connect is root, because systemd makes the socket for nobody else. The address is looked at so that one
//! volume's passphrase never goes to whoever opens another.

use kbs_protocol::encoding::hex;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Somebody who waits for a passphrase. Dropped without an answer, they read an empty key.
pub struct Asker(UnixStream);

/// The socket that systemd listens at, as standard input (systemd.exec(5), `StandardInput=socket`).
///
/// # Errors
/// Standard input is no such socket.
pub fn inherited() -> io::Result<UnixListener> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = UnixListener::from(socket);
    // Fails for whatever is not a socket of this family.
    listener.local_addr()?;
    Ok(listener)
}

/// Waits for somebody who asks for this volume. Others are turned away.
///
/// # Errors
/// The socket does not accept.
pub fn accept(listener: &UnixListener, volume: &str) -> io::Result<Asker> {
    loop {
        let (stream, address) = listener.accept()?;
        match asked_for(&address) {
            Some(name) if name == volume => return Ok(Asker(stream)),
            Some(name) => {
                let name: String = name.chars().take(SHOWN).collect();
                log::warn!(
                    "somebody asked for the passphrase of {name:?} where only {volume:?} has one"
                );
            }
            None => log::warn!(
                "somebody who is not systemd-cryptsetup asked for the passphrase of {volume:?}, and got nothing"
            ),
        }
    }
}

impl Asker {
    /// Gives it, and ends the connection.
    ///
    /// # Errors
    /// Nobody is there any more.
    pub fn answer(mut self, passphrase: &[u8]) -> io::Result<()> {
        self.0.write_all(passphrase)?;
        self.0.shutdown(Shutdown::Both)
    }
}

/// The volume in `<random number in hexadecimal>/cryptsetup/<volume>`.
fn asked_for(address: &SocketAddr) -> Option<String> {
    let name = std::str::from_utf8(address.as_abstract_name()?).ok()?;
    let (random, volume) = name.split_once("/cryptsetup/")?;
    let is_random =
        (1..=RANDOM_DIGITS).contains(&random.len()) && random.bytes().all(hex::is_lower_digit);
    is_random.then(|| volume.to_owned())
}

/// Of 64 bits.
const RANDOM_DIGITS: usize = 16;
const SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::asked_for;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;

    #[test]
    fn the_address_names_the_volume() {
        let of = |name: &str| asked_for(&SocketAddr::from_abstract_name(name).unwrap());
        let root = Some("root".to_owned());
        assert_eq!(of("8f2c41d0a9b37e56/cryptsetup/root"), root);
        assert_eq!(of("0/cryptsetup/root"), root);
        assert_eq!(of("0/cryptsetup/a/cryptsetup/b").unwrap(), "a/cryptsetup/b");
        for other in [
            "",
            "root",
            "/cryptsetup/root",
            "8F2C/cryptsetup/root",
            "x/cryptsetup/root",
            "00008f2c41d0a9b37e56/cryptsetup/root",
            "8f2c/homed/root",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        let path = SocketAddr::from_pathname("/8f2c/cryptsetup/root").unwrap();
        assert_eq!(asked_for(&path), None);
    }
}
