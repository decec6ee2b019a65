// SPDX-License-Identifier: Apache-2.0

//! Platforms that come along: firmware as distributions package it, before anybody changed a variable. Made from the
//! real packages by `scripts/platform-profiles`, never by hand.

use crate::Error;
use measured_boot::platform::PlatformFacts;

/// Name and document of each profile.
const PROFILES: [(&str, &str); 6] = [
    (
        "debian12-ovmf",
        include_str!("../../profiles/debian12-ovmf.json"),
    ),
    (
        "debian12-ovmf-ms",
        include_str!("../../profiles/debian12-ovmf-ms.json"),
    ),
    (
        "debian12-ovmf-snakeoil",
        include_str!("../../profiles/debian12-ovmf-snakeoil.json"),
    ),
    (
        "debian13-ovmf",
        include_str!("../../profiles/debian13-ovmf.json"),
    ),
    (
        "debian13-ovmf-ms",
        include_str!("../../profiles/debian13-ovmf-ms.json"),
    ),
    (
        "debian13-ovmf-snakeoil",
        include_str!("../../profiles/debian13-ovmf-snakeoil.json"),
    ),
];

/// The names.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _)| *name)
}

/// One of them.
///
/// # Errors
/// [`Error::Reference`] when there is none of this name.
pub fn load(name: &str) -> Result<PlatformFacts, Error> {
    let found = PROFILES.iter().find(|(known, _)| *known == name);
    let (_, document) = found.ok_or_else(|| Error::Reference {
        got: format!("profile:{name}"),
        expected: "a profile: `refvals platform --list` names them",
    })?;
    serde_json::from_str(document)
        .map_err(|error| Error::document(format!("profile {name}"), error))
}
