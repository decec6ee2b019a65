// SPDX-License-Identifier: Apache-2.0

//! Tells systemd how far a unit is (sd_notify(3)), where a unit of ours is what started this process. A message that
//! nobody takes is no error.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// One line for `systemctl status`.
pub fn status(line: &str) {
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    send(&format!("STATUS={line}"));
}

/// The unit has done what others wait for.
pub fn ready() {
    send("READY=1");
}

fn send(message: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        // Nobody to tell of a failure either.
        let _ = send_to(&socket, message);
    }
}

/// A path, or `@` and an abstract name.
fn send_to(socket: &OsStr, message: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(message.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::send_to;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_sockets_are_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send_to(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&socket), "READY=1");

        let name = format!("sheepfold-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send_to(format!("@{name}").as_ref(), "STATUS=x").unwrap();
        assert_eq!(received(&socket), "STATUS=x");
        assert!(send_to("/no/such/socket".as_ref(), "x").is_err());
    }
}
