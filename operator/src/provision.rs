// SPDX-License-Identifier: Apache-2.0

//! Applies a directory of files to a KBS, without a cluster around it.
//!
//! 1. [`Directory`] reads what is wanted: a cluster, its approved images, its machines ([`objects`]).
//! 2. [`Record`] remembers what the KBS holds, and keeps a second operator out.
//! 3. [`secrets`] says which secret lies where and makes the new ones; [`volume_keys`] says which volume key each opens;
//!    [`runtime`] has what the running system may read.
//! 4. [`plan`](crate::plan) compares and orders, [`diff`] shows it.
//! 5. [`apply`](apply::apply) carries it out, one durable step at a time; [`status`] looks at the result.
//!
//! [`Run`] is the whole story; `cli` puts it before a person.

pub mod apply;
pub mod diff;
mod error;
pub mod ignition;
pub(crate) mod images;
pub(crate) mod load;
pub mod objects;
pub mod record;
pub mod runtime;
pub mod secrets;
pub mod status;
pub(crate) mod volume_keys;

use apply::Owner;
pub use apply::Target;
pub use error::{Error, Place};
pub use load::{Directory, Entry};
pub use record::Record;
pub use secrets::Wishes;

use crate::kbs_admin::{Access, AdminClient};
use crate::model::{Desired, NodeName};
use crate::plan::{Observed, Plan, Write, plan};
use secrets::{Fresh, Imagined, Source};
use status::Status;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a person asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the record lies; default: beside the directory, see [`state_dir`].
    pub state: Option<PathBuf>,
    /// Another address of the KBS than the cluster says.
    pub url: Option<String>,
    /// Manage a KBS that accepts self-signed tokens.
    pub allow_insecure_kbs: bool,
    /// Begin with an empty record.
    pub new_record: bool,
    /// Delete the secrets of many machines that are no longer in the directory.
    pub remove_many: bool,
    /// Ask for the reference values that should be there, and write again what differs.
    pub verify: bool,
    /// Open also what was handed over to a cluster, to complete that.
    pub handed_over: bool,
}

/// What a run did.
#[derive(Debug)]
pub struct Outcome {
    /// The plan that was carried out.
    pub plan: Plan,
    /// Reference values that somebody else had changed.
    pub differed: Vec<String>,
}

/// A directory with its record: what all commands begin with.
pub struct Run {
    /// What is wanted.
    pub directory: Directory,
    /// What is there.
    pub record: Record,
    options: Options,
}

impl Run {
    /// Reads directory and record.
    ///
    /// # Errors
    /// As [`Directory::load`] and [`Record::open`]; [`Error::HandedOver`].
    pub fn open(dir: &Path, options: &Options) -> Result<Self, Error> {
        let directory = Directory::load(dir)?;
        let mut record = Record::open(&state_dir(dir, options)?)?;
        if let Some(cluster) = &record.state().handed_over
            && !options.handed_over
        {
            return Err(Error::HandedOver {
                dir: dir.to_owned(),
                cluster: cluster.clone(),
            });
        }
        if options.new_record {
            record.begin_anew()?;
        }
        Ok(Self {
            directory,
            record,
            options: options.clone(),
        })
    }

    /// Connects to the KBS, after an inspection.
    ///
    /// # Errors
    /// As [`AdminClient::connect`], and [`Error::Release`].
    pub fn connect(&self) -> Result<AdminClient, Error> {
        connect(&self.directory, &self.options)
    }

