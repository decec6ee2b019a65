// SPDX-License-Identifier: Apache-2.0

//! Which deployment of ostree or bootc boots next. A staged one is written down in `/run/ostree/staged-deployment` and
//! gets its boot entry only while the machine shuts down; without one the first boot entry counts, which an update that
//! was not staged, or a rollback, has already changed (ostree, "Deployments"; Boot Loader Specification).

use crate::Error;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use zgvariant::serialized::{Context, Data};
use zgvariant::{LE, OwnedVariant};

/// A deployment: the tree of one image, checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Checksum and serial number, as `ostree admin status` shows it.
    pub name: String,
    /// Its tree.
    pub path: PathBuf,
    /// Whether it waits for the shutdown.
    pub is_staged: bool,
}

/// The one that boots next; `None` where nothing is deployed.
pub(super) fn next(root: &Path) -> Result<Option<Deployment>, Error> {
    if let Some(staged) = staged(root)? {
        return Ok(Some(staged));
    }
    let directory = root.join(ENTRIES);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &directory)(error)),
    };
    let mut first: Option<(u64, String)> = None;
    for entry in entries {
        let path = entry.map_err(Error::io("read", &directory))?.path();
        if path.extension().is_none_or(|extension| extension != "conf") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let value = |key: &str| {
            let mut lines = text
                .lines()
                .filter_map(|line| line.split_once(char::is_whitespace));
            lines
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim())
        };
        let version = value("version")
            .and_then(|version| version.parse().ok())
            .unwrap_or(0);
        if let Some(link) = value("options").and_then(argument)
            && first.as_ref().is_none_or(|(known, _)| version > *known)
        {
            first = Some((version, link.to_owned()));
        }
    }
    first.map(|(_, link)| linked(root, &link)).transpose()
}

/// The one that runs, by its kernel's command line.
pub(super) fn running(root: &Path) -> Result<Option<Deployment>, Error> {
    let path = root.join("proc/cmdline");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    argument(&text).map(|link| linked(root, link)).transpose()
}

/// The staged one, unless its finalization is held back.
fn staged(root: &Path) -> Result<Option<Deployment>, Error> {
    let path = root.join(STAGED);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    if root.join(LOCKED).exists() {
        return Ok(None);
    }
    let wrong = |why: &str| Error::document(path.display().to_string(), why);
    let (name, os) = target(&bytes).ok_or_else(|| wrong("it does not name a deployment"))?;
    if [&name, &os]
        .iter()
        .any(|part| part.contains('/') || part.starts_with('.'))
    {
        return Err(wrong("it names something outside of the deployments"));
    }
    Ok(Some(Deployment {
        path: root
            .join("ostree/deploy")
            .join(os)
            .join("deploy")
            .join(&name),
        name,
        is_staged: true,
    }))
}

/// Name and stateroot in a staged deployment: GVariant `a{sv}`, of the machine's own endianness, which is little
/// wherever there is UEFI.
fn target(bytes: &[u8]) -> Option<(String, String)> {
    type Members = HashMap<String, OwnedVariant>;
    let data = Data::new(bytes, Context::new(LE, 0));
    let (staged, _): (Members, usize) = data.deserialize().ok()?;
    let target: Members = staged.get("target")?.try_clone().ok()?.try_into().ok()?;
    let text = |key: &str| -> Option<String> { target.get(key)?.try_clone().ok()?.try_into().ok() };
    Some((text("name")?, text("osname")?))
}

/// The deployment behind `ostree=` of a command line: a link to its tree.
fn linked(root: &Path, link: &str) -> Result<Deployment, Error> {
    let link = root.join(link.trim_start_matches('/'));
    let path = link.canonicalize().map_err(Error::io("follow", &link))?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Deployment {
        name,
        path,
        is_staged: false,
    })
}

fn argument(command_line: &str) -> Option<&str> {
    let mut arguments = command_line.split_ascii_whitespace();
    arguments.find_map(|argument| argument.strip_prefix("ostree="))
}

const STAGED: &str = "run/ostree/staged-deployment";
/// ostree-admin-deploy(1), `--lock-finalization`.
const LOCKED: &str = "run/ostree/staged-deployment-locked";
const ENTRIES: &str = "boot/loader/entries";

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn a_staged_deployment_is_read_and_a_damaged_one_is_not() {
        // Written by ostree 2022.7, `ostree admin deploy --stage`.
        let bytes = include_bytes!("../../tests/data/staged-deployment");
        let (name, os) = target(bytes).unwrap();
        assert_eq!(
            name,
            "b6c1a644705a24c839787249b3e2ea936cd7357887c5facce544ff89bf075305.0"
        );
        assert_eq!(os, "test");
        for end in 0..bytes.len() {
            assert_eq!(target(&bytes[..end]), None, "{end}");
        }
    }
}
