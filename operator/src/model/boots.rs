// SPDX-License-Identifier: Apache-2.0

//! What machines may have booted: tuples of PCR values, launch measurements, firmware levels. Becomes the
//! reference values that the attestation policy compares claims with.

use super::{Error, seals};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::encoding::hex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Everything approved, by the reference value that it becomes. As an `ApprovedImage` writes it down, all of it
/// optional, in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Boots {
    /// What a TPM shows after an approved boot.
    #[serde(rename = "bootTuples")]
    pub tuples: BTreeSet<BootTuple>,
    /// SEV-SNP launch measurements.
    pub snp_measurements: BTreeSet<Measurement>,
    /// Oldest acceptable SEV-SNP firmware, one entry for each generation of processors.
    pub snp_tcb_floors: BTreeSet<TcbFloor>,
    /// TDX launches.
    pub tdx_launches: BTreeSet<TdxLaunch>,
    /// Acceptable states of the TDX platform, such as `UpToDate`.
    pub tdx_tcb_status: BTreeSet<String>,
    /// Launch measurements of Azure's SEV-SNP firmware.
    pub az_snp_measurements: BTreeSet<Measurement>,
    /// MRTD of Azure's TDX firmware.
    pub az_tdx_mr_tds: BTreeSet<Measurement>,
}

/// A platform configuration register, 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pcr(u8);

/// The PCRs (SHA-256) of one boot, which count together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Pcr, String>", into = "BTreeMap<Pcr, String>")]
pub struct BootTuple(BTreeMap<Pcr, String>);

/// The registers (SHA-384) of one TDX launch, which count together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct TdxLaunch(BTreeMap<String, String>);

/// A 384-bit launch measurement, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Measurement(String);

/// The oldest acceptable SEV-SNP firmware; all four must be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbFloor {
    /// Security version of the boot loader.
    pub bootloader: u8,
    /// Security version of the microcode.
    pub microcode: u8,
    /// Security version of the SNP firmware.
    pub snp: u8,
    /// Security version of the PSP operating system.
    pub tee: u8,
}

impl Boots {
    /// Approves what the other approves as well.
    pub fn extend(&mut self, other: Self) {
        self.tuples.extend(other.tuples);
        self.snp_measurements.extend(other.snp_measurements);
        self.snp_tcb_floors.extend(other.snp_tcb_floors);
        self.tdx_launches.extend(other.tdx_launches);
        self.tdx_tcb_status.extend(other.tdx_tcb_status);
        self.az_snp_measurements.extend(other.az_snp_measurements);
        self.az_tdx_mr_tds.extend(other.az_tdx_mr_tds);
    }

    /// Approves no longer what the other approves.
    pub fn remove(&mut self, other: &Self) {
        self.tuples.retain(|one| !other.tuples.contains(one));
        self.snp_measurements
            .retain(|one| !other.snp_measurements.contains(one));
        self.snp_tcb_floors
            .retain(|one| !other.snp_tcb_floors.contains(one));
        self.tdx_launches
            .retain(|one| !other.tdx_launches.contains(one));
        self.tdx_tcb_status
            .retain(|one| !other.tdx_tcb_status.contains(one));
        self.az_snp_measurements
            .retain(|one| !other.az_snp_measurements.contains(one));
        self.az_tdx_mr_tds
            .retain(|one| !other.az_tdx_mr_tds.contains(one));
    }

    /// Whether a TPM with these PCRs has booted one of these and has not left its initramfs: what `attestation.rego` calls
    /// `before_the_seal`.
    pub fn before_the_seal(&self, pcrs: &[[u8; 32]]) -> bool {
        let shows = |pcr: &Pcr, value: &String| {
            let found = pcrs.get(usize::from(pcr.0));
            found.is_some_and(|found| hex::encode(found) == *value)
        };
        self.tuples.iter().any(|BootTuple(members)| {
            let untouched = hex::encode([0; 32]);
            let seal = members.get(&PCR_SEAL).unwrap_or(&untouched);
            shows(&PCR_SEAL, seal) && members.iter().all(|(pcr, value)| shows(pcr, value))
        })
    }

