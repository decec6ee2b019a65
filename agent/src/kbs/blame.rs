// SPDX-License-Identifier: Apache-2.0

//! Whose fault a failed handshake is, whether trying again can help, and the next step.

use super::error::KbsError;
use kbs_protocol::refusal::RefusalKind;
use kbs_protocol::{Blame, Owner, Persistence};
use std::time::Duration;

impl Blame for KbsError {
    fn owner(&self) -> Owner {
        match self.lead() {
            Self::Setup { .. } => Owner::Machine,
            Self::Dns { .. } | Self::Connect { .. } | Self::Cut { .. } | Self::Timeout { .. } => {
                Owner::Network
            }
            Self::Tls { problem, .. } => problem.owner(),
            Self::Redirect { .. } => Owner::Configuration,
            Self::NoAnswer { .. } | Self::TooLarge { .. } | Self::NoCookie { .. } => Owner::Server,
            Self::Refused { refusal, .. } => refusal.owner(),
            Self::Registrar { refusal, .. } => refusal.owner(),
            Self::Held { .. } => Owner::Policy,
            Self::Protocol { error, .. } => error.owner(),
            Self::Evidence(error) => error.owner(),
            // `lead` never returns these, but for an empty list, which nobody makes.
            Self::Servers(_) | Self::GaveUp { .. } => Owner::Network,
        }
    }

    fn persistence(&self) -> Persistence {
        match self.lead() {
            // Closed without a word, however often: a server that crashes over our evidence looks like a load
            // balancer with nobody behind it, and that passes.
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Cut { .. }
            | Self::Timeout { .. } => Persistence::Temporary,
            Self::Setup { .. }
            | Self::TooLarge { .. }
            | Self::Redirect { .. }
            | Self::NoCookie { .. } => Persistence::Permanent,
            Self::Tls { problem, .. } => problem.persistence(),
            Self::Refused { refusal, .. } => refusal.persistence(),
            Self::Registrar { refusal, .. } => refusal.persistence(),
            Self::Held { .. } => Persistence::UntilApproved,
            Self::Protocol { error, .. } => error.persistence(),
            Self::Evidence(error) => error.persistence(),
            Self::Servers(_) | Self::GaveUp { .. } => Persistence::Temporary,
        }
    }

    fn advice(&self) -> String {
        match self.lead() {
            Self::Setup { .. } => {
                "this build of the agent cannot speak TLS here: report it".to_owned()
            }
            Self::Dns { .. } => {
                "look at the resolver (/etc/resolv.conf), or use an address that needs \
                                 none in kbs.servers"
                    .to_owned()
            }
            Self::Connect { .. } => {
                "look at the network of this node, at firewalls, and at whether the KBS runs"
                    .to_owned()
            }
            Self::Tls { problem, .. } => problem.advice().to_owned(),
            Self::NoAnswer { .. } => {
                "look at the log of the KBS at this moment: a crashed request leaves a panic message there; \
                 if there is none, see whether a load balancer before it has a KBS to pass requests on to"
                    .to_owned()
            }
            Self::Cut { .. } | Self::Timeout { .. } => {
                "look at the network of this node (a path MTU that \
                 loses large packets looks like this) and at the load of the KBS"
                    .to_owned()
            }
            Self::TooLarge { .. } => "make sure that the address is a Trustee KBS".to_owned(),
            Self::Redirect { .. } => {
                "put the final address into kbs.servers, or stop the proxy from redirecting"
                    .to_owned()
            }
            Self::Refused {
                refusal,
                session_age: Some(age),
                ..
            } if *age >= OLD_SESSION
                && matches!(refusal.kind, RefusalKind::Evidence | RefusalKind::NoSession) =>
            {
                format!(
                    "the session was {} s old and a KBS keeps one for 5 minutes by default: find out what \
                     made the evidence slow on this machine; otherwise {}",
                    age.as_secs(),
                    refusal.advice()
                )
            }
            Self::Refused { refusal, .. } => refusal.advice(),
            Self::Registrar { refusal, .. } => refusal.advice(),
            Self::Held { outcome, .. } => {
                format!(
                    "find out why this machine has a new attestation key; if it may, the registrar's \
                     administrator runs `sheepfold-operator register --approve {}` (with --config FILE outside of a \
                     cluster)",
                    outcome.node_id
                )
            }
            Self::NoCookie { .. } => {
                "look for a proxy before the KBS that removes cookies".to_owned()
            }
            Self::Protocol { error, .. } => error.advice(),
            Self::Evidence(error) => error.advice(),
            Self::Servers(_) | Self::GaveUp { .. } => "look at the network of this node".to_owned(),
        }
    }
}

/// Near enough to the 5 minutes of a session to be the likely reason of a refusal.
const OLD_SESSION: Duration = Duration::from_secs(240);

#[cfg(test)]
mod tests {
    use super::KbsError;
    use crate::config::ServerUrl;
    use kbs_protocol::Blame as _;
    use kbs_protocol::refusal::{Refusal, Step};
    use std::time::Duration;

    #[test]
    fn an_old_session_is_named_as_the_likely_reason() {
        let advice = |kind: &str, age| {
            let body = format!(r#"{{"type":"x/{kind}","detail":"d"}}"#);
            let error = KbsError::Refused {
                server: ServerUrl::parse("https://kbs.example", false).unwrap(),
                asked: None,
                refusal: Refusal::read(Step::Attest, 401, body.as_bytes()),
                session_age: Some(Duration::from_secs(age)),
                retry_after: None,
                token: None,
            };
            error.advice()
        };
        assert!(advice("AttestationError", 310).contains("the session was 310 s old"));
        assert!(advice("TokenNotFound", 310).contains("310 s"));
        assert!(!advice("AttestationError", 3).contains("s old"));
        assert!(
            !advice("PolicyDeny", 310).contains("s old"),
            "a policy does not mind the time"
        );
    }
}
