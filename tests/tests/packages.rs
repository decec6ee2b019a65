// SPDX-License-Identifier: Apache-2.0
//! The packages, made by the scripts that users call, from the programs that the tests have anyway: what is in them, that
//! dpkg takes them in and gives them back, and what their own critics say.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sheepfold_tests::paths;
use sheepfold_tests::process::Run;

const NAMES: [&str; 3] = ["trustee-agent", "refvals", "sheepfold-operator"];

/// What comes with every package of its kind.
const OF_THE_PACKAGER: [&str; 3] = ["/share/doc/", "/share/licenses/", "/lib/.build-id"];

/// Whether a program is there that not every machine has; says so otherwise.
fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !found {
        paths::skipped(&format!("{program} is not installed"));
    }
    found
}

/// Runs a packaging script on the programs of this build; the packages, by name.
fn packages(script: &str, out: &Path) -> Vec<PathBuf> {
    let programs = paths::binary("trustee-agent").unwrap();
    for name in NAMES.iter().chain(&["sheepfold-completions"]) {
        paths::binary(name).unwrap();
    }
    let made = Run::new(paths::workspace().join("scripts").join(script))
        .arg(programs.parent().unwrap())
        .arg(out)
        .env("DEBEMAIL", "packages@example.org")
        // Packing programs that were built for debugging takes its time.
        .deadline(Duration::from_secs(600))
        .success()
        .unwrap();
    let said = made.out();
    NAMES
        .iter()
        .map(|name| {
            let file = |line: &&str| {
                Path::new(line)
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(name)
            };
            PathBuf::from(
                said.lines()
                    .find(file)
                    .unwrap_or_else(|| unmade(name, &said)),
            )
        })
        .collect()
}

fn unmade<'s>(name: &str, said: &str) -> &'s str {
    assert!(said.is_empty(), "no package {name}: {said}");
    ""
}

/// What a node gets, as the documentation lists it.
fn installed() -> BTreeSet<String> {
    let list = paths::workspace().join("dracut/installed-files");
    let list = fs::read_to_string(list).unwrap();
    list.lines().map(str::to_owned).collect()
}

/// Beside its files: completions for each shell, where RPM's distributions have those of zsh.
fn completions(name: &str) -> BTreeSet<String> {
    BTreeSet::from([
        format!("/usr/share/bash-completion/completions/{name}"),
        format!("/usr/share/zsh/site-functions/_{name}"),
        format!("/usr/share/fish/vendor_completions.d/{name}.fish"),
    ])
}

/// What each package holds.
fn expected() -> [BTreeSet<String>; 3] {
    let files = [
        installed(),
        ["/usr/bin/refvals", "/usr/share/man/man1/refvals.1"]
            .map(str::to_owned)
            .into(),
        [
            "/usr/bin/kubectl-sheepfold",
            "/usr/bin/sheepfold-operator",
            "/usr/share/man/man8/sheepfold-operator.8",
        ]
        .map(str::to_owned)
        .into(),
    ];
    let mut names = NAMES.iter();
    files.map(|files| &files | &completions(names.next().unwrap()))
}

/// The files of a listing: without directories, documentation, and the compression of manuals.
fn files<'l>(lines: impl Iterator<Item = &'l str>) -> BTreeSet<String> {
    lines
        .filter(|path| !path.ends_with('/'))
        .filter(|path| !OF_THE_PACKAGER.iter().any(|dir| path.contains(dir)))
        .map(|path| path.strip_suffix(".gz").unwrap_or(path).to_owned())
        .collect()
}

#[test]
fn debian_packages_are_taken_in_and_given_back() {
    if !has("dpkg-shlibdeps") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = packages("package-deb", dir.path());
    for (package, expected) in made.iter().zip(expected()) {
        let listing = Run::new("dpkg-deb")
            .arg("-c")
            .arg(package)
            .success()
            .unwrap();
        let listing = listing.out();
        // "-rw-r--r-- root/root SIZE DATE TIME ./usr/bin/x -> y"
        let paths = listing.lines().map(|line| {
            let path = line.split_whitespace().nth(5).unwrap();
            path.strip_prefix('.').unwrap()
        });
        // Debian's zsh has a place for what packages bring.
        let found: BTreeSet<String> = files(paths)
            .into_iter()
            .map(|path| path.replace("zsh/vendor-completions", "zsh/site-functions"))
            .collect();
        assert_eq!(found, expected, "{}", package.display());
        assert!(
            listing.lines().all(|line| line.contains(" root/root ")),
            "{listing}"
        );
    }
    let field = Run::new("dpkg-deb").arg("-f").arg(&made[0]).arg("Depends");
    let depends = field.success().unwrap().out();
    for library in [
        "libc6",
        "libcryptsetup12",
        "libtss2-esys",
        "libtss2-tcti-device0",
    ] {
        assert!(depends.contains(library), "{library}: {depends}");
    }

    let root = dir.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = || {
        Run::new("dpkg")
            .arg(format!("--root={}", root.display()))
            .args(["--force-depends", "--force-not-root"])
    };
    let installing = made
        .iter()
        .fold(dpkg().arg("--install"), |run, package| run.arg(package));
    installing.success().unwrap();
    let verified = dpkg().arg("--verify").success().unwrap();
    assert_eq!(verified.out(), "", "files differ from their digests");
    for name in NAMES {
        let program = root.join("usr/bin").join(name);
        let version = Run::new(program).arg("--version").success().unwrap().out();
        assert!(version.starts_with(name), "{version}");
        let script = root
            .join("usr/share/bash-completion/completions")
            .join(name);
        assert!(
            fs::read_to_string(script).unwrap().contains("complete -F"),
            "{name}"
        );
    }
    let link = fs::canonicalize(root.join("usr/lib/systemd/system-generators/trustee-generator"));
    assert_eq!(
        link.unwrap(),
        fs::canonicalize(root.join("usr/bin/trustee-agent")).unwrap()
    );
    dpkg().arg("--purge").args(NAMES).success().unwrap();
    assert!(!root.join("usr").exists(), "something stays behind");
}

#[test]
fn lintian_finds_no_error() {
    if !has("dpkg-shlibdeps") || !has("lintian") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = packages("package-deb", dir.path());
    let run = Run::new("lintian")
        .args(["--fail-on", "error", "--allow-root"])
        .deadline(Duration::from_secs(300));
    let judged = made.iter().fold(run, |run, package| run.arg(package));
    judged.success().unwrap();
}

#[test]
fn rpm_packages_hold_the_same() {
    if !has("rpmbuild") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = packages("package-rpm", dir.path());
    for (package, expected) in made.iter().zip(expected()) {
        let listing = Run::new("rpm").arg("-qpl").arg(package).success().unwrap();
        let listing = listing.out();
        let mut found = files(listing.lines());
        // The directory itself.
        found.remove("/usr/lib/dracut/modules.d/65trustee");
        assert_eq!(found, expected, "{}", package.display());
    }
}

/// What nobody can build here names files that are there, and shell that is shell.
#[test]
fn the_container_file_copies_what_exists() {
    let text = fs::read_to_string(paths::workspace().join("packaging/Containerfile")).unwrap();
    let joined = text.replace("\\\n", " ");
    let mut commands = 0;
    for line in joined.lines() {
        if let Some(command) = line.strip_prefix("RUN ") {
            Run::new("sh")
                .args(["-n", "-c", command])
                .success()
                .unwrap();
            commands += 1;
        }
    }
    assert!(commands >= 4, "{commands}");
    assert!(text.contains("make install-files DIST="), "{text}");
}