    /// How many values are approved.
    pub fn len(&self) -> usize {
        [
            self.tuples.len(),
            self.snp_measurements.len(),
            self.snp_tcb_floors.len(),
            self.tdx_launches.len(),
            self.tdx_tcb_status.len(),
            self.az_snp_measurements.len(),
            self.az_tdx_mr_tds.len(),
        ]
        .iter()
        .sum()
    }

    /// Whether nothing is approved.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The reference values: name and entries of the list.
    pub(crate) fn lists(&self) -> Vec<(&'static str, Vec<Value>)> {
        fn list<T: Serialize>(entries: &BTreeSet<T>) -> Vec<Value> {
            entries.iter().map(|entry| json!(entry)).collect()
        }
        // The verifier spells this claim in base64 where its sibling is hexadecimal.
        let az_snp = self
            .az_snp_measurements
            .iter()
            .map(|m| json!(m.to_base64()))
            .collect();
        vec![
            ("boot_tuples", list(&self.tuples)),
            ("snp_measurements", list(&self.snp_measurements)),
            ("snp_tcb_floors", list(&self.snp_tcb_floors)),
            ("tdx_launches", list(&self.tdx_launches)),
            ("tdx_tcb_status", list(&self.tdx_tcb_status)),
            ("az_snp_measurements", az_snp),
            ("az_tdx_mr_tds", list(&self.az_tdx_mr_tds)),
            ("seals", self.seals()),
        ]
    }

    /// What the seal's register shows inside the initramfs, and what afterwards: each boot that is approved has several
    /// ends.
    fn seals(&self) -> Vec<Value> {
        let mut seals = BTreeSet::new();
        for BootTuple(members) in &self.tuples {
            let inside = members.get(&PCR_SEAL).cloned();
            let inside = inside.unwrap_or_else(|| hex::encode([0; 32]));
            let after = seals::of_pcr11(&inside).into_iter();
            seals.extend(after.map(|after| (inside.clone(), after)));
        }
        for TdxLaunch(members) in &self.tdx_launches {
            let inside = members.get(RTMR_SEAL).cloned();
            let inside = inside.unwrap_or_else(|| hex::encode([0; 48]));
            let after = seals::of_rtmr3(&inside);
            seals.insert((inside, after));
        }
        let pair = |(before, after)| json!({ "before": before, "after": after });
        seals.into_iter().map(pair).collect()
    }
}

impl Pcr {
    /// The register with this number.
    pub fn new(number: u8) -> Option<Self> {
        (number < 24).then_some(Self(number))
    }

    /// The registers that a tuple names unless a cluster decides otherwise: boot code (4), Secure Boot
    /// policy (7), machine owner keys (14).
    pub fn usual() -> BTreeSet<Self> {
        BTreeSet::from([Self(4), Self(7), Self(14)])
    }
}

impl BootTuple {
    /// Whether it names a register.
    pub fn names(&self, pcr: Pcr) -> bool {
        self.0.contains_key(&pcr)
    }
}

impl Measurement {
    fn to_base64(&self) -> String {
        let (pairs, _) = self.0.as_bytes().as_chunks::<2>();
        let digit = |c: u8| {
            char::from(c)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
                .unwrap_or(0)
        };
        let bytes: Vec<u8> = pairs
            .iter()
            .map(|[h, l]| (digit(*h) << 4) | digit(*l))
            .collect();
        STANDARD.encode(bytes)
    }
}

impl TryFrom<BTreeMap<Pcr, String>> for BootTuple {
    type Error = Error;

    fn try_from(members: BTreeMap<Pcr, String>) -> Result<Self, Error> {
        for value in members.values() {
            digest::<32>("a PCR value", value)?;
        }
        match members.contains_key(&PCR_BOOT_CODE) {
            true => Ok(Self(members)),
            false => Err(Error::Incomplete {
                what: "a boot tuple",
                missing: PCR_BOOT_CODE.to_string(),
            }),
        }
    }
}

impl From<BootTuple> for BTreeMap<Pcr, String> {
    fn from(tuple: BootTuple) -> Self {
        tuple.0
    }
}

impl TryFrom<BTreeMap<String, String>> for TdxLaunch {
    type Error = Error;

