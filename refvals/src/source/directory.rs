// SPDX-License-Identifier: Apache-2.0

//! A directory as an image: a mounted image, an unpacked one, a copy of an ESP.

use crate::Error;
use measured_boot::facts::ImageFacts;
use measured_boot::image::{Choice, Scanner};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Looks through a directory. Symbolic links are followed inside of it only; other file systems mounted in it are
/// part of it.
///
/// # Errors
/// [`Error::Io`] for what cannot be read, [`Error::Boot`] for what is wrong with the image.
pub fn directory(root: &Path, name: &str, choice: &Choice) -> Result<ImageFacts, Error> {
    let mut scanner = Scanner::new();
    let mut open = vec![String::new()];
    while let Some(inside) = open.pop() {
        let directory = root.join(&inside);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(Error::io("read", &directory))? {
            entries.push(entry.map_err(Error::io("read", &directory))?);
        }
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            let path = match inside.is_empty() {
                true => file_name.into_owned(),
                false => format!("{inside}/{file_name}"),
            };
            let kind = entry.file_type().map_err(Error::io("read", entry.path()))?;
            if kind.is_dir() {
                if !(inside.is_empty() && NOT_OF_AN_IMAGE.contains(&path.as_str())) {
                    open.push(path);
                }
            } else if kind.is_symlink() {
                let target =
                    std::fs::read_link(entry.path()).map_err(Error::io("read", entry.path()))?;
                scanner.link(&path, &target.to_string_lossy())?;
            } else if kind.is_file() {
                let file = File::open(entry.path()).map_err(Error::io("read", entry.path()))?;
                let size = file
                    .metadata()
                    .map_err(Error::io("read", entry.path()))?
                    .len();
                scanner.file(&path, size, &mut BufReader::new(file))?;
            }
        }
    }
    Ok(scanner.finish(name, choice)?)
}

/// Of a running system that is looked at as a directory.
const NOT_OF_AN_IMAGE: [&str; 4] = ["dev", "proc", "run", "sys"];
