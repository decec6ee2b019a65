// SPDX-License-Identifier: Apache-2.0

//! The judgement: facts in, an answer in words out. No file is opened here.

use super::{Answer, Verdict};
use crate::Error;
use measured_boot::bank::Bank;
use measured_boot::calibrate::{Calibration, calibrate};
use measured_boot::combine::Tuple;
use measured_boot::eventlog::EventLog;
use measured_boot::explain::{Cause, Difference, not_replayed};
use measured_boot::facts::ImageFacts;
use measured_boot::path::BootPath;
use measured_boot::platform::PlatformFacts;
use measured_boot::predict::{Prediction, candidates};
use measured_boot::replay::Pcrs;
use std::collections::BTreeSet;

/// What the answer depends on.
#[derive(Debug, Clone)]
pub struct Question {
    /// What the next boot will run.
    pub next: ImageFacts,
    /// Along which way.
    pub next_path: BootPath,
    /// What the present boot would run with the files of now.
    pub running: ImageFacts,
    /// Along which way.
    pub running_path: BootPath,
    /// The variables as they are now.
    pub platform: PlatformFacts,
    /// What the present boot left behind.
    pub observed: Observed,
    /// The boots that are approved.
    pub approved: Vec<Tuple>,
    /// The bank of all of these.
    pub bank: Bank,
}

/// What a boot leaves behind on its machine.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Firmware's log. Some boot loaders start the kernel so that there is none.
    pub log: Option<EventLog>,
    /// PCR values as the kernel shows them.
    pub pcrs: Option<Pcrs>,
}

/// Answers.
///
/// # Errors
/// [`Error::Boot`] for an image, a platform or a log that cannot be judged; that a machine will not start is an answer
/// and no error.
pub fn judge(question: &Question) -> Result<Answer, Error> {
    let present = present(question)?;
    let mut remarks = present.remarks;
    let next = BootPath {
        failed_boot_options: present.path.failed_boot_options,
        // Counted for the boot loader that is on the ESP, which the next boot runs too.
        kernel_measurements: present.path.kernel_measurements,
        ..question.next_path.clone()
    };
    let predictions = match candidates(&question.next, &question.platform, &next) {
        Err(error) if error.means_no_boot() => {
            return Ok(Answer {
                unlocks: Verdict::No,
                sentence: format!("the next boot will not start: {error}"),
                remarks,
                boots: Vec::new(),
            });
        }
        predictions => predictions?,
    };
    let mut boots = Vec::new();
    for prediction in &predictions {
        boots.push(Tuple::of(prediction, question.bank)?);
        remarks.extend(
            prediction
                .unobserved
                .iter()
                .map(|what| format!("nobody has seen yet: {what}")),
        );
    }
    remarks.dedup();
    let (unlocks, sentence) = match present.misunderstood {
        Some(why) => (
            Verdict::Unknown,
            format!("nobody can say what the next boot shows, because {why}"),
        ),
        None if question.approved.is_empty() => unlisted(question, &predictions)?,
        None => listed(question, &boots),
    };
    Ok(Answer {
        unlocks,
        sentence,
        remarks,
        boots,
    })
}

/// The present boot, as far as it is understood.
struct Present {
    path: BootPath,
    remarks: Vec<String>,
    misunderstood: Option<String>,
}

fn present(question: &Question) -> Result<Present, Error> {
    let path = &question.running_path;
    let not_understood = |why: String| Present {
        path: path.clone(),
        remarks: Vec::new(),
        misunderstood: Some(why),
    };
    let Some(log) = &question.observed.log else {
        return without_log(question);
    };
    if let Some(pcrs) = &question.observed.pcrs {
        let other = not_replayed(log, pcrs, &FIRMWARE_ONLY)?;
        if !other.is_empty() {
            return Ok(not_understood(format!(
                "this machine's event log does not lead to what its TPM shows in PCR {}",
                words(&other)
            )));
        }
    }
    let calibrated = calibrate(
        log,
        &question.running,
        &question.platform,
        path,
        question.bank,
    );
    let Calibration { path, differences } = match calibrated {
        // With the files and variables of now, what is running would not start. Then nothing can be compared.
        Err(error) if error.means_no_boot() => {
            return Ok(not_understood(format!(
                "with what is installed now the present boot would not start: {error}"
            )));
        }
        calibrated => calibrated?,
    };
    let (since, strange): (Vec<&Difference>, Vec<&Difference>) = differences
        .iter()
        .partition(|difference| may_have_changed_since(&difference.cause));
    let mut remarks: Vec<String> = since
        .iter()
        .map(|difference| format!("changed since this machine booted, it seems: {difference}"))
        .collect();
    if path.failed_boot_options > 0 {
        remarks.push(format!(
            "{} boot options failed before the present boot, and will do so again",
            path.failed_boot_options
        ));
    }
    Ok(Present {
        path,
        remarks,
        misunderstood: strange
            .first()
            .map(|difference| format!("the present boot is not understood: {difference}")),
    })
}

