// SPDX-License-Identifier: Apache-2.0

//! Several resources for one attestation: a machine with four disks quotes once and asks four times.

use super::handshake::Attested;
use super::{Attest, Client, Fetched, KbsError, Patience, Wait};
use kbs_protocol::refusal::RefusalKind;
use kbs_protocol::resource::ResourcePath;

/// A client that stays attested.
pub struct Session {
    client: Client,
    attested: Option<Attested>,
}

impl Session {
    /// A session that begins with its first request.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            attested: None,
        }
    }

    /// Gets one resource. Attests if that has not happened yet, or if the server has forgotten it.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn fetch(
        &mut self,
        attester: &mut dyn Attest,
        path: &ResourcePath,
        patience: Patience,
        on_wait: &mut dyn FnMut(Wait<'_>),
    ) -> Result<Fetched, KbsError> {
        if let Some(attested) = &self.attested {
            match attested.fetch(path, None) {
                // What it says of this one resource it would say again. The rest a new handshake may mend.
                Err(error) if !is_about_the_resource(&error) => {
                    log::info!("{error}; starting a new handshake");
                    self.attested = None;
                }
                answer => return answer,
            }
        }
        let (fetched, attested) = self.client.begin(attester, path, patience, on_wait)?;
        self.attested = Some(attested);
        Ok(fetched)
    }
}

fn is_about_the_resource(error: &KbsError) -> bool {
    error.refusal().is_some_and(|refusal| {
        matches!(
            refusal.kind,
            RefusalKind::Policy | RefusalKind::Resource | RefusalKind::NotFound
        )
    })
}