    fn try_from(members: BTreeMap<String, String>) -> Result<Self, Error> {
        for (name, value) in &members {
            if !TDX_MEMBERS.contains(&name.as_str()) {
                return Err(Error::malformed(
                    "a register of a TDX launch",
                    name,
                    "mr_td or rtmr_0 to _3",
                ));
            }
            digest::<48>("a TDX register", value)?;
        }
        match TDX_REQUIRED
            .into_iter()
            .find(|name| !members.contains_key(*name))
        {
            None => Ok(Self(members)),
            Some(missing) => Err(Error::Incomplete {
                what: "a TDX launch",
                missing: missing.to_owned(),
            }),
        }
    }
}

impl From<TdxLaunch> for BTreeMap<String, String> {
    fn from(launch: TdxLaunch) -> Self {
        launch.0
    }
}

impl TryFrom<String> for Measurement {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        digest::<48>("a launch measurement", &text)?;
        Ok(Self(text))
    }
}

impl From<Measurement> for String {
    fn from(measurement: Measurement) -> Self {
        measurement.0
    }
}

impl TryFrom<String> for Pcr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        (0..24)
            .map(Self)
            .find(|pcr| pcr.to_string() == text)
            .ok_or_else(|| Error::malformed("a PCR", &text, "pcr00 to pcr23"))
    }
}

impl From<Pcr> for String {
    fn from(pcr: Pcr) -> Self {
        pcr.to_string()
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pcr{:02}", self.0)
    }
}

/// Claims are compared as text, so only the one spelling that verifiers use is good enough.
fn digest<const N: usize>(what: &'static str, text: &str) -> Result<(), Error> {
    let expected = if N == 32 {
        "64 lower-case hexadecimal digits"
    } else {
        "96 lower-case hexadecimal digits"
    };
    match hex::is_lower(text, N) {
        true => Ok(()),
        false => Err(Error::malformed(what, text, expected)),
    }
}

const PCR_BOOT_CODE: Pcr = Pcr(4);
const PCR_SEAL: Pcr = Pcr(11);
const RTMR_SEAL: &str = "rtmr_3";
const TDX_MEMBERS: [&str; 5] = ["mr_td", "rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3"];
const TDX_REQUIRED: [&str; 3] = ["mr_td", "rtmr_1", "rtmr_2"];

#[cfg(test)]
mod tests {
    use super::{BootTuple, Boots, Measurement, Pcr, TcbFloor, TdxLaunch};
    use kbs_protocol::encoding::hex;
    use serde_json::{Value, from_value, json};

    #[test]
    fn tuples_read_and_write_one_spelling() {
        let good = json!({"pcr04": "a".repeat(64), "pcr07": "b".repeat(64)});
        let tuple: BootTuple = from_value(good.clone()).unwrap();
        assert_eq!(json!(tuple), good);
        assert!(tuple.names(Pcr::new(7).unwrap()) && !tuple.names(Pcr::new(14).unwrap()));
        let with = |name: &str, value: &str| json!({"pcr04": "a".repeat(64), name: value});
        for bad in [
            json!({}),
            json!({"pcr07": "b".repeat(64)}),
            with("pcr7", &"b".repeat(64)),
            with("pcr24", &"b".repeat(64)),
            with("PCR07", &"b".repeat(64)),
            with("pcr07", &"B".repeat(64)),
            with("pcr07", &"b".repeat(63)),
            with("pcr07", &"b".repeat(96)),
            with("pcr07", ""),
            json!({"pcr04": null}),
            json!([]),
        ] {
            assert!(from_value::<BootTuple>(bad.clone()).is_err(), "{bad}");
        }
        assert!(Pcr::new(24).is_none());
    }

    #[test]
    fn a_boot_is_whole_and_before_the_seal() {
        let digest = |n: u8| hex::encode([n; 32]);
        let mut pcrs = vec![[0; 32]; 24];
        (pcrs[4], pcrs[7]) = ([4; 32], [7; 32]);
        let approved = |tuples: Value| Boots {
            tuples: from_value(tuples).unwrap(),
            ..Boots::default()
        };
        let grub = approved(json!([{"pcr04": digest(4), "pcr07": digest(7)}]));
        let image = approved(json!([{"pcr04": digest(4), "pcr11": digest(11)}]));
        let mixed = approved(json!([
            {"pcr04": digest(4), "pcr07": digest(8)}, {"pcr04": digest(5), "pcr07": digest(7)},
        ]));
        let hold = |boots: &Boots, pcrs: &[[u8; 32]]| boots.before_the_seal(pcrs);
        assert!(hold(&grub, &pcrs) && !hold(&image, &pcrs) && !hold(&mixed, &pcrs));
        assert!(!hold(&Boots::default(), &pcrs) && !hold(&grub, &pcrs[..8]));
        pcrs[11] = [11; 32];
        assert!(!hold(&grub, &pcrs) && hold(&image, &pcrs));
    }

