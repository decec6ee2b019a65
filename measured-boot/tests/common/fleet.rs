// SPDX-License-Identifier: Apache-2.0

//! A fleet under update. The machine here is a second, much smaller account of measured boot: it extends bytes that it
//! puts together itself, and it knows its own moves. Beside it the same fleet as facts, for `combine`.

use measured_boot::bank::{Bank, Digest, Digests};
use measured_boot::bytes::Blob;
use measured_boot::combine::{Approved, Rollout};
use measured_boot::facts::{ImageFacts, ShimFacts, ShimVersion};
use measured_boot::path::{BootPath, Route};
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::replay::Pcrs;
use measured_boot::sbat::SbatLevels;
use std::collections::{BTreeMap, BTreeSet};

/// Four images: three in a row of updates, and one that is approved beside them and never updated to.
pub(crate) const IMAGES: usize = 4;
pub(crate) const UPDATES: [(usize, usize); 2] = [(0, 1), (1, 2)];
/// The second platform is the first one after an update of dbx that revokes the shim of image 0.
pub(crate) const PLATFORMS: usize = 2;
/// SbatLevel that each image's shim brings, and the GRUB generation below which it refuses.
pub(crate) const LEVELS: [(u32, u32); IMAGES] = [(2023, 1), (2023, 1), (2025, 2), (2024, 1)];
/// Generation of each image's GRUB: that of image 0 is revoked once the shim of image 2 has run.
const GENERATIONS: [u32; IMAGES] = [1, 2, 2, 2];
const KERNEL_MEASUREMENTS: [u8; IMAGES] = [2, 1, 1, 1];
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Machine {
    pub(crate) shim: usize,
    pub(crate) grub: usize,
    pub(crate) kernel: usize,
    pub(crate) platform: usize,
    pub(crate) level: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Move {
    Update,
    RollBack,
    CopyBootLoader,
    CopyBootLoaderAndPowerCut,
    UpdateDbx,
    PowerCut,
}

impl Machine {
    pub(crate) fn fresh(image: usize, platform: usize) -> Self {
        Self {
            shim: image,
            grub: image,
            kernel: image,
            platform,
            level: None,
        }
    }

    /// Boots: the PCRs, and SbatLevel changes. `None` when it does not start.
    pub(crate) fn boot(&mut self) -> Option<Pcrs> {
        let mut pcrs = Pcrs::new(Bank::Sha256);
        for (pcr, digest) in self.extends()? {
            pcrs.extend(pcr, &digest);
        }
        Some(pcrs)
    }

    /// Boots: what is extended, in order.
    pub(crate) fn extends(&mut self) -> Option<Vec<(u8, Digest)>> {
        if self.platform == 1 && self.shim == 0 {
            return None;
        }
        let (date, _) = LEVELS[self.shim];
        self.level = Some(self.level.unwrap_or(0).max(date));
        let minimum = LEVELS
            .iter()
            .find(|level| Some(level.0) == self.level)
            .unwrap()
            .1;
        if GENERATIONS[self.grub] < minimum {
            return None;
        }
        let [shim, grub, kernel] = [
            hash(&format!("shim{}", self.shim)),
            hash(&format!("grub{}", self.grub)),
            hash(&format!("kernel{}", self.kernel)),
        ];
        let mut extends = Vec::new();
        let mut measure = |pcr, data: &[u8]| extends.push((pcr, Bank::Sha256.hash(data)));
        for (name, content) in [
            ("SecureBoot", vec![1]),
            ("PK", b"not".to_vec()),
            ("KEK", b"looked at".to_vec()),
        ] {
            measure(7, &variable(GLOBAL, name, &content));
        }
        measure(7, &variable(IMAGE_SECURITY, "db", &db()));
        measure(7, &variable(IMAGE_SECURITY, "dbx", &dbx(self.platform)));
        measure(7, &[0; 4]);
        measure(7, &variable(IMAGE_SECURITY, "db", &entry(&shim)));
        measure(
            7,
            &variable(SHIM_LOCK, "SbatLevel", &level_text(self.level.unwrap())),
        );
        for file in [&grub, &kernel] {
            measure(7, &variable(IMAGE_SECURITY, "vendor_db", &entry(file)));
        }
        measure(14, &vendor_db(self.shim));
        measure(14, &list(&[[0; 32]], &SHIM_LOCK));
        measure(14, &[1]);
        measure(4, b"Calling EFI Application from Boot Option");
        measure(4, &[0; 4]);
        extends.push((4, Digest::new(shim)));
        extends.push((4, Digest::new(grub)));
        for _ in 0..KERNEL_MEASUREMENTS[self.grub] {
            extends.push((4, Digest::new(kernel)));
        }
        Some(extends)
    }
}

pub(crate) const ALL_MOVES: [Move; 6] = [
    Move::Update,
    Move::RollBack,
    Move::CopyBootLoader,
    Move::CopyBootLoaderAndPowerCut,
    Move::UpdateDbx,
    Move::PowerCut,
];

impl Move {
    /// What it changes on a machine that runs `running`.
    pub(crate) fn apply(self, machine: &mut Machine, running: &Machine) {
        match self {
            Self::Update => {
                if let Some((_, to)) = UPDATES.iter().find(|(from, _)| *from == running.kernel) {
                    machine.kernel = *to;
                }
            }
            Self::RollBack => {
                if let Some((from, _)) = UPDATES.iter().find(|(_, to)| *to == running.kernel) {
                    machine.kernel = *from;
                }
            }
            Self::CopyBootLoader => {
                machine.shim = running.kernel;
                machine.grub = running.kernel;
            }
            // shim was written, GRUB not yet.
            Self::CopyBootLoaderAndPowerCut => machine.shim = running.kernel,
            Self::UpdateDbx => machine.platform = 1,
            Self::PowerCut => {}
        }
    }
}

/// Every state that moves lead to, found by trying all of them.
pub(crate) fn reachable_states(partial_esp: bool) -> BTreeSet<Machine> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<Machine> = (0..IMAGES)
        .flat_map(|image| (0..PLATFORMS).map(move |platform| Machine::fresh(image, platform)))
        .collect();
    while let Some(installed) = open.pop() {
        if !seen.insert(installed.clone()) {
            continue;
        }
        let mut running = installed;
        if running.boot().is_none() {
            continue;
        }
        // Any subset of the moves, in any order that matters, before the next power cut.
        for kernel in [None, Some(Move::Update), Some(Move::RollBack)] {
            for loader in [
                None,
                Some(Move::CopyBootLoader),
                partial_esp.then_some(Move::CopyBootLoaderAndPowerCut),
            ] {
                for dbx in [None, Some(Move::UpdateDbx)] {
                    let mut next = running.clone();
                    for step in [kernel, loader, dbx].into_iter().flatten() {
                        step.apply(&mut next, &running);
                    }
                    open.push(next);
                }
            }
        }
    }
    seen
}

