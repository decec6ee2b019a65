// SPDX-License-Identifier: Apache-2.0
//! What it costs to look through an image: `refvals image` on an OCI layout, beside `skopeo copy` of the same layout to
//! a directory, which is what a job has to do that unpacks an image first. Memory is a budget, time is a ratio.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;
use std::time::Duration;

use crate::measure::{Sample, median, samples};

/// What was measured.
pub(crate) struct Images {
    /// Bytes of the layers as they lie in the layout.
    pub bytes: u64,
    pub layers: usize,
    pub ours: Vec<Sample>,
    /// `skopeo copy`, and the same with `--dest-decompress`; `None` where there is no skopeo.
    pub peers: Option<[Vec<Sample>; 2]>,
}

/// Measures both on the layout.
pub(crate) fn measured(refvals: &Path, layout: &Path, runs: usize) -> Result<Images> {
    let scan = || {
        Run::new(refvals)
            .args(["image", "--no-cache"])
            .arg(layout)
            .deadline(DEADLINE)
    };
    // Once for the answer, which must be right before its time counts, and so that nobody pays for a cold disk.
    let facts: Value = serde_json::from_slice(&scan().success()?.stdout)?;
    let is = |name: &str, value: &str| facts.get(name).is_some_and(|fact| fact == value);
    ensure!(
        is("route", "shim-grub") && is("kernel_release", "6.2.0"),
        "the layout was not understood: {facts}"
    );
    let (bytes, layers) = size(layout)?;
    let ours = samples(|| Ok(scan()), runs)?;
    let work = tempfile::tempdir_in(layout.parent().context("the layout has no parent")?)?;
    let copy = |options: &'static [&'static str]| {
        samples(
            || {
                let out = work.path().join("copy");
                if out.exists() {
                    fs::remove_dir_all(&out)?;
                }
                Ok(Run::new("skopeo")
                    .args(["copy", "--quiet", "--insecure-policy"])
                    .args(options)
                    .arg(format!("oci:{}", layout.display()))
                    .arg(format!("dir:{}", out.display()))
                    .deadline(DEADLINE))
            },
            runs,
        )
    };
    let peers = match paths::tool("skopeo") {
        Some(_) => Some([copy(&[])?, copy(&["--dest-decompress"])?]),
        None => {
            paths::skipped(
                "skopeo is not installed, so that nothing stands beside the scan of an image",
            );
            None
        }
    };
    Ok(Images {
        bytes,
        layers,
        ours,
        peers,
    })
}

/// Bytes and number of the layers.
fn size(layout: &Path) -> Result<(u64, usize)> {
    let read = |name: &str| -> Result<Value> {
        let file = layout.join(name);
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let index = read("index.json")?;
    let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str);
    let digest = digest.context("index.json names no manifest")?;
    let manifest = read(&format!("blobs/{}", digest.replace(':', "/")))?;
    let layers = manifest.get("layers").and_then(Value::as_array);
    let layers = layers.context("no layers")?;
    let bytes = layers
        .iter()
        .filter_map(|layer| layer.get("size")?.as_u64())
        .sum();
    Ok((bytes, layers.len()))
}

impl Images {
    /// The table, and the budgets that are exceeded.
    pub(crate) fn render(&self) -> (String, Vec<String>) {
        let mut text = format!(
            "| an image of {} MiB in {} layers | `refvals image` | Budget |",
            self.bytes / MEBIBYTE,
            self.layers
        );
        let peers = self.peers.as_ref().map_or(&[][..], |peers| &peers[..]);
        for (name, _) in ["`skopeo copy` to `dir:`", "… with `--dest-decompress`"]
            .iter()
            .zip(peers)
        {
            text.push_str(&format!(" {name} | ratio |"));
        }
        text.push_str("\n|---|---:|---|");
        text.push_str(&"---:|---:|".repeat(peers.len()));
        text.push('\n');
        for (name, shown, figure, budget) in FIGURES {
            let ours = median(&self.ours, figure);
            text.push_str(&format!("| {name} | {} | {budget} |", shown(ours)));
            for peer in peers {
                let theirs = median(peer, figure);
                text.push_str(&format!(" {} | {} |", shown(theirs), ratio(ours, theirs)));
            }
            text.push('\n');
        }
        // The largest run: a budget that is kept half of the time is not kept.
        let peak = self.ours.iter().map(|sample| sample.peak_kib).max();
        let peak = peak.unwrap_or(u64::MAX);
        let broken = match peak < PEAK_KIB {
            true => Vec::new(),
            false => vec![format!(
                "peak memory of scanning an image: {}, less than {} MiB",
                mebibytes(peak),
                PEAK_KIB / 1024
            )],
        };
        (text, broken)
    }
}

type Figure = (
    &'static str,
    fn(u64) -> String,
    fn(&Sample) -> u64,
    &'static str,
);

const FIGURES: [Figure; 3] = [
    ("wall time", seconds, |sample| sample.wall_micros, "–"),
    ("processor time", seconds, |sample| sample.cpu_micros, "–"),
    (
        "peak memory",
        mebibytes,
        |sample| sample.peak_kib,
        "< 64 MiB",
    ),
];

fn seconds(micros: u64) -> String {
    format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000)
}

fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

fn ratio(ours: u64, theirs: u64) -> String {
    let hundredths = ours * 100 / theirs.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

const MEBIBYTE: u64 = 1024 * 1024;
const PEAK_KIB: u64 = 64 * 1024;
/// For a slow disk and an unoptimised program.
const DEADLINE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::{Images, PEAK_KIB};
    use crate::measure::Sample;

    fn images(peaks: &[u64], has_peer: bool) -> Images {
        let sample = |peak_kib: &u64| Sample {
            wall_micros: 2_500_000,
            cpu_micros: 1_000_000,
            peak_kib: *peak_kib,
        };
        let theirs = Sample {
            wall_micros: 5_000_000,
            cpu_micros: 4_000_000,
            peak_kib: 80 * 1024,
        };
        Images {
            bytes: 1024 * 1024 * 1024,
            layers: 8,
            ours: peaks.iter().map(sample).collect(),
            peers: has_peer.then(|| [vec![theirs.clone()], vec![theirs]]),
        }
    }

    #[test]
    fn one_run_over_the_budget_breaks_it() {
        let below = PEAK_KIB - 1;
        assert!(images(&[below; 3], true).render().1.is_empty());
        let (_, broken) = images(&[below, below, PEAK_KIB], true).render();
        assert_eq!(
            broken,
            ["peak memory of scanning an image: 64.0 MiB, less than 64 MiB"]
        );
    }

    #[test]
    fn every_row_has_all_columns() {
        for (has_peer, columns) in [(true, 7), (false, 3)] {
            let (table, _) = images(&[40 * 1024], has_peer).render();
            for line in table.lines() {
                let cells = line.trim_matches('|').split('|').count();
                assert_eq!(cells, columns, "{table}");
            }
        }
        let (table, _) = images(&[40 * 1024], true).render();
        assert!(
            table.contains("| wall time | 2.5 s | – | 5.0 s | 0.50 |"),
            "{table}"
        );
    }
}
