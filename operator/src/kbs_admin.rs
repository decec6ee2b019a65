// SPDX-License-Identifier: Apache-2.0

//! Speaks the admin API of a Trustee KBS, releases 0.20, 0.21 and the branch after it (KBS protocol,
//! prefix `/kbs/v0`). Whoever carries a [`plan`](crate::plan) out calls [`AdminClient::connect`] once and
//! then one method for each write.
//!
//! Connecting includes an inspection ([`inspect`]), because there are set-ups of a KBS that no policy can
//! mend: one that lets everybody administrate, one that believes tokens which anybody can make, one that
//! does not replace what it has stored. Such a KBS is refused, with the line of its configuration to change.
//! [`config`] writes a configuration that passes.
//!
//! Nothing is retried here: after an error the planner decides anew.

pub mod config;
mod error;
mod http;
pub mod inspect;
mod token;

pub use error::Error;
pub use inspect::Dialect;

use crate::model::SecretId;
use crate::plan::Write;
use crate::policy;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Answer, Http};
use kbs_protocol::Secret;
use kbs_protocol::message::RESOURCE_PREFIX;
use kbs_protocol::resource::ResourcePath;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use token::AdminKey;

/// How to reach a KBS and be its administrator.
pub struct Access {
    /// `https://host:port`.
    pub url: String,
    /// The certificate authorities that may vouch for it, PEM. Nothing is taken from this machine.
    pub ca_pem: String,
    /// The administrator's Ed25519 key, PKCS #8 PEM.
    pub key_pem: Secret,
    /// The `iss` of our tokens.
    pub issuer: String,
    /// The `role` of our tokens.
    pub role: String,
    /// Talk plain HTTP to an `http://` URL. Secrets then cross the network readable.
    pub insecure_http: bool,
    /// Manage a KBS that believes self-signed tokens: everybody who reaches it can read every secret.
    pub accept_forged_tokens: bool,
    /// Connect there, whatever DNS says about the host of `url`; the port is that of `url`.
    pub address: Option<IpAddr>,
}

impl Access {
    /// The usual names, and every precaution on.
    pub fn new(url: &str, ca_pem: &str, key_pem: Secret) -> Self {
        Self {
            url: url.to_owned(),
            ca_pem: ca_pem.to_owned(),
            key_pem,
            issuer: NAME.to_owned(),
            role: NAME.to_owned(),
            insecure_http: false,
            accept_forged_tokens: false,
            address: None,
        }
    }
}

/// An administrator of one KBS.
pub struct AdminClient {
    http: Http,
    key: AdminKey,
    dialect: Dialect,
}

impl AdminClient {
    /// Finds out what kind of KBS this is, and whether it is fit to be managed.
    ///
    /// # Errors
    /// [`Error::Configuration`] when `access` cannot be used, [`Error::Unfit`] when the KBS fails the
    /// inspection, and whatever a request can meet.
    pub fn connect(access: &Access) -> Result<Self, Error> {
        let http = Http::new(access)?;
        let key = AdminKey::read(&access.key_pem, &access.issuer, &access.role)?;
        let dialect = inspect::dialect(&http)?;
        if !access.accept_forged_tokens {
            inspect::refuses_forged_tokens(&http, dialect)?;
        }
        let client = Self { http, key, dialect };
        inspect::replaces_what_it_stored(&client)?;
        Ok(client)
    }

    /// Which release it sounds like.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Carries out one write of a plan. `find` looks a secret up in the operator's own store.
    ///
    /// # Errors
    /// [`Error::NoSuchSecret`] when `find` has none, otherwise as the method for this kind of write.
    pub fn carry_out(
        &self,
        write: &Write,
        find: impl FnOnce(&SecretId) -> Option<Secret>,
    ) -> Result<(), Error> {
        match write {
            Write::Resource { path, secret } => {
                let found = find(secret).ok_or_else(|| Error::NoSuchSecret(secret.clone()))?;
                self.set_resource(path, &found)
            }
            Write::DeleteResource { path } => self.delete_resource(path),
            Write::ReferenceValue { name, value } => {
                self.set_reference_values([(name.as_str(), value.to_value())])
            }
            Write::AttestationPolicy { id, text } => self.set_attestation_policy(id, text),
            Write::ResourcePolicy { text } => self.set_resource_policy(text),
        }
    }

