// SPDX-License-Identifier: Apache-2.0

//! Images, wherever they are: a directory (a mounted image, an ESP), or facts that were computed before.

mod directory;

pub use directory::directory;

use crate::Error;
use measured_boot::facts::ImageFacts;
use measured_boot::image::Choice;
use std::path::Path;

/// Loads the facts of an image: from a JSON document that `refvals image` wrote, or by looking through a directory.
///
/// # Errors
/// [`Error::Io`], [`Error::Document`], [`Error::Boot`].
pub fn load(source: &str, choice: &Choice) -> Result<ImageFacts, Error> {
    let path = Path::new(source.strip_prefix("dir:").unwrap_or(source));
    if path.is_dir() {
        return directory(path, source, choice);
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::document(source, error))
}
