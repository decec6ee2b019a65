// SPDX-License-Identifier: Apache-2.0

//! `refvals preflight`: what to look at, and how the answer looks.

use super::arguments::{Bank, How, Path};
use super::output::{say, write_whole};
use super::{NO, pretty};
use crate::preflight::{Answer, Node, Question, Verdict, approved, judge, with_boot_loader_of};
use crate::{Error, platform, source};
use clap::{Args, ValueEnum};
use measured_boot::eventlog::EventLog;
use measured_boot::facts::ImageFacts;
use measured_boot::image::Choice;
use serde_json::json;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What the next boot runs; default: the staged deployment, else the one that boots next.
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    how: How,
    /// Boots that are approved: an ApprovedImage, or what `predict` and `combine` write. Without it only a boot that
    /// shows the same as this one is known to unlock.
    #[arg(long, value_name = "FILE")]
    approved: Vec<PathBuf>,
    /// What runs now; default: the running deployment.
    #[arg(long, value_name = "IMAGE")]
    running: Option<String>,
    /// The boot loader that firmware starts; default: the ESP of this machine.
    #[arg(long, value_name = "IMAGE")]
    esp: Option<String>,
    /// The variables of firmware; default: those of this machine.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// The log of this boot; default: that of this machine.
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    #[command(flatten)]
    path: Path,
    #[command(flatten)]
    bank: Bank,
    /// Where this machine's files begin.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Leave the answer for `trustee-agent status` in this file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = RECORD)]
    record: Option<PathBuf>,
    /// For whom.
    #[arg(long, value_enum, default_value = "text")]
    format: For,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum For {
    /// For people.
    Text,
    /// For programs.
    Json,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let (what, answer) = answer(arguments)?;
    let json = json!({
        "unlocks": answer.unlocks,
        "sentence": answer.sentence,
        "boot": what,
        "remarks": answer.remarks,
        "boots": answer.boots,
    });
    if let Some(file) = &arguments.record {
        // The agent's own directory, which is private.
        if let Some(parent) = file.parent().filter(|parent| !parent.exists()) {
            let made = DirBuilder::new().mode(0o700).create(parent);
            made.map_err(Error::io("make", parent))?;
        }
        write_whole(file, &pretty(&json))?;
    }
    match arguments.format {
        For::Json => say(&pretty(&json)),
        For::Text => say(&text(&what, &answer)),
    }
    Ok(match answer.unlocks {
        Verdict::Yes => ExitCode::SUCCESS,
        Verdict::No => ExitCode::from(NO),
        Verdict::Unknown => ExitCode::from(UNKNOWN),
    })
}

/// What boots next, and what to expect of it.
fn answer(arguments: &Arguments) -> Result<(String, Answer), Error> {
    let node = Node::new(&arguments.root);
    let bank = arguments.bank.get();
    let (what, next) = next(arguments, &node)?;
    let esp = match (&arguments.esp, node.esp()) {
        (Some(esp), _) => Some(arguments.how.load(esp)?),
        (None, Some(esp)) => {
            let name = esp.display().to_string();
            Some(source::directory(&esp, &name, &arguments.how.choice())?)
        }
        (None, None) => None,
    };
    let running = match (&arguments.running, node.running_deployment()) {
        (Some(running), _) => arguments.how.load(running)?,
        (None, Ok(Some(running))) => of_deployment(&running.path, &running.name)?,
        // The same files boot again.
        (None, Ok(None)) => next.clone(),
        (None, Err(error)) => return Err(error),
    };
    let [next, running] = [next, running].map(|image| match &esp {
        Some(esp) => with_boot_loader_of(image, esp),
        None => image,
    });
    let platform = match &arguments.platform {
        Some(source) => platform::load(source, None)?,
        None => node.platform(&next)?,
    };
    let mut observed = node.observed(bank)?;
    if let Some(file) = &arguments.event_log {
        let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
        observed.log = Some(EventLog::parse(&bytes)?);
    }
    let mut boots = Vec::new();
    for file in &arguments.approved {
        boots.extend(approved(file)?);
    }
    let route = arguments.how.choice().route;
    let on_its_way = |image: ImageFacts| {
        let route = route.or(image.route);
        ImageFacts { route, ..image }
    };
    let (next, running) = (on_its_way(next), on_its_way(running));
    let question = Question {
        next_path: arguments.path.along(&next)?,
        running_path: arguments.path.along(&running)?,
        next,
        running,
        platform,
        observed,
        approved: boots,
        bank,
    };
    let mut answer = judge(&question)?;
    if esp.is_none() && arguments.image.is_none() {
        let why = "no ESP is mounted: taken is the boot loader that lies in the deployment";
        answer.remarks.insert(0, why.to_owned());
    }
    Ok((what, answer))
}

fn next(arguments: &Arguments, node: &Node) -> Result<(String, ImageFacts), Error> {
    if let Some(image) = &arguments.image {
        let facts = arguments.how.load(image)?;
        return Ok((facts.name.clone(), facts));
    }
    let deployment = node.next_deployment()?.ok_or(Error::NoDeployment)?;
    let what = match deployment.is_staged {
        true => format!("the staged deployment {}", deployment.name),
        false => format!("the deployment {}", deployment.name),
    };
    Ok((what, of_deployment(&deployment.path, &deployment.name)?))
}

/// A deployment holds one kernel, whatever a person selects on the ESP.
fn of_deployment(path: &std::path::Path, name: &str) -> Result<ImageFacts, Error> {
    source::directory(path, name, &Choice::default())
}

fn text(what: &str, answer: &Answer) -> String {
    let mut text = format!("{}\n  next boot: {what}\n", answer.sentence);
    for remark in &answer.remarks {
        text += &format!("  ! {remark}\n");
    }
    for boot in &answer.boots {
        for pcr in 0..24 {
            if let Some(value) = boot.get(pcr) {
                text += &format!("  pcr{pcr:02}  {value}\n");
            }
        }
    }
    text
}

/// Nobody can say.
const UNKNOWN: u8 = 3;
const RECORD: &str = "/run/trustee/preflight.json";