/// Without a log only the PCRs themselves can be compared.
fn without_log(question: &Question) -> Result<Present, Error> {
    let path = question.running_path.clone();
    let why = match &question.observed.pcrs {
        None => "this machine shows neither an event log nor PCRs",
        Some(_) => {
            let predictions = candidates(&question.running, &question.platform, &path);
            let predictions = match predictions {
                Err(error) if error.means_no_boot() => Vec::new(),
                predictions => predictions?,
            };
            for prediction in predictions {
                if other_than_now(&prediction, &question.observed, question.bank)?.is_empty() {
                    let kernel_measurements = Some(prediction.kernel_measurements);
                    return Ok(Present {
                        path: BootPath {
                            kernel_measurements,
                            ..path
                        },
                        remarks: Vec::new(),
                        misunderstood: None,
                    });
                }
            }
            "the PCRs of the present boot are not those that its files lead to, and there is no event log to say why"
        }
    };
    Ok(Present {
        path,
        remarks: Vec::new(),
        misunderstood: Some(why.to_owned()),
    })
}

/// Files and variables are those of now, the log is that of the boot.
fn may_have_changed_since(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::OtherProgram | Cause::OtherVariable { .. } | Cause::OtherAuthority { .. }
    )
}

/// Nobody said what is approved; but this boot was.
fn unlisted(question: &Question, next: &[Prediction]) -> Result<(Verdict, String), Error> {
    let mut others = BTreeSet::new();
    for prediction in next {
        others.extend(other_than_now(
            prediction,
            &question.observed,
            question.bank,
        )?);
    }
    let others: Vec<u8> = others.into_iter().collect();
    Ok(match others.is_empty() {
        true => (
            Verdict::Yes,
            "the next boot shows what this one shows, and unlocks if this one did".to_owned(),
        ),
        false => (
            Verdict::Unknown,
            format!(
                "the next boot shows another PCR {} than this one, and nobody said what is approved: name the list \
                 with --approved",
                words(&others)
            ),
        ),
    })
}

fn listed(question: &Question, next: &[Tuple]) -> (Verdict, String) {
    let holds = |approved: &Tuple, next: &Tuple| differing(approved, next).is_empty();
    let is_approved = |next: &Tuple| question.approved.iter().any(|one| holds(one, next));
    let good = next.iter().filter(|next| is_approved(next)).count();
    if good == next.len() && good > 0 {
        return (
            Verdict::Yes,
            "the next boot is an approved one and will unlock".to_owned(),
        );
    }
    if good > 0 {
        let sentence = "the next boot may unlock or not: nobody has counted how often its boot loader measures the \
                        kernel; state --kernel-measurements";
        return (Verdict::Unknown, sentence.to_owned());
    }
    let closest = question
        .approved
        .iter()
        .flat_map(|approved| next.iter().map(move |next| differing(approved, next)))
        .min_by_key(Vec::len)
        .unwrap_or_default();
    let unknown = |pcr: &u8| next.iter().all(|next| next.get(*pcr).is_none());
    let (unpredicted, differing): (Vec<u8>, Vec<u8>) = closest.into_iter().partition(unknown);
    match differing.is_empty() {
        true => (
            Verdict::Unknown,
            format!(
                "the approved boots name PCR {}, which cannot be predicted",
                words(&unpredicted)
            ),
        ),
        false => (
            Verdict::No,
            format!(
                "the next boot is not approved and will not unlock: the closest approved boot has another PCR {}; \
                 approve the image first",
                words(&differing)
            ),
        ),
    }
}

/// The PCRs in which a boot is not the approved one.
fn differing(approved: &Tuple, next: &Tuple) -> Vec<u8> {
    (0..24)
        .filter(|pcr| approved.get(*pcr).is_some() && approved.get(*pcr) != next.get(*pcr))
        .collect()
}

/// The PCRs in which a boot differs from the present one, before the operating system extends anything. systemd extends
/// PCR 11 once the log is closed, so that only a log can be compared with it.
fn other_than_now(
    prediction: &Prediction,
    observed: &Observed,
    bank: Bank,
) -> Result<Vec<u8>, Error> {
    let mut early = prediction.clone();
    early.events.retain(|event| !event.runtime);
    let next = early.pcrs(bank)?;
    let (now, left_out) = match (&observed.log, &observed.pcrs) {
        (Some(log), _) => (log.replay(bank)?, None),
        (None, Some(pcrs)) => (pcrs.clone(), Some(EXTENDED_BY_SYSTEMD)),
        (None, None) => (Pcrs::new(bank), None),
    };
    let is_other = |pcr: &u8| Some(*pcr) != left_out && now.get(*pcr) != next.get(*pcr);
    Ok(prediction.pcrs.iter().copied().filter(is_other).collect())
}

fn words(pcrs: &[u8]) -> String {
    let texts: Vec<String> = pcrs.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// PCRs that nothing extends once the operating system runs.
const FIRMWARE_ONLY: [u8; 3] = [4, 7, 14];
const EXTENDED_BY_SYSTEMD: u8 = 11;