    /// Carries out what is missing. `progress` learns how many writes are done, of how many.
    ///
    /// # Errors
    /// The first that occurs; what was done is recorded.
    pub fn provision(
        &mut self,
        wishes: &Wishes,
        target: &dyn Target,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Outcome, Error> {
        let url = url(&self.directory, &self.options);
        self.recognise(target, url)?;
        let mut differed = Vec::new();
        if self.options.verify {
            let observed = &self.record.state().observed;
            let (desired, _) = self.plan(&Wishes::default(), &mut Imagined::default())?;
            differed = status::differing(target, &desired, observed, &mut |_, _| {})?;
            for name in &differed {
                self.record.doubt(name)?;
            }
        }
        let mut fresh = Fresh::default();
        let (_, plan) = self.plan(wishes, &mut fresh)?;
        let count = gone(&plan, &self.directory);
        if count > MANY && !self.options.remove_many {
            let dir = self.directory.path.clone();
            return Err(Error::ManyGone { count, dir });
        }
        let all = plan.writes.len();
        apply::apply(
            &plan.writes,
            &mut self.record,
            target,
            &fresh,
            &mut |done| progress(done, all),
        )?;
        self.record.compact()?;
        Ok(Outcome { plan, differed })
    }

    /// Makes sure that the KBS is the one that the record is about, and marks it when the record is new.
    fn recognise(&mut self, target: &dyn Target, url: String) -> Result<(), Error> {
        let (state, path) = (self.record.state(), self.record.path());
        match apply::owner(target, &state.id)? {
            Owner::Us => {}
            _ if state.stamped => return Err(Error::Stranger { url, record: path }),
            Owner::Another if !self.options.new_record => {
                return Err(Error::Managed { url, record: path });
            }
            Owner::Nobody | Owner::Another => apply::stamp(target, &state.id)?,
        }
        self.record.stamped()
    }

    fn plan(&self, wishes: &Wishes, source: &mut dyn Source) -> Result<(Desired, Plan), Error> {
        let state = self.record.state();
        make_plan(&self.directory, state, wishes, source)
    }
}

/// What `provision` would do, without asking the KBS and without changing anything.
///
/// # Errors
/// As [`Directory::load`] and [`Record::peek`].
pub fn dry_run(
    dir: &Path,
    options: &Options,
    wishes: &dyn Fn(&Directory) -> Result<Wishes, Error>,
) -> Result<(Directory, record::State, Plan), Error> {
    let directory = Directory::load(dir)?;
    let mut state = Record::peek(&state_dir(dir, options)?)?;
    if options.new_record {
        state.observed = Observed::default();
    }
    let wishes = wishes(&directory)?;
    let (_, plan) = make_plan(&directory, &state, &wishes, &mut Imagined::default())?;
    Ok((directory, state, plan))
}

/// How the cluster stands; asks the KBS unless told not to.
///
/// # Errors
/// As [`dry_run`], and whatever a request can meet.
pub fn status(
    dir: &Path,
    options: &Options,
    ask: bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Status, Error> {
    let directory = Directory::load(dir)?;
    let state = Record::peek(&state_dir(dir, options)?)?;
    let wishes = Wishes::default();
    let (desired, plan) = make_plan(&directory, &state, &wishes, &mut Imagined::default())?;
    let mut status = Status::new(&directory, &state, &desired, &plan);
    if ask {
        let client = connect(&directory, options)?;
        status.differs = Some(status::differing(
            &client,
            &desired,
            &state.observed,
            progress,
        )?);
    }
    Ok(status)
}

/// Where the record of a directory lies: `<DIR>.state` beside it, unless the options say otherwise.
///
/// # Errors
/// [`Error::Io`] when there is no such directory.
pub fn state_dir(dir: &Path, options: &Options) -> Result<PathBuf, Error> {
    if let Some(state) = &options.state {
        return Ok(state.clone());
    }
    let dir = dir.canonicalize().map_err(Error::io("read", dir))?;
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".state");
    Ok(dir.with_file_name(name))
}

fn make_plan(
    directory: &Directory,
    state: &record::State,
    wishes: &Wishes,
    source: &mut dyn Source,
) -> Result<(Desired, Plan), Error> {
    let observed = &state.observed;
    let mut desired = secrets::desired(directory, observed, &state.revoked, wishes, source)?;
    let problems = volume_keys::fill(&mut desired, directory, observed, wishes, source)?;
    let mut plan = plan(&desired, observed);
    plan.problems.extend(problems);
    Ok((desired, plan))
}

fn connect(directory: &Directory, options: &Options) -> Result<AdminClient, Error> {
    let mut access: Access = directory.access()?;
    access.url = url(directory, options);
    access.accept_forged_tokens = options.allow_insecure_kbs;
    let client = AdminClient::connect(&access)?;
    match directory.release() {
        Some(release) if release.dialect() != client.dialect() => Err(Error::Release {
            wanted: release.dialect().to_string(),
            found: client.dialect().to_string(),
        }),
        _ => Ok(client),
    }
}

/// How many machines lose their secrets because no file mentions them.
fn gone(plan: &Plan, directory: &Directory) -> usize {
    let owners = plan.writes.iter().filter_map(|write| match write {
        Write::DeleteResource { path } => path.segments().nth(1)?.parse::<NodeName>().ok(),
        _ => None,
    });
    let gone = owners.filter(|node| !directory.machines.contains_key(node));
    gone.collect::<BTreeSet<_>>().len()
}

fn url(directory: &Directory, options: &Options) -> String {
    let written = || directory.kbs.url.clone();
    options.url.clone().unwrap_or_else(written)
}

/// A file that was left out by mistake must not cost more disks than somebody notices.
pub(crate) const MANY: usize = 10;
