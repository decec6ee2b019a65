// SPDX-License-Identifier: Apache-2.0

//! The command line of `sheepfold-operator`, and how results and errors look: text for people, with `--json`
//! one object on standard output for programs. No secret passes through here.

mod output;

use crate::bundle;
use crate::controllers::{self, Settings};
use crate::provision::{self, Directory, Error, Options, Outcome, Run, Wishes, diff};
use crate::register::{
    self,
    cli::{Of, Task},
};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use kbs_protocol::NodeId;
use output::{FEW, Progress, failure, say};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Takes in nodes, and tells a Trustee KBS what it has to know so that each gets its own secret.
///
/// Exit codes: 0 done, 2 usage, 10 configuration, 11 machine, 12 network, 13 server, 14 policy, 15 data.
#[derive(Debug, Parser)]
#[command(name = "sheepfold-operator", version)]
struct Invocation {
    /// Results and errors as one JSON object on standard output.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    duty: Duty,
}

#[derive(Debug, Subcommand)]
enum Duty {
    /// Take in nodes that prove that their attestation key lives in a known TPM.
    Register {
        /// The registrar's configuration. Without it, `--list` and `--approve` are about the list in KUBECONFIG's cluster.
        #[arg(long, required_unless_present_any = ["list", "approve"])]
        config: Option<PathBuf>,
        /// Show who enrolled, and leave.
        #[arg(long, conflicts_with = "approve")]
        list: bool,
        /// Let a held key replace the approved one of its TPM, and leave.
        #[arg(long, value_name = "NODE")]
        approve: Option<NodeId>,
        /// Without a configuration: the namespace; default: that of KUBECONFIG's context.
        #[arg(long, conflicts_with = "config")]
        namespace: Option<String>,
    },
    /// Serve the objects of a Kubernetes namespace (docs/kubernetes.md).
    Run {
        /// The namespace; default: that of the service account, or of KUBECONFIG's context.
        #[arg(long)]
        namespace: Option<String>,
        /// The name under which it holds the lease; default: the host's name and the process id.
        #[arg(long)]
        identity: Option<String>,
        /// Ask the KBS so often whether it still has its storage.
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
        probe: u64,
        /// Write the policies again so often, and compare some of the reference values.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
        refresh: u64,
        /// Look for the KBS at this address, whatever DNS says: for an operator outside of the cluster.
        #[arg(long, value_name = "IP")]
        kbs_address: Option<IpAddr>,
        /// Answer `GET /metrics` here, in Prometheus' text format, over plain HTTP.
        #[arg(long, value_name = "ADDRESS:PORT")]
        metrics: Option<SocketAddr>,
        /// Be a bootstrap provider of Cluster API as well (operator/deploy/capi).
        #[arg(long)]
        cluster_api: bool,
        /// Keep facts about images here, by digest, so that nothing is pulled twice; default: as refvals.
        #[arg(long, value_name = "DIR")]
        image_cache: Option<PathBuf>,
        /// The largest image that is looked through, as its registry sends it.
        #[arg(long, value_name = "GIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
        image_limit: u64,
    },
    /// Print the CustomResourceDefinitions.
    Crds {
        /// Those for Cluster API instead.
        #[arg(long)]
        cluster_api: bool,
    },
    /// Write the bundle for the Operator Lifecycle Manager.
    Bundle {
        /// The directory that gets it.
        dir: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    #[command(flatten)]
    Cluster(Command),
}

/// What is done to the cluster that a directory describes.
#[derive(Debug, Subcommand)]
enum Command {
    /// Apply a directory of Cluster, ApprovedImage and Machine files to the KBS.
    Provision {
        /// The directory.
        dir: PathBuf,
        /// Show what would change; ask nobody, change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Ask the KBS for its reference values first, and write again what somebody changed.
        #[arg(long, conflicts_with = "dry_run")]
        verify: bool,
        /// Begin with an empty record: EVERY secret is made anew, no existing disk opens with them.
        #[arg(long)]
        new_record: bool,
        /// Delete the secrets of machines that are no longer in the directory, however many.
        #[arg(long)]
        remove_many: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Begin a cluster from outside: provision its first nodes, then hand over to the operator inside.
    Bootstrap {
        /// The directory, as for `provision`.
        dir: PathBuf,
        /// Give the directory's objects and the memory of its KBS to the operator of KUBECONFIG's cluster. No secret is
        /// made anew and no disk changes; the directory is done with.
        #[arg(long)]
        hand_over: bool,
        /// The namespace; default: that of KUBECONFIG's context.
        #[arg(long, requires = "hand_over")]
        namespace: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Show each machine, and whether the KBS has what is wanted. Without a directory: how KUBECONFIG's cluster stands.
    Status {
        /// The directory.
        dir: Option<PathBuf>,
        /// Of a cluster: the namespace; default: that of KUBECONFIG's context.
        #[arg(long, conflicts_with = "dir")]
        namespace: Option<String>,
        /// Of a cluster: also the machines with which nothing is wrong.
        #[arg(long, conflicts_with = "dir")]
        all: bool,
        /// Compare with the record only, do not ask the KBS.
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Write everything about KUBECONFIG's cluster that helps somebody else, and nothing secret, into a new directory.
    MustGather {
        /// The directory to make.
        #[arg(long, default_value = "sheepfold-must-gather")]
        to: PathBuf,
        /// The namespace; default: that of KUBECONFIG's context.
        #[arg(long)]
        namespace: Option<String>,
    },
    /// Give a machine a new secret; the old one is kept until `rebound`.
    Rotate {
        #[command(flatten)]
        machine: Machine,
        #[command(flatten)]
        place: Place,
    },
    /// Say that a machine has bound its volume to the new secret: the old one is deleted.
    Rebound {
        #[command(flatten)]
        machine: Machine,
        #[command(flatten)]
        place: Place,
    },
    /// Say that a volume is going to be made anew: its old key is forgotten, the next one that is recorded counts.
    RenewVolume {
        #[command(flatten)]
        machine: Machine,
        #[command(flatten)]
        place: Place,
    },
    /// Take everything from a machine at once, whatever its file says.
    Revoke {
        /// `metadata.name` or id of the machine.
        node: String,
        /// Take the revocation back; the machine's file decides again.
        #[arg(long)]
        undo: bool,
        /// The directory.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Machine {
    /// `metadata.name` or id of the machine.
    node: String,
    /// Its volume; default: all of them.
    #[arg(long)]
    volume: Option<String>,
    /// The directory.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct Place {
    /// Where the record lies; default: `<DIR>.state` beside the directory.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Another address of the KBS than the Cluster says.
    #[arg(long)]
    url: Option<String>,
    /// Manage a KBS that believes self-signed tokens: everybody who reaches it can read every secret.
    #[arg(long)]
    allow_insecure_kbs: bool,
}

/// Runs the command line; the arguments begin with the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match Invocation::try_parse_from(as_plugin(args)) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help is no error: clap knows, and chooses the stream.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    let command = match invocation.duty {
        Duty::Cluster(command) => command,
        Duty::Register {
            config,
            list,
            approve,
            namespace,
        } => {
            let listing = if list { Task::List } else { Task::Serve };
            let of = config.map_or(Of::Cluster(namespace), Of::Configuration);
            return register::cli::run(&approve.map_or(listing, Task::Approve), of);
        }
        Duty::Run {
            namespace,
            identity,
            probe,
            refresh,
            kbs_address,
            metrics,
            cluster_api,
            image_cache,
            image_limit,
        } => {
            let mut settings = Settings::new(&identity.unwrap_or_else(this_process));
            settings.namespace = namespace;
            settings.probe = Duration::from_secs(probe);
            settings.refresh = Duration::from_secs(refresh);
            settings.kbs_address = kbs_address;
            settings.metrics = metrics;
            settings.cluster_api = cluster_api;
            settings.image_cache = image_cache.or_else(refvals::source::usual_cache);
            settings.image_bytes = image_limit.saturating_mul(GIB);
            return match controllers::run(&settings, None) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failure(&error, invocation.json),
            };
        }
        Duty::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Invocation::command();
            clap_complete::generate(shell, &mut command, "sheepfold-operator", &mut script);
            // In a bash script of clap_complete 4.6.12, what a program's commands complete to is listed under another
            // name than it is looked for, where the program has a dash in its name.
            let script = String::from_utf8_lossy(&script);
            say(&script.replace("sheepfold__subcmd__operator", "sheepfold__operator"));
            return ExitCode::SUCCESS;
        }
        Duty::Bundle { dir } => {
            return match write_bundle(&dir) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failure(&error, invocation.json),
            };
        }
        Duty::Crds { cluster_api } => {
            let text = match cluster_api {
                true => controllers::capi::crds_yaml(),
                false => controllers::api::crds_yaml(),
            };
            return match text {
                Ok(text) => {
                    say(&text);
                    ExitCode::SUCCESS
                }
                Err(error) => failure(&controllers::Error::Cluster(error.to_string()), false),
            };
        }
    };
    match execute(command) {
        Ok(report) => report.print(invocation.json),
        Err(error) => failure(&error, invocation.json),
    }
}

