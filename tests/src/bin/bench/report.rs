// SPDX-License-Identifier: Apache-2.0
//! The table: one row per figure, with its budget beside it.

use std::fmt::Write as _;
use std::fs;

use crate::footprint::Footprint;
use crate::measure::{Sample, median};
use crate::run::{Distance, Figures};

/// Everything that was measured.
pub(crate) struct Report<'a> {
    pub runs: usize,
    pub footprint: &'a Footprint,
    pub ours: &'a Figures,
    pub peer: Option<&'a Figures>,
    pub peer_footprint: Option<&'a Footprint>,
}

/// One line of the table.
struct Row {
    name: String,
    ours: String,
    budget: String,
    peer: Option<String>,
}

impl Report<'_> {
    /// The table as Markdown, and the budgets that are exceeded.
    pub(crate) fn render(&self) -> (String, Vec<String>) {
        let mut broken = Vec::new();
        let mut rows = self.footprint_rows(&mut broken);
        rows.extend(self.count_rows(&mut broken));
        rows.extend(self.time_rows());

        let mut text = format!(
            "Made by `make bench` on {}. Medians of {} runs; KBS and software TPM on the same machine, the \
             KBS unoptimised.\n\n",
            machine(),
            self.runs
        );
        let (head, line) = if self.peer.is_some() {
            (
                "| | Sheepfold | Budget | trustee-attester + clevis-pin-trustee |",
                "|---|---|---|---|",
            )
        } else {
            ("| | Sheepfold | Budget |", "|---|---|---|")
        };
        let _ = writeln!(text, "{head}\n{line}");
        for row in rows {
            let _ = write!(text, "| {} | {} | {} |", row.name, row.ours, row.budget);
            if self.peer.is_some() {
                let _ = write!(text, " {} |", row.peer.as_deref().unwrap_or("–"));
            }
            text.push('\n');
        }
        let _ = write!(text, "\n{}", self.notes());
        (text, broken)
    }

    fn footprint_rows(&self, broken: &mut Vec<String>) -> Vec<Row> {
        let ours = self.footprint;
        let peer = self.peer_footprint;
        let mut budget = |name: &str, value: u64, limit: u64| {
            if value > limit {
                broken.push(format!(
                    "{name}: {}, at most {}",
                    bytes(value),
                    bytes(limit)
                ));
            }
            format!("≤ {}", bytes(limit))
        };
        let size = budget("agent", ours.bytes, AGENT_BYTES);
        let compressed = budget("agent after zstd -19", ours.compressed, COMPRESSED_BYTES);
        let surprising = ours.surprising_libraries();
        if !surprising.is_empty() {
            broken.push(format!(
                "libraries beyond tpm2-tss: {}",
                surprising.join(", ")
            ));
        }
        if ours.has_regex {
            broken.push("a regular expression engine is linked into the agent".to_owned());
        }
        let libraries = |footprint: &Footprint| {
            format!(
                "{} in {}",
                bytes(footprint.library_bytes()),
                footprint.libraries.len()
            )
        };
        vec![
            row(
                "Agent, as installed (stripped)",
                bytes(ours.bytes),
                size,
                peer.map(|p| bytes(p.bytes)),
            ),
            row(
                "The same in an initramfs (`zstd -19`)",
                bytes(ours.compressed),
                compressed,
                peer.map(|p| bytes(p.compressed)),
            ),
            row(
                "Agent that also speaks to software TPMs",
                ours.with_software_tpm.map(bytes).unwrap_or_default(),
                "–".to_owned(),
                None,
            ),
            row(
                "Shared libraries beside those of libcryptsetup",
                libraries(ours),
                "tpm2-tss, libgcc_s".to_owned(),
                peer.map(libraries),
            ),
        ]
    }

    fn count_rows(&self, broken: &mut Vec<String>) -> Vec<Row> {
        let mut budget = |name: &str, value: u128, limit: u128| {
            if value > limit {
                broken.push(format!("{name}: {value}, at most {limit}"));
            }
            format!("≤ {limit}")
        };
        let commands = self.ours.tpm_commands.as_ref().map_or(0, Vec::len);
        let commands_budget = budget(
            "TPM commands per handshake",
            commands.try_into().unwrap_or(u128::MAX),
            TPM_COMMANDS,
        );
        let connections_budget =
            budget("TCP connections", self.ours.connections.into(), CONNECTIONS);
        let trips = self.ours.round_trips();
        let trips_budget = budget("round trips", trips, ROUND_TRIPS);
        vec![
            row(
                "TPM commands per handshake",
                commands.to_string(),
                commands_budget,
                None,
            ),
            row(
                "TCP connections per handshake",
                self.ours.connections.to_string(),
                connections_budget,
                self.peer.map(|p| p.connections.to_string()),
            ),
            row(
                "Round trips, from no connection to the secret",
                trips.to_string(),
                trips_budget,
                self.peer.map(|p| p.round_trips().to_string()),
            ),
        ]
    }

    fn time_rows(&self) -> Vec<Row> {
        let (ours, peer) = (self.ours, self.peer);
        let mut rows = Vec::new();
        type Part = fn(&Figures) -> &Vec<Sample>;
        let parts: [(&str, Part); 2] = [
            ("`fetch`", |f| &f.fetch),
            ("the pin opening a token", |f| &f.pin),
        ];
        type Shown = fn(&Medians) -> String;
        let figures: [(&str, Shown, &str); 3] = [
            ("wall time", |m| millis(m.wall_micros), "–"),
            ("own processor time", |m| millis(m.cpu_micros), "≤ 10 ms"),
            ("peak memory", |m| mebibytes(m.peak_kib), "≤ 12 MiB"),
        ];
        for (name, part) in parts {
            for (what, shown, budget) in figures {
                let of = |figures: &Figures| shown(&Medians::of(part(figures)));
                rows.push(row(
                    &format!("{name}: {what}"),
                    of(ours),
                    budget.to_owned(),
                    peer.map(of),
                ));
            }
        }
        if let Some(clevis) = &ours.clevis {
            let wall = millis(Medians::of(clevis).wall_micros);
            rows.push(row(
                "`clevis decrypt` around it: wall time",
                wall,
                "–".to_owned(),
                None,
            ));
        }
        for (at, distance) in ours.by_rtt.iter().enumerate() {
            let shown = |distance: &Distance| format!("{} ms", distance.median.as_millis());
            rows.push(row(
                &format!("`fetch` at {} ms round-trip time", distance.rtt.as_millis()),
                shown(distance),
                "–".to_owned(),
                peer.and_then(|p| p.by_rtt.get(at)).map(shown),
            ));
        }
        rows
    }

    fn notes(&self) -> String {
        let names: Vec<&str> = self
            .footprint
            .libraries
            .keys()
            .map(String::as_str)
            .collect();
        let mut text = format!("Libraries: {}.\n", names.join(", "));
        if let Some(commands) = &self.ours.tpm_commands {
            let _ = writeln!(text, "TPM commands: {}.", commands.join(", "));
        }
        if self.peer.is_some() {
            text.push_str(
                "The other programs ran in the same run without a TPM, with `sample` evidence, which is \
                 less work than a quote; their pin over plain HTTP.\n",
            );
        }
        text
    }
}

