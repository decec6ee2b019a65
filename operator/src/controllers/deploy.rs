// SPDX-License-Identifier: Apache-2.0

//! Runs a Trustee for a cluster that names an image and no KBS: its [`keys`], and its [`objects`]
//! (crate::trustee::render) under a field manager of its own; and says how it stands. What somebody changes or deletes is
//! applied again as soon as the watch tells. When the cluster names another KBS, the objects go as soon as that one has
//! everything; volume and keys stay.

mod keys;
mod objects;

pub use objects::Objects;

use super::Error;
use super::api::{self, TrustedExecutionCluster, TrustedExecutionClusterSpec};
use super::status::Conditions;
use crate::trustee::render::{self, Facts};
use crate::trustee::{Wanted, keys as made};
use k8s_openapi::api::apps::v1::Deployment;
use keys::{Keys, malformed};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// What keeps a Trustee running.
pub struct Deployer {
    keys: Keys,
    objects: Objects,
    /// What was applied last, and for whom.
    applied: Option<(String, TrustedExecutionClusterSpec, api::Kbs)>,
    /// None: there is nothing to run.
    standing: Option<Standing>,
    /// Of a cluster whose Trustee was removed: the volumes that are left.
    retired: Option<(String, Vec<String>)>,
}

/// How a Trustee stands that is run here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    deployed: Result<(), String>,
    available: Result<(), String>,
}

impl Deployer {
    /// For one namespace.
    pub fn new(client: &Client, namespace: &str, runtime: &Handle, objects: Objects) -> Self {
        Self {
            keys: Keys::new(client, namespace, runtime),
            objects,
            applied: None,
            standing: None,
            retired: None,
        }
    }

    /// Makes it so, if there is something to run: how to reach it, and whether it stands otherwise than before.
    /// Unless something changed or `again` is said, nobody is asked.
    ///
    /// # Errors
    /// [`Error::Cluster`] for what the cluster contradicts, [`Error::Keys`], and whatever a request can meet.
    pub fn ensure(
        &mut self,
        cluster: &TrustedExecutionCluster,
        again: bool,
    ) -> Result<(Option<api::Kbs>, bool), Error> {
        let wanted = Wanted::of(&cluster.spec).map_err(Error::Cluster)?;
        let Some(wanted) = wanted else {
            self.applied = None;
            return Ok((None, self.standing.take().is_some()));
        };
        self.retired = None;
        let uid = cluster.uid().unwrap_or_default();
        if let Some((of, spec, kbs)) = &self.applied
            && !again
            && (of, spec) == (&uid, &cluster.spec)
        {
            return Ok((Some(kbs.clone()), false));
        }
        let before = self.standing.clone();
        match self.deploy(cluster, &wanted) {
            Ok((kbs, available)) => {
                self.standing = Some(Standing {
                    deployed: Ok(()),
                    available,
                });
                self.applied = Some((uid, cluster.spec.clone(), kbs.clone()));
                Ok((Some(kbs), self.standing != before))
            }
            Err(error) => {
                self.applied = None;
                let available = before.map_or_else(
                    || Err("it is not deployed".to_owned()),
                    |before| before.available,
                );
                self.standing = Some(Standing {
                    deployed: Err(error.to_string()),
                    available,
                });
                Err(error)
            }
        }
    }

    /// Removes the Trustee that ran for this cluster before it named another KBS, which has everything by now; when
    /// `seen` that something of it is there, or for the first time. What cannot be made again stays: its volume, with
    /// every machine's secret as long as that Trustee was the KBS, and its keys.
    ///
    /// # Errors
    /// Whatever a request can meet.
    pub fn retire(&mut self, cluster: &TrustedExecutionCluster, seen: bool) -> Result<(), Error> {
        let uid = cluster.uid().unwrap_or_default();
        let is_known = self.retired.as_ref().is_some_and(|(of, _)| *of == uid);
        if is_known && !seen {
            return Ok(());
        }
        let volumes = self.objects.remove(&uid)?;
        self.retired = Some((uid, volumes));
        Ok(())
    }