fn write_bundle(dir: &Path) -> Result<(), Error> {
    let files = bundle::files().map_err(|why| Error::Directory {
        dir: dir.to_owned(),
        why,
    })?;
    for (name, text) in files {
        let file = dir.join(name);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
        }
        std::fs::write(&file, text).map_err(Error::io("write", &file))?;
    }
    Ok(())
}

/// `kubectl sheepfold` runs the link `kubectl-sheepfold`; alone it means `status`.
fn as_plugin(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let name = args.first().and_then(|own| Path::new(own).file_name());
    if name.is_some_and(|name| name == PLUGIN) && args.len() == 1 {
        args.push("status".into());
    }
    args
}

/// What a person should know before machines boot what is approved.
fn remark(directory: &Directory) {
    for remark in &directory.remarks {
        eprintln!("sheepfold-operator: {remark}");
    }
}

/// What a command has to say.
struct Report {
    json: Value,
    text: String,
}

fn execute(command: Command) -> Result<Report, controllers::Error> {
    match command {
        Command::Provision {
            dir,
            dry_run: true,
            new_record,
            place,
            ..
        } => {
            let mut options = place.options();
            options.new_record = new_record;
            let none = |_: &Directory| Ok(Wishes::default());
            let (directory, state, plan) = provision::dry_run(&dir, &options, &none)?;
            remark(&directory);
            Ok(Report {
                json: diff::json(&plan, &state.observed),
                text: diff::text(&plan, &state.observed, &directory),
            })
        }
        Command::Provision {
            dir,
            verify,
            new_record,
            remove_many,
            place,
            ..
        } => {
            let mut options = place.options();
            options.verify = verify;
            options.remove_many = remove_many;
            options.new_record = new_record;
            let mut run = Run::open(&dir, &options)?;
            remark(&run.directory);
            carry_out(&mut run, &Wishes::default())
        }
        Command::Bootstrap {
            dir,
            hand_over: false,
            place,
            ..
        } => {
            let mut run = Run::open(&dir, &place.options())?;
            remark(&run.directory);
            let mut report = carry_out(&mut run, &Wishes::default())?;
            report.text += "next: let the nodes boot; when the cluster runs, `kubectl apply -k operator/deploy`, then \
                            `bootstrap --hand-over`\n";
            Ok(report)
        }
        Command::Bootstrap {
            dir,
            namespace,
            place,
            ..
        } => {
            let mut options = place.options();
            options.handed_over = true;
            let mut run = Run::open(&dir, &options)?;
            let done = controllers::handover::hand_over(&mut run, namespace)?;
            Ok(handed_over(&done))
        }
        Command::Status {
            dir: None,
            namespace,
            all,
            ..
        } => {
            let overview = controllers::ask(controllers::show::overview(namespace))?;
            Ok(Report {
                text: overview.text(all),
                json: json!(overview),
            })
        }
        Command::MustGather { to, namespace } => {
            let missing = controllers::ask(controllers::gather::gather(namespace, &to))?;
            let mut text = String::new();
            missing.iter().for_each(|why| text += &format!("! {why}\n"));
            text += &format!("look through {} before you send it\n", to.display());
            Ok(Report {
                text,
                json: json!({"ok": true, "directory": to, "missing": missing}),
            })
        }
        Command::Status {
            dir: Some(dir),
            offline,
            place,
            ..
        } => {
            let mut progress = Progress::new("asked for");
            let status =
                provision::status(&dir, &place.options(), !offline, &mut progress.callback())?;
            Ok(Report {
                text: status.text(),
                json: json!(status),
            })
        }
        Command::Rotate { machine, place } => {
            let mut run = Run::open(&machine.dir, &place.options())?;
            let rotate = Some(machine.volumes(&run.directory)?);
            let wishes = Wishes {
                rotate,
                ..Wishes::default()
            };
            carry_out(&mut run, &wishes)
        }
        Command::Rebound { machine, place } => {
            let mut run = Run::open(&machine.dir, &place.options())?;
            let rebound = Some(machine.volumes(&run.directory)?);
            let wishes = Wishes {
                rebound,
                ..Wishes::default()
            };
            carry_out(&mut run, &wishes)
        }
        Command::RenewVolume { machine, place } => {
            let mut run = Run::open(&machine.dir, &place.options())?;
            let renewed = Some(machine.volumes(&run.directory)?);
            let wishes = Wishes {
                renewed,
                ..Wishes::default()
            };
            carry_out(&mut run, &wishes)
        }
        Command::Revoke {
            node,
            undo,
            dir,
            place,
        } => {
            let mut run = Run::open(&dir, &place.options())?;
            let node = run.directory.find(&node)?.clone();
            // On disk before the KBS is asked: a revocation that meets a dead network is not forgotten.
            run.record.revoke(&node, !undo)?;
            carry_out(&mut run, &Wishes::default())
        }
    }
}