    /// Stores a secret, replacing what lies there.
    ///
    /// # Errors
    /// As any request.
    pub fn set_resource(&self, path: &ResourcePath, secret: &Secret) -> Result<(), Error> {
        self.post(&format!("{RESOURCE_PREFIX}{path}"), secret.expose())
            .map(drop)
    }

    /// Makes sure that nothing lies there.
    ///
    /// A KBS has one answer for "there was nothing" and for "the storage failed". After the second a revoked
    /// secret would live on, so after that answer something worthless is stored there and deleted: if both
    /// succeed, the storage works and the secret is gone.
    ///
    /// # Errors
    /// As any request.
    pub fn delete_resource(&self, path: &ResourcePath) -> Result<(), Error> {
        let url = format!("{RESOURCE_PREFIX}{path}");
        let delete = || self.http.delete(&url, &self.key.token()?);
        match delete()? {
            answer if answer.is("PluginInternalError") => {
                self.post(&url, b"deleted")?;
                delete()?.success(&format!("DELETE {url}")).map(drop)
            }
            answer => answer.success(&format!("DELETE {url}")).map(drop),
        }
    }

    /// Replaces the resource policy.
    ///
    /// # Errors
    /// [`Error::Policy`] when the text is not valid; nothing is sent then. Otherwise as any request.
    pub fn set_resource_policy(&self, text: &str) -> Result<(), Error> {
        policy::validate_resource(text)?;
        let body = json!({"policy": URL_SAFE_NO_PAD.encode(text)});
        self.post("/kbs/v0/resource-policy", body.to_string().as_bytes())
            .map(drop)
    }

    /// Replaces an attestation policy.
    ///
    /// # Errors
    /// [`Error::Policy`] when the text is not valid; nothing is sent then. Otherwise as any request.
    pub fn set_attestation_policy(&self, id: &str, text: &str) -> Result<(), Error> {
        policy::validate_attestation(text)?;
        let policy = URL_SAFE_NO_PAD.encode(text);
        let body = json!({"type": "rego", "policy_id": id, "policy": policy});
        self.post("/kbs/v0/attestation-policy", body.to_string().as_bytes())
            .map(drop)
    }

    /// Replaces reference values whole, several in one request (KBS protocol, RVPS message of type
    /// `sample`). Whether all of them arrive or none is up to the KBS.
    ///
    /// # Errors
    /// As any request.
    pub fn set_reference_values<'a>(
        &self,
        values: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<(), Error> {
        let values = values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let payload = STANDARD.encode(Value::Object(values.collect::<Map<_, _>>()).to_string());
        let body = json!({"version": "0.1.0", "type": "sample", "payload": payload});
        self.post("/kbs/v0/reference-value", body.to_string().as_bytes())
            .map(drop)
    }

    /// Reads a reference value; `None` when there is none of this name, or when the store behind the KBS
    /// failed: it has one answer for both.
    ///
    /// # Errors
    /// As any request.
    pub fn reference_value(&self, name: &str) -> Result<Option<Value>, Error> {
        let url = format!("/kbs/v0/reference-value/{name}");
        match self.http.get(&url, Some(&self.key.token()?))? {
            answer if answer.is("RvpsError") => Ok(None),
            answer => answer.success(&format!("GET {url}"))?.json().map(Some),
        }
    }

    fn post(&self, url: &str, body: &[u8]) -> Result<Answer, Error> {
        self.http
            .post(url, &self.key.token()?, body)?
            .success(&format!("POST {url}"))
    }
}

/// Issuer and role of our tokens unless somebody says otherwise; [`config`] writes the same.
pub const NAME: &str = "sheepfold-operator";

#[cfg(test)]
mod tests;