    #[test]
    fn each_value_of_the_seals_register_has_its_ends() {
        let (digest, register) = (|n: u8| hex::encode([n; 32]), |n: u8| hex::encode([n; 48]));
        let tuple = |pcr04: u8, pcr11: Option<u8>| {
            let mut tuple = json!({"pcr04": digest(pcr04)});
            if let Some(pcr11) = pcr11 {
                tuple["pcr11"] = json!(digest(pcr11));
            }
            tuple
        };
        let launch = |mut more: Value| {
            more["mr_td"] = json!(register(1));
            more["rtmr_1"] = json!(register(1));
            more["rtmr_2"] = json!(register(1));
            more
        };
        let seals = |tuples: Value, launches: Value| {
            let boots = Boots {
                tuples: from_value(tuples).unwrap(),
                tdx_launches: from_value(launches).unwrap(),
                ..Boots::default()
            };
            let inside = boots.seals().into_iter().map(|seal| {
                let text = |name: &str| seal[name].as_str().unwrap().to_owned();
                (text("before"), text("after"))
            });
            inside.collect::<Vec<_>>()
        };
        assert!(seals(json!([]), json!([])).is_empty());
        // Two images of GRUB share the one value; to say that it is untouched changes nothing.
        let grub = seals(
            json!([tuple(1, None), tuple(2, None), tuple(3, Some(0))]),
            json!([]),
        );
        assert_eq!((grub.len(), &grub[0].0), (1, &digest(0)));
        let images = seals(json!([tuple(1, Some(1)), tuple(1, Some(2))]), json!([]));
        let of = |n: u8| {
            images
                .iter()
                .filter(|(inside, _)| *inside == digest(n))
                .count()
        };
        assert_eq!((images.len(), of(1), of(2)), (12, 6, 6));
        let launches = json!([launch(json!({})), launch(json!({"rtmr_3": register(9)}))]);
        let tds = seals(json!([]), launches);
        assert_eq!(
            (tds.len(), &tds[0].0, &tds[1].0),
            (2, &register(0), &register(9))
        );
    }

    #[test]
    fn launches_name_what_they_must() {
        let h = |c: &str| c.repeat(96);
        let good = json!({"mr_td": h("a"), "rtmr_1": h("b"), "rtmr_2": h("c")});
        assert_eq!(json!(from_value::<TdxLaunch>(good.clone()).unwrap()), good);
        for missing in ["mr_td", "rtmr_1", "rtmr_2"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(missing);
            let why = from_value::<TdxLaunch>(bad).unwrap_err().to_string();
            assert!(why.contains(missing), "{why}");
        }
        let with = |name: &str, value: Value| {
            let mut changed = good.clone();
            changed[name] = value;
            from_value::<TdxLaunch>(changed)
        };
        assert!(with("rtmr_3", json!(h("0"))).is_ok());
        assert!(with("rtmr_4", json!(h("0"))).is_err());
        assert!(with("rtmr_0", json!("0".repeat(64))).is_err());
    }

    #[test]
    fn azure_spells_measurements_in_base64() {
        let m: Measurement = from_value(json!("00ff".repeat(24))).unwrap();
        assert_eq!(m.to_base64(), "AP8A/wD/".repeat(8));
        assert!(from_value::<Measurement>(json!("00")).is_err());
    }

    #[test]
    fn floors_are_complete() {
        let good = json!({"bootloader": 3, "microcode": 209, "snp": 20, "tee": 0});
        assert_eq!(
            json!(from_value::<TcbFloor>(good).unwrap())["microcode"],
            209
        );
        assert!(
            from_value::<TcbFloor>(json!({"bootloader": 3, "microcode": 209, "snp": 20})).is_err()
        );
        let more = json!({"bootloader": 3, "microcode": 209, "snp": 20, "tee": 0, "fmc": 1});
        assert!(from_value::<TcbFloor>(more).is_err());
    }
}
