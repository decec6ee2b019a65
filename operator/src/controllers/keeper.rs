// SPDX-License-Identifier: Apache-2.0

//! Looks after the KBS: connects to it, makes sure that it is ours, notices that it has lost its storage or
//! that somebody else wrote to it.

use super::api::{self, Copies};
use super::inventory::Cluster;
use super::record::Record;
use super::{Error, parse};
use crate::kbs_admin::AdminClient;
use crate::model::Desired;
use crate::plan::reference_values;
use crate::policy;
use crate::provision::apply::{Memory as _, Owner, owner, stamp};
use crate::provision::objects;
use k8s_openapi::api::core::v1::Secret as Object;
use kbs_protocol::Secret;
use kube::Client;
use kube::api::Api;
use std::net::IpAddr;
use tokio::runtime::Handle;

/// A KBS, once it was found to be fit.
pub struct Keeper {
    secrets: Api<Object>,
    runtime: Handle,
    address: Option<IpAddr>,
    link: Option<(api::Kbs, AdminClient)>,
    /// The reference value that was compared last.
    compared: String,
}

/// What was found when the KBS was asked whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// What the record says.
    Ours,
    /// Nothing yet: it was marked as ours.
    New,
    /// It has lost its storage: the record was changed, everything is to be written again.
    Emptied,
}

impl Keeper {
    /// Knows no KBS yet. With an address it looks there, whatever DNS says about the KBS's name.
    pub fn new(
        client: &Client,
        namespace: &str,
        runtime: &Handle,
        address: Option<IpAddr>,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            runtime: runtime.clone(),
            address,
            link: None,
            compared: String::new(),
        }
    }

    /// The KBS, if there is a connection.
    pub fn client(&self) -> Option<&AdminClient> {
        self.link.as_ref().map(|(_, client)| client)
    }

    /// Ends the connection: the next round inspects the KBS again.
    pub fn disconnect(&mut self) {
        self.link = None;
    }

    /// Whether there is a connection to what the cluster names.
    pub fn is_connected(&self, cluster: &Cluster<'_>) -> bool {
        let wanted = &cluster.object.spec.kbs;
        self.link.as_ref().map(|(spec, _)| spec) == wanted.as_ref()
    }

    /// Connects, after an inspection.
    ///
    /// # Errors
    /// As [`AdminClient::connect`]; [`Error::Cluster`] when the cluster names no KBS or no key.
    pub fn connect(&mut self, cluster: &Cluster<'_>) -> Result<(), Error> {
        self.link = None;
        let Some(spec) = &cluster.object.spec.kbs else {
            return Err(Error::Cluster(
                "spec.kbs and spec.trusteeImage are missing: name a KBS, or the image of one to run".to_owned(),
            ));
        };
        let mut access = parse::access(spec, self.key(spec)?).map_err(Error::Cluster)?;
        access.address = self.address;
        let client = AdminClient::connect(&access)?;
        let release = spec.release.map(|release| match release {
            api::Release::V0_20 => objects::Release::V0_20.dialect(),
            api::Release::V0_21 => objects::Release::V0_21.dialect(),
        });
        if let Some(wanted) = release.filter(|wanted| *wanted != client.dialect()) {
            let found = client.dialect();
            let why = format!("spec.kbs.release asks for {wanted}, the KBS sounds like {found}");
            return Err(Error::Cluster(why));
        }
        self.link = Some((spec.clone(), client));
        Ok(())
    }

    /// Makes sure that the KBS is the one that the record is about.
    ///
    /// A KBS has one answer for "no such value" and "my store failed". So before it is taken for emptied, it has
    /// to pass the inspection again, which writes a value and reads it.
    ///
    /// # Errors
    /// [`Error::Managed`], and whatever a request can meet.
    pub fn recognise(
        &mut self,
        cluster: &Cluster<'_>,
        record: &mut Record,
    ) -> Result<Found, Error> {
        let mut owner = self.owner(record)?;
        if owner == Owner::Nobody {
            self.connect(cluster)?;
            owner = self.owner(record)?;
        }
        match owner {
            Owner::Us => {
                record.set_stamped()?;
                return Ok(Found::Ours);
            }
            Owner::Another => return Err(self.managed()),
            Owner::Nobody => {}
        }
        let found = match record.is_stamped() {
            true => {
                // On record before the mark is back: whoever dies in between finds no mark again.
                record.lose(cluster.copies == Copies::Namespace)?;
                Found::Emptied
            }
            false => {
                // The number must not be forgotten between its two places.
                record.settle_all()?;
                Found::New
            }
        };
        if let Some(client) = self.client() {
            stamp(client, record.id())?;
        }
        record.set_stamped()?;
        Ok(found)
    }

    /// Writes the policies again, as they are wanted already, and compares some of the reference values. Those
    /// that somebody else changed are doubted from now on; returns their names.
    ///
    /// # Errors
    /// Whatever a request can meet.
    pub fn refresh(
        &mut self,
        desired: &Desired,
        record: &mut Record,
    ) -> Result<Vec<String>, Error> {
        let Some((_, client)) = &self.link else {
            return Ok(Vec::new());
        };
        if record.observed().is_open() {
            client.set_attestation_policy(policy::ATTESTATION_ID, policy::ATTESTATION)?;
            client.set_resource_policy(policy::RESOURCE)?;
        }
        let (values, _) = reference_values(desired);
        let later = values
            .range(self.compared.clone()..)
            .skip_while(|(name, _)| **name == self.compared);
        let settled = later.filter(|(name, value)| record.observed().holds_value(name, value));
        let share: Vec<_> = settled.take(SHARE).collect();
        self.compared = match share.last() {
            Some((name, _)) if share.len() == SHARE => (*name).clone(),
            _ => String::new(),
        };
        let mut differing = Vec::new();
        for (name, value) in share {
            if client.reference_value(name)? != Some(value.to_value()) {
                differing.push(name.clone());
            }
        }
        differing.iter().for_each(|name| record.doubt(name));
        Ok(differing)
    }

    fn owner(&self, record: &Record) -> Result<Owner, Error> {
        match self.client() {
            Some(client) => Ok(owner(client, record.id())?),
            None => Ok(Owner::Nobody),
        }
    }

    fn managed(&self) -> Error {
        let url = self.link.as_ref().map(|(spec, _)| spec.url.clone());
        Error::Managed(url.unwrap_or_default())
    }

    fn key(&self, spec: &api::Kbs) -> Result<Secret, Error> {
        let (name, entry) = parse::key_place(&spec.admin_key);
        let found = self.runtime.block_on(self.secrets.get_opt(name));
        let found = found.map_err(|error| Error::api("read the administrator's key", &error))?;
        let data = found.and_then(|object| object.data).unwrap_or_default();
        let key = data.into_iter().find(|(key, _)| key == entry);
        key.map(|(_, bytes)| Secret::new(bytes.0)).ok_or_else(|| {
            let why =
                format!("there is no Secret {name:?} with an entry {entry:?} in this namespace");
            Error::Cluster(why)
        })
    }
}

/// Reference values compared in one go.
const SHARE: usize = 64;

#[cfg(test)]
mod tests;
