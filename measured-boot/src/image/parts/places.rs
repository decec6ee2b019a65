// SPDX-License-Identifier: Apache-2.0

//! Where distributions put what boots, inside of an image: the paths, and nothing about what lies there.

/// A place where distributions keep what belongs on the ESP.
pub(super) struct Place {
    pub(super) prefix: &'static str,
    /// Segments between the prefix and `EFI`.
    pub(super) versioned: bool,
}

impl Place {
    pub(super) fn holds(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.prefix) else {
            return false;
        };
        match self.versioned {
            true => rest.split('/').nth(2) == Some("EFI"),
            false => true,
        }
    }
}

/// `*` stands for one segment, or for the rest of one.
pub(super) fn in_place(path: &str, place: &str) -> bool {
    let (mut path, mut place) = (path.split('/'), place.split('/'));
    loop {
        match (path.next(), place.next()) {
            (None, None) => return true,
            (Some(segment), Some(pattern)) => {
                let (begin, end) = pattern.split_once('*').unwrap_or((pattern, ""));
                let is_exact = !pattern.contains('*') && segment == pattern;
                let fits = segment.len() > begin.len().saturating_add(end.len())
                    && segment.starts_with(begin)
                    && segment.ends_with(end);
                if !(is_exact || pattern.contains('*') && fits) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// The directory of modules, or what follows `vmlinuz-`.
pub(super) fn release(path: &str) -> Option<String> {
    let modules = path
        .strip_prefix("usr/lib/modules/")
        .and_then(|rest| rest.split('/').next());
    modules
        .or_else(|| path.split_once("vmlinuz-").map(|(_, release)| release))
        .map(str::to_owned)
}

pub(super) const ESP: [Place; 6] = [
    place("usr/lib/efi/", true),
    place("usr/lib/bootupd/updates/EFI/", false),
    place("usr/lib/ostree-boot/efi/EFI/", false),
    place("boot/efi/EFI/", false),
    place("efi/EFI/", false),
    place("EFI/", false),
];
pub(super) const SHIM_PACKAGED: [&str; 2] = [
    "usr/lib/shim/shim{arch}.efi.signed",
    "usr/lib/shim/shim{arch}.efi",
];
pub(super) const GRUB_PACKAGED: [&str; 2] = [
    "usr/lib/grub/x86_64-efi-signed/grub{arch}.efi.signed",
    "usr/lib/grub/arm64-efi-signed/grub{arch}.efi.signed",
];
pub(super) const GRUB_MONOLITHIC: [&str; 2] = [
    "usr/lib/grub/x86_64-efi/monolithic/grub{arch}.efi",
    "usr/lib/grub/arm64-efi/monolithic/grub{arch}.efi",
];
pub(super) const SYSTEMD_BOOT: [&str; 2] = [
    "usr/lib/systemd/boot/efi/systemd-boot{arch}.efi.signed",
    "usr/lib/systemd/boot/efi/systemd-boot{arch}.efi",
];
pub(super) const UKI: [&str; 4] = [
    "usr/lib/modules/*/*.efi",
    "boot/EFI/Linux/*.efi",
    "boot/efi/EFI/Linux/*.efi",
    "EFI/Linux/*.efi",
];
pub(super) const UKI_AND_ADDONS: [&str; 6] = [
    "usr/lib/modules/",
    "boot/",
    "EFI/",
    "loader/addons/",
    "efi/",
    "usr/lib/efi/",
];
pub(super) const KERNEL: [&str; 4] = [
    "usr/lib/modules/*/vmlinuz",
    "boot/vmlinuz-*",
    "vmlinuz-*",
    "vmlinuz",
];
pub(super) const OS_RELEASE: [&str; 2] = ["usr/lib/os-release", "etc/os-release"];

const fn place(prefix: &'static str, versioned: bool) -> Place {
    Place { prefix, versioned }
}