/// What lists per PCR would accept.
pub(crate) fn mixtures<'a>(shown: impl Iterator<Item = &'a Pcrs>) -> Vec<Pcrs> {
    let mut by_pcr: BTreeMap<u8, BTreeSet<Digest>> = BTreeMap::new();
    for (pcr, value) in shown.flat_map(Pcrs::iter) {
        by_pcr.entry(pcr).or_default().insert(value.clone());
    }
    let mut all = Vec::new();
    for four in &by_pcr[&4] {
        for seven in &by_pcr[&7] {
            for fourteen in &by_pcr[&14] {
                let mut pcrs = Pcrs::new(Bank::Sha256);
                pcrs.set(4, four.clone());
                pcrs.set(7, seven.clone());
                pcrs.set(14, fourteen.clone());
                all.push(pcrs);
            }
        }
    }
    all
}

pub(crate) fn values(pcrs: &Pcrs) -> [Digest; 3] {
    [4, 7, 14].map(|pcr| pcrs.get(pcr))
}

// ---- The same fleet as facts.

pub(crate) fn rollout(partial_esp: bool) -> Rollout {
    let platform = |number: usize| PlatformFacts {
        platform: format!("platform{number}"),
        secure_boot: true,
        variables: BTreeMap::from(
            [
                ("PK", b"not".to_vec()),
                ("KEK", b"looked at".to_vec()),
                ("db", db()),
                ("dbx", dbx(number)),
            ]
            .map(|(name, content)| (name.to_owned(), Blob::from(content))),
        ),
        ..PlatformFacts::default()
    };
    let image = |number: usize| Approved {
        facts: ImageFacts {
            name: format!("image{number}"),
            shim: Some(ShimFacts {
                file: program(&format!("shim{number}"), None),
                version: ShimVersion {
                    major: 16,
                    minor: 1,
                },
                vendor_authorized: Blob::from(vendor_db(number)),
                vendor_deauthorized: Blob::default(),
                build_certificate: None,
                sbat_levels: Some(SbatLevels {
                    automatic: Blob::from(level_text(LEVELS[number].0)),
                    latest: Blob::default(),
                }),
            }),
            boot_loader: Some(program(
                &format!("grub{number}"),
                Some(format!(
                    "sbat,1,x\ngrub,{},FSF,grub,9.9,url\n",
                    GENERATIONS[number]
                )),
            )),
            kernel: Some(program(&format!("kernel{number}"), None)),
            ..ImageFacts::default()
        },
        path: BootPath {
            kernel_measurements: Some(KERNEL_MEASUREMENTS[number]),
            ..BootPath::new(Route::ShimGrub)
        },
    };
    Rollout {
        images: (0..IMAGES).map(image).collect(),
        updates: UPDATES.to_vec(),
        platforms: (0..PLATFORMS).map(platform).collect(),
        platform_updates: vec![(0, 1)],
        bank: Bank::Sha256,
        phases: vec![],
        partial_esp,
    }
}