struct Medians {
    wall_micros: u64,
    cpu_micros: u64,
    peak_kib: u64,
}

impl Medians {
    fn of(samples: &[Sample]) -> Self {
        Self {
            wall_micros: median(samples, |s| s.wall_micros),
            cpu_micros: median(samples, |s| s.cpu_micros),
            peak_kib: median(samples, |s| s.peak_kib),
        }
    }
}

fn row(name: &str, ours: String, budget: String, peer: Option<String>) -> Row {
    Row {
        name: name.to_owned(),
        ours,
        budget,
        peer,
    }
}

/// Cores and kernel: enough to judge the times, nothing that names the machine.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
    format!(
        "{cores} cores, {}, Linux {}",
        std::env::consts::ARCH,
        release.join(".")
    )
}

fn bytes(value: u64) -> String {
    let kib = value.div_ceil(1024);
    if kib < 1024 {
        format!("{kib} KiB")
    } else {
        format!("{}.{:02} MiB", kib / 1024, kib % 1024 * 100 / 1024)
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

const AGENT_BYTES: u64 = 15 * 1024 * 1024 / 4;
const COMPRESSED_BYTES: u64 = 8 * 1024 * 1024 / 5;
const TPM_COMMANDS: u128 = 6;
const CONNECTIONS: u128 = 1;
const ROUND_TRIPS: u128 = 6;
