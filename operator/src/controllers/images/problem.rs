// SPDX-License-Identifier: Apache-2.0

//! Why an image is not computed: whose turn it is, and what to do, in the words of somebody who has objects and no command
//! line.

use crate::provision::images::{
    self,
    rollout::{Failure, Why},
};
use kbs_protocol::{Blame as _, Owner, Persistence};
use refvals::Error;

/// Why a group of images is not computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The image that it is about.
    pub(super) image: String,
    /// `CamelCase`, for the condition.
    pub(super) reason: &'static str,
    /// In words.
    pub(super) says: String,
    /// Whether it may pass by itself.
    pub(super) may_pass: bool,
}

impl Problem {
    /// Something is wrong with what the objects say.
    pub(super) fn spec(image: &str, reason: &'static str, says: String) -> Self {
        Self {
            image: image.to_owned(),
            reason,
            says,
            may_pass: false,
        }
    }

    /// The API server did not answer.
    pub(super) fn api(image: &str, action: &'static str, error: &kube::Error) -> Self {
        let error = crate::provision::Error::api(action, error);
        Self {
            image: image.to_owned(),
            reason: "ApiServerFailed",
            says: format!("{error}; {}", error.advice()),
            may_pass: true,
        }
    }

    /// The image, its registry, or a document. `secret` is the pull Secret.
    pub(super) fn of(image: &str, error: &Error, secret: Option<&str>) -> Self {
        let reason = match error {
            Error::Unreachable { .. } => "RegistryUnreachable",
            Error::Registry {
                status: 401 | 403, ..
            } => "Unauthorized",
            Error::Registry { status: 404, .. } => "NotFound",
            Error::Registry { .. } => "RegistryFailed",
            Error::Digest { .. } => "DigestMismatch",
            Error::Cut { .. } => "Interrupted",
            Error::Unsigned { .. } => "NotSigned",
            Error::Boot(_) | Error::NoRoute { .. } => "NotPredictable",
            Error::Reference { .. } => "InvalidSpec",
            Error::Document { .. } => "InvalidDocument",
            _ => "Failed",
        };
        let whose = match error.owner() {
            Owner::Configuration => "these objects",
            Owner::Machine => "the operator's container",
            Owner::Network => "the network",
            Owner::Server => "the registry",
            Owner::Policy => "whoever signs images",
            Owner::Data => "whoever made the image or document",
        };
        let advice = match (error, secret) {
            (Error::Unreachable { .. }, _) => "look at the address, at the operator's NetworkPolicy and proxy, and at \
                 spec.registries.ca of the cluster when the registry has its own authority"
                .to_owned(),
            (
                Error::Registry {
                    status: 401 | 403, ..
                },
                Some(secret),
            ) => format!("look whether Secret {secret:?} has credentials for this registry that may read"),
            (
                Error::Registry {
                    status: 401 | 403, ..
                },
                None,
            ) => "name a Secret with credentials: spec.pullSecret of the image, or spec.registries.pullSecret of the \
                 cluster"
                .to_owned(),
            _ => images::advice(error),
        };
        Self {
            image: image.to_owned(),
            reason,
            says: format!("{error}; it is the turn of {whose}: {advice}"),
            may_pass: error.persistence() == Persistence::Temporary,
        }
    }

    pub(super) fn in_rollout(failure: &Failure) -> Self {
        match &failure.why {
            Why::Error(error) => Self::of(&failure.image, error, None),
            Why::NoStart(why) => Self::spec(
                &failure.image,
                "NotPredictable",
                format!(
                    "it starts on none of the platforms: {why}; look whether these are the platforms that it is for"
                ),
            ),
        }
    }
}