/// Its digest is the hash of its name.
fn program(name: &str, sbat: Option<String>) -> PeFacts {
    PeFacts {
        name: name.to_owned(),
        authenticode: Digests::of(name.as_bytes()),
        signatures: vec![],
        sbat,
    }
}

// ---- Bytes, put together by hand.

const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];
const IMAGE_SECURITY: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
const SHIM_LOCK: [u8; 16] = [
    0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23,
];
const SHA256_TYPE: [u8; 16] = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];
const OWNER: [u8; 16] = [7; 16];

fn hash(name: &str) -> [u8; 32] {
    Bank::Sha256
        .hash(name.as_bytes())
        .as_bytes()
        .try_into()
        .unwrap()
}

fn variable(vendor: [u8; 16], name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = vendor.to_vec();
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(name.bytes().flat_map(|byte| [byte, 0]));
    bytes.extend(content);
    bytes
}

fn list(hashes: &[[u8; 32]], owner: &[u8; 16]) -> Vec<u8> {
    let mut bytes = SHA256_TYPE.to_vec();
    for size in [28 + 48 * hashes.len() as u32, 0, 48] {
        bytes.extend(size.to_le_bytes());
    }
    for hash in hashes {
        bytes.extend(owner);
        bytes.extend(hash);
    }
    bytes
}

fn entry(hash: &[u8; 32]) -> Vec<u8> {
    [OWNER.as_slice(), hash].concat()
}

fn db() -> Vec<u8> {
    let shims: Vec<_> = (0..IMAGES)
        .map(|image| hash(&format!("shim{image}")))
        .collect();
    list(&shims, &OWNER)
}

fn dbx(platform: usize) -> Vec<u8> {
    match platform {
        0 => list(&[[1; 32]], &OWNER),
        _ => list(&[[1; 32], hash("shim0")], &OWNER),
    }
}

/// Each shim trusts every GRUB and kernel, and each has its own list.
fn vendor_db(shim: usize) -> Vec<u8> {
    let mut trusted: Vec<_> = (0..IMAGES)
        .flat_map(|image| {
            [
                hash(&format!("grub{image}")),
                hash(&format!("kernel{image}")),
            ]
        })
        .collect();
    trusted.push([u8::try_from(shim).unwrap(); 32]);
    list(&trusted, &OWNER)
}

fn level_text(date: u32) -> Vec<u8> {
    let (_, minimum) = LEVELS.iter().find(|level| level.0 == date).unwrap();
    format!("sbat,1,{date}\ngrub,{minimum}\n").into_bytes()
}

/// xorshift64: the same sequences in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}