fn carry_out(run: &mut Run, wishes: &Wishes) -> Result<Report, controllers::Error> {
    let client = run.connect()?;
    let mut progress = Progress::new("wrote");
    let outcome = run.provision(wishes, &client, &mut progress.callback())?;
    progress.end();
    Ok(report(&outcome))
}

fn handed_over(done: &controllers::handover::Done) -> Report {
    let cluster = &done.cluster;
    let text = match done.again {
        true => format!("{cluster} has it already: nothing was done\n"),
        false => format!(
            "{} machines and {} images are handed over to {cluster}; its operator goes on from here, and this directory \
             is done with\n",
            done.machines, done.images
        ),
    };
    let json = json!({
        "ok": true, "cluster": cluster, "machines": done.machines, "images": done.images, "again": done.again,
    });
    Report { json, text }
}

fn report(outcome: &Outcome) -> Report {
    let problems = diff::problems(&outcome.plan);
    let writes: Vec<String> = outcome
        .plan
        .writes
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut text = String::new();
    if writes.len() <= FEW {
        writes
            .iter()
            .for_each(|write| text += &format!("{write}\n"));
    }
    for name in &outcome.differed {
        text += &format!("! somebody else had changed {name}, it is as we want it again\n");
    }
    problems
        .iter()
        .for_each(|problem| text += &format!("! {problem}\n"));
    text += &match writes.len() {
        0 => "the KBS has everything that is wanted, nothing was written\n".to_owned(),
        n => format!("{n} writes, the KBS has everything that is wanted\n"),
    };
    let json = json!({
        "ok": true, "writes": writes, "problems": problems, "differed": outcome.differed,
    });
    Report { json, text }
}

