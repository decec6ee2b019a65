// SPDX-License-Identifier: Apache-2.0

//! Which image is meant where several lie together, as containers-transports(5) writes it.

use std::path::Path;

/// `PATH[:NAME][@sha256:…]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) wanted: Wanted<'a>,
}

/// What a person says about the image; nothing where there is only one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// Its name, with or without tag.
    pub(super) name: Option<&'a str>,
    /// `sha256:…`.
    pub(super) digest: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// A path may have colons of its own: it ends where a file or directory does.
    pub(super) fn parse(text: &'a str) -> Self {
        let (text, digest) = split_digest(text);
        let exists = |path: &str| Path::new(path).exists();
        let colons = text.rmatch_indices(':').map(|(at, _)| text.split_at(at));
        let named = colons
            .map(|(path, name)| (path, name.trim_start_matches(':')))
            .find(|(path, _)| !exists(text) && exists(path));
        let (path, name) = match named {
            Some((path, name)) => (path, Some(name)),
            None => (text, None),
        };
        Self {
            path: Path::new(path),
            wanted: Wanted { name, digest },
        }
    }
}

/// The same source, written in a file of this directory: what lies beside it is found wherever the program runs; all
/// else is left as it is.
pub fn beside(written: &str, directory: &Path) -> String {
    let (kind, text) = match written.split_once(':') {
        Some((STORAGE, _)) => return written.to_owned(),
        Some((kind, text)) if KINDS.contains(&kind) => (Some(kind), text),
        _ => (None, written),
    };
    let joined = directory.join(text).to_string_lossy().into_owned();
    match (Place::parse(&joined).path.exists(), kind) {
        (false, _) => written.to_owned(),
        (true, None) => joined,
        (true, Some(kind)) => format!("{kind}:{joined}"),
    }
}

/// Forms of an image on this disk, as they may stand before a path.
pub(super) const KINDS: [&str; 4] = ["oci", "oci-archive", "docker-archive", "dir"];

/// What stands before the name of an image in a storage.
pub(super) const STORAGE: &str = "containers-storage";

/// What stands before `@sha256:…`, and that digest.
pub(super) fn split_digest(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('@') {
        Some((before, digest)) if digest.starts_with("sha256:") => (before, Some(digest)),
        _ => (text, None),
    }
}

/// Whether two names mean the same image: Docker leaves out its own host, and the tag `latest`.
pub(super) fn is_same_name(one: &str, other: &str) -> bool {
    whole(one) == whole(other)
}

fn whole(name: &str) -> String {
    let name = match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.contains(':') {
        true => name,
        false => format!("{name}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, beside, is_same_name};

    #[test]
    fn a_path_ends_where_a_file_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a:b.tar");
        std::fs::write(&file, "").unwrap();
        let file = file.to_str().unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        for (rest, name, with_digest) in [
            ("", None, false),
            (":quay.io/x/y:1", Some("quay.io/x/y:1"), false),
            (":y", Some("y"), true),
            ("", None, true),
        ] {
            let mut text = format!("{file}{rest}");
            if with_digest {
                text = format!("{text}@{digest}");
            }
            let place = Place::parse(&text);
            assert_eq!(place.path.to_str(), Some(file), "{text}");
            assert_eq!(place.wanted.name, name, "{text}");
            assert_eq!(place.wanted.digest, with_digest.then_some(digest.as_str()));
        }
        // What is not there is looked for under its whole name.
        let place = Place::parse("/nowhere/x:y@z");
        assert_eq!(place.path.to_str(), Some("/nowhere/x:y@z"));
        assert_eq!(place.wanted.digest, None);
    }

    #[test]
    fn what_lies_beside_a_file_is_found_from_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("layout")).unwrap();
        let here = directory.path().display();
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (written, expected) in [
            ("layout".to_owned(), format!("{here}/layout")),
            (
                format!("oci:layout:x{digest}"),
                format!("oci:{here}/layout:x{digest}"),
            ),
            (format!("dir:{here}/layout"), format!("dir:{here}/layout")),
            (
                format!("quay.io/x/y:1{digest}"),
                format!("quay.io/x/y:1{digest}"),
            ),
            (
                "docker-archive:gone.tar".to_owned(),
                "docker-archive:gone.tar".to_owned(),
            ),
            (
                "containers-storage:layout".to_owned(),
                "containers-storage:layout".to_owned(),
            ),
        ] {
            assert_eq!(beside(&written, directory.path()), expected);
        }
    }

    #[test]
    fn docker_leaves_parts_of_names_out() {
        for (one, other, same) in [
            ("debian", "docker.io/library/debian:latest", true),
            ("a/b:1", "docker.io/a/b:1", true),
            ("localhost/b", "localhost/b:latest", true),
            ("localhost:5000/b", "localhost:5000/b:latest", true),
            ("localhost/b", "docker.io/localhost/b", false),
            ("debian:1", "debian", false),
        ] {
            assert_eq!(is_same_name(one, other), same, "{one} {other}");
        }
    }
}
