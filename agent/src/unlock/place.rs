// SPDX-License-Identifier: Apache-2.0

//! Which device holds a volume: the kernel command line says so, or `/etc/crypttab`.
//!
//! Both belong to the host, which is no matter: a device is found by its name and recognised by its volume key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The device of the volume `name`, or `None` if neither text names it.
///
/// `rd.luks.name=UUID=NAME` and `luks.name=` as in systemd-cryptsetup-generator(8), then the second field of
/// crypttab(5).
pub fn of_volume(name: &str, command_line: &str, crypttab: &str) -> Option<PathBuf> {
    let argument = arguments(command_line)
        .find(|(_, named)| *named == name)
        .map(|(uuid, _)| Path::new(BY_UUID).join(uuid.to_ascii_lowercase()));
    argument.or_else(|| {
        crypttab.lines().find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (named, device) = (fields.next()?, fields.next()?);
            (named == name && !named.starts_with('#')).then(|| device_of(device))
        })
    })
}

/// Every volume that one of the two texts names, with its device.
pub fn all_volumes(command_line: &str, crypttab: &str) -> BTreeMap<String, PathBuf> {
    let arguments = arguments(command_line).map(|(_, name)| name);
    let rows = crypttab
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next());
    arguments
        .chain(rows)
        .filter_map(|name| Some((name.to_owned(), of_volume(name, command_line, crypttab)?)))
        .collect()
}

/// UUID and name of each volume that the command line names.
fn arguments(command_line: &str) -> impl Iterator<Item = (&str, &str)> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|argument| {
            let keys = ["rd.luks.name=", "luks.name="];
            let value = keys
                .into_iter()
                .find_map(|key| argument.strip_prefix(key))?;
            value.split_once('=')
        })
}

/// A device as crypttab writes it.
fn device_of(field: &str) -> PathBuf {
    let tags = [
        ("UUID=", BY_UUID),
        ("PARTUUID=", "/dev/disk/by-partuuid"),
        ("LABEL=", "/dev/disk/by-label"),
        ("PARTLABEL=", "/dev/disk/by-partlabel"),
    ];
    for (tag, directory) in tags {
        if let Some(value) = field.strip_prefix(tag) {
            return Path::new(directory).join(value.trim_matches('"'));
        }
    }
    PathBuf::from(field)
}

const BY_UUID: &str = "/dev/disk/by-uuid";

#[cfg(test)]
mod tests {
    use super::{all_volumes, of_volume};
    use std::path::Path;

    #[test]
    fn a_volume_is_found_by_its_name() {
        let line = "quiet rd.luks.name=0A0B=root luks.name=0c0d=data root=/dev/mapper/root";
        let table = "# root none\nroot UUID=ffff none luks\nswap /dev/vda3\nlogs PARTLABEL=\"l\" none luks,_netdev\n";
        for (name, device) in [
            ("root", Some("/dev/disk/by-uuid/0a0b")),
            ("data", Some("/dev/disk/by-uuid/0c0d")),
            ("swap", Some("/dev/vda3")),
            ("logs", Some("/dev/disk/by-partlabel/l")),
            ("other", None),
            ("#", None),
        ] {
            assert_eq!(
                of_volume(name, line, table).as_deref(),
                device.map(Path::new),
                "{name}"
            );
        }
        let all = all_volumes(line, table);
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(names, ["data", "logs", "root", "swap"]);
        assert_eq!(all["root"], Path::new("/dev/disk/by-uuid/0a0b"));
        let only_table = of_volume("root", "rd.luks.uuid=1", table);
        assert_eq!(
            only_table.as_deref(),
            Some(Path::new("/dev/disk/by-uuid/ffff"))
        );
    }
}