impl Report {
    fn print(&self, json: bool) -> ExitCode {
        match json {
            true => say(&format!("{}\n", self.json)),
            false => say(&self.text),
        }
        ExitCode::SUCCESS
    }
}

impl Place {
    fn options(self) -> Options {
        Options {
            state: self.state,
            url: self.url,
            allow_insecure_kbs: self.allow_insecure_kbs,
            ..Options::default()
        }
    }
}

impl Machine {
    fn volumes(
        &self,
        directory: &Directory,
    ) -> Result<(crate::model::NodeName, BTreeSet<crate::model::Tag>), Error> {
        let node = directory.find(&self.node)?.clone();
        let all = || {
            directory
                .machines
                .get(&node)
                .map(|entry| entry.volumes.clone())
                .unwrap_or_default()
        };
        let volumes = match &self.volume {
            Some(volume) => BTreeSet::from([volume.parse()?]),
            None => all(),
        };
        Ok((node, volumes))
    }
}

/// A name that no other process has at this time: a pod's name is its host's name.
fn this_process() -> String {
    let host = rustix::system::uname();
    format!(
        "{}-{}",
        host.nodename().to_string_lossy(),
        std::process::id()
    )
}

const USAGE: u8 = 2;
const GIB: u64 = 1024 * 1024 * 1024;
/// As kubectl looks for it on PATH.
const PLUGIN: &str = "kubectl-sheepfold";

#[cfg(test)]
mod tests {
    use super::Invocation;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Invocation::command().debug_assert();
    }

    #[test]
    fn the_plugin_alone_shows_how_things_stand() {
        let args = |words: &[&str]| super::as_plugin(words.iter().map(Into::into));
        assert_eq!(
            args(&["/usr/bin/kubectl-sheepfold"]),
            ["/usr/bin/kubectl-sheepfold", "status"]
        );
        assert_eq!(args(&["kubectl-sheepfold", "must-gather"]).len(), 2);
        assert_eq!(args(&["sheepfold-operator"]).len(), 1);
    }

    #[test]
    fn every_command_and_option_is_in_the_manual() {
        let manual = include_str!("../man/sheepfold-operator.8");
        let command = Invocation::command();
        let mut options = 0;
        for one in command.get_subcommands() {
            let name = one.get_name();
            let entry = format!(".It Cm {name}");
            assert!(manual.contains(&entry), "sheepfold-operator.8 lacks {name}");
            for option in one.get_arguments().filter_map(|option| option.get_long()) {
                options += 1;
                let written = format!("Fl Fl {option}");
                assert!(
                    manual.contains(&written),
                    "sheepfold-operator.8 lacks {name} --{option}"
                );
            }
        }
        assert!(options >= 20, "{options}");
    }
}
