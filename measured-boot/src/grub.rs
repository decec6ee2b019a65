// SPDX-License-Identifier: Apache-2.0

//! How often GRUB measures the kernel into PCR 4. It is a property of the build and of Secure Boot, and
//! nothing in the file says it: it was observed on machines, and what was not observed is not guessed.

use crate::sbat;

/// How often the kernel is measured, as far as anybody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The boot loader, as its `.sbat` section names it.
    pub loader: String,
    /// Every count that is possible; one when it is known.
    pub candidates: Vec<u8>,
    /// Whether a boot was recorded. Otherwise the count was read from source code, or not at all.
    pub observed: bool,
}

/// Looks the boot loader up by its `.sbat` section.
pub fn kernel_measurements(sbat: Option<&str>, secure_boot: bool) -> Counts {
    let sbat = sbat.unwrap_or_default();
    let upstream = sbat::columns(sbat, |name| name == "grub").map(|(_, version)| version);
    let vendor = sbat::columns(sbat, |name| name.starts_with("grub."));
    let version = upstream.unwrap_or("of unknown version");
    let (vendor, package) = vendor.unwrap_or(("no vendor", ""));
    let (candidates, observed): (&[u8], bool) = match (vendor, version, secure_boot) {
        // Two verifiers, each of which measures what it verified.
        ("grub.debian", "2.06", true) => (&[2], true),
        ("grub.debian", "2.12" | "2.14", true) => (&[1], true),
        ("grub.debian", "2.06" | "2.12", false) => (&[0], true),
        // Since Fedora 37 the second verifier leaves alone what the first one has seen.
        ("grub.rh", "2.06", true) if fedora(package) >= Some(37) => (&[1], false),
        ("grub.rh", "2.06", false) if fedora(package) >= Some(37) => (&[0], false),
        (_, _, true) => (&[1, 2], false),
        (_, _, false) => (&[0, 1], false),
    };
    Counts {
        loader: format!("GRUB {version} ({vendor} {package})"),
        candidates: candidates.to_vec(),
        observed,
    }
}

/// The release in a package version such as `2.06-94.fc38`.
fn fedora(package: &str) -> Option<u32> {
    package.rsplit_once(".fc")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kernel_measurements;

    fn counts(vendor: &str, version: &str, package: &str, secure_boot: bool) -> (Vec<u8>, bool) {
        let sbat = format!(
            "sbat,1,SBAT Version,sbat,1,url\ngrub,5,FSF,grub,{version},url\n{vendor},5,Name,grub2,{package},url\n"
        );
        let counts = kernel_measurements(Some(&sbat), secure_boot);
        (counts.candidates, counts.observed)
    }

    #[test]
    fn what_was_observed_and_what_was_not() {
        for (vendor, version, package, secure_boot, expected) in [
            (
                "grub.debian",
                "2.06",
                "2.06-13+deb12u2",
                true,
                (vec![2], true),
            ),
            (
                "grub.debian",
                "2.06",
                "2.06-13+deb12u2",
                false,
                (vec![0], true),
            ),
            ("grub.debian", "2.12", "2.12-9", true, (vec![1], true)),
            ("grub.debian", "2.12", "2.12-9", false, (vec![0], true)),
            ("grub.debian", "2.14", "2.14-4", true, (vec![1], true)),
            ("grub.debian", "2.14", "2.14-4", false, (vec![0, 1], false)),
            ("grub.rh", "2.06", "2.06-94.fc38", true, (vec![1], false)),
            ("grub.rh", "2.06", "2.06-94.fc38", false, (vec![0], false)),
            ("grub.rh", "2.06", "2.06-9.fc36", true, (vec![1, 2], false)),
            ("grub.rh", "2.12", "2.12-30.fc42", true, (vec![1, 2], false)),
            ("grub.new", "3.0", "3.0-1", false, (vec![0, 1], false)),
        ] {
            assert_eq!(
                counts(vendor, version, package, secure_boot),
                expected,
                "{vendor} {version} {package} {secure_boot}"
            );
        }
        let unknown = kernel_measurements(None, true);
        assert_eq!(unknown.candidates, [1, 2]);
        assert_eq!(unknown.loader, "GRUB of unknown version (no vendor )");
    }
}