    /// Adds what is known to the conditions of the cluster.
    pub fn conditions(&self, conditions: &mut Conditions<'_>) {
        if let Some((_, volumes)) = &self.retired
            && !volumes.is_empty()
        {
            let volumes = volumes.join(", ");
            let text = format!(
                "another KBS is in use, and the Trustee that ran here was removed. Its volume stays, with the secrets of \
                 machines that it had: PersistentVolumeClaim {volumes}; delete it by hand when nobody needs them"
            );
            conditions.set("Deployed", (false, "Replaced"), &text);
        }
        let Some(standing) = &self.standing else {
            return;
        };
        let said = |result: &Result<(), String>| result.clone().err().unwrap_or_default();
        let deployed = match &standing.deployed {
            Ok(()) => (true, "Applied"),
            Err(_) => (false, "NotApplied"),
        };
        conditions.set("Deployed", deployed, &said(&standing.deployed));
        let available = match &standing.available {
            Ok(()) => (true, "MinimumReplicasAvailable"),
            Err(_) => (false, "NotAvailable"),
        };
        conditions.set("Available", available, &said(&standing.available));
    }

    /// Why a KBS that does not answer does not answer.
    pub fn explain(&self, error: Error) -> Error {
        match &self.standing {
            Some(Standing {
                available: Err(why),
                ..
            }) => Error::Deploying(why.clone()),
            _ => error,
        }
    }

    fn deploy(
        &self,
        cluster: &TrustedExecutionCluster,
        wanted: &Wanted,
    ) -> Result<(api::Kbs, Result<(), String>), Error> {
        let admin = self.keys.admin_key()?;
        let admin_public =
            made::public(&admin).map_err(|why| malformed(render::ADMIN_SECRET, &why))?;
        let token_certificate = self.keys.token_signer()?;
        let (tls_secret, tls, name) = self.keys.tls(wanted)?;
        let owner = cluster
            .controller_owner_ref(&())
            .ok_or_else(|| Error::Cluster("the API server gave this object no uid".to_owned()))?;
        let facts = Facts {
            owner: json!(owner),
            admin_public,
            tls_secret,
            tls,
            token_certificate,
            database_version: self.keys.database_version(wanted)?,
            assigned_user: self.objects.server()?.assigns_users,
        };
        let mut deployment = Value::Null;
        for object in render::objects(wanted, &facts) {
            let applied = self.objects.apply(object)?;
            if applied.get("kind").is_some_and(|kind| kind == "Deployment") {
                deployment = applied;
            }
        }
        let kbs = api::Kbs {
            url: format!("https://{name}:{}", wanted.port),
            ca: Some(facts.tls.ca),
            admin_key: api::KeyReference {
                secret: render::ADMIN_SECRET.to_owned(),
                key: Some(render::ADMIN_KEY.to_owned()),
            },
            ..api::Kbs::default()
        };
        let deployment = serde_json::from_value(deployment).unwrap_or_default();
        Ok((kbs, available(&deployment)))
    }
}

/// Whether it runs, in the words of its Deployment.
fn available(deployment: &Deployment) -> Result<(), String> {
    let status = deployment.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let of = |kind: &str| conditions.iter().find(|one| one.type_ == kind);
    match of("Available") {
        Some(one) if one.status == "True" => Ok(()),
        other => {
            let stuck = of("ReplicaFailure")
                .or_else(|| of("Progressing").filter(|one| one.status == "False"));
            let said = stuck.or(other).and_then(|one| one.message.clone());
            Err(said.unwrap_or_else(|| "no pod of it is ready yet".to_owned()))
        }
    }
}

/// Whose fields the objects' are.
const MANAGER: &str = "sheepfold-operator-trustee";

#[cfg(test)]
mod tests;
