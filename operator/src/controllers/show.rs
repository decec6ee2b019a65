// SPDX-License-Identifier: Apache-2.0

//! How a namespace stands, for a person: `sheepfold-operator status` without a directory, and `kubectl sheepfold`. It
//! asks the API server only, with the rights of whoever asks, and repeats what the operator has written there.

use super::api::{ApprovedImage, Machine, Phase, TrustedExecutionCluster};
use super::{Error, connect};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

/// What a person wants to know.
#[derive(Debug, Default, Serialize)]
pub struct Overview {
    /// The namespace.
    pub namespace: String,
    /// Its clusters; one, unless somebody made a mistake.
    pub clusters: Vec<Cluster>,
    /// The operator that works: its name, and seconds since it last said so. None if nobody works.
    pub operator: Option<(String, i64)>,
    /// Images, by name: how many values each approves, or why none.
    pub images: BTreeMap<String, Result<i64, String>>,
    /// How many machines stand how.
    pub phases: BTreeMap<String, usize>,
    /// The machines, by name.
    pub machines: Vec<Line>,
}

/// How a cluster stands.
#[derive(Debug, Default, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Where its KBS is, or which Trustee is run here.
    pub kbs: Option<String>,
    /// Whether the KBS has everything that is wanted; unknown before an operator has looked.
    pub ready: Option<bool>,
    /// Why not, or what is to be said besides.
    pub message: Option<String>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
}

/// How a machine stands.
#[derive(Debug, Default, Serialize)]
pub struct Line {
    /// `metadata.name`.
    pub name: String,
    /// In a word; none before an operator has looked.
    pub phase: Option<Phase>,
    /// Its node.
    pub node: Option<String>,
    /// The image that it had booted when it last said so.
    pub image: Option<String>,
    /// When its TPM last proved something, RFC 3339.
    pub last_attestation: Option<String>,
    /// Why it is not served.
    pub reason: Option<String>,
}

/// Asks the API server.
///
/// # Errors
/// There is none, or it refuses.
pub async fn overview(namespace: Option<String>) -> Result<Overview, Error> {
    let (client, namespace) = connect(namespace).await?;
    let failed = |error: kube::Error| Error::api("read the objects", &error);
    let clusters = all::<TrustedExecutionCluster>(&client, &namespace)
        .await
        .map_err(failed)?;
    let images = all::<ApprovedImage>(&client, &namespace)
        .await
        .map_err(failed)?;
    let machines = all::<Machine>(&client, &namespace).await.map_err(failed)?;
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let lease = leases.get_opt(super::lease::NAME).await.map_err(failed)?;
    let mut overview = Overview {
        namespace,
        clusters: clusters.iter().map(cluster).collect(),
        operator: lease.and_then(holder),
        images: images.iter().map(image).collect(),
        ..Overview::default()
    };
    overview.machines = machines.iter().map(line).collect();
    overview.machines.sort_by(|a, b| a.name.cmp(&b.name));
    for machine in &overview.machines {
        let phase = machine
            .phase
            .map_or_else(|| UNKNOWN.to_owned(), |phase| format!("{phase:?}"));
        let count = overview.phases.entry(phase).or_default();
        *count = count.saturating_add(1);
    }
    Ok(overview)
}

/// All objects of a kind.
///
/// # Errors
/// The API server does not answer, or does not let us.
pub(crate) async fn all<K>(client: &Client, namespace: &str) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        params.continue_token = page.metadata.continue_.clone();
        objects.extend(page);
        if params.continue_token.as_ref().is_none_or(String::is_empty) {
            return Ok(objects);
        }
    }
}

fn cluster(object: &TrustedExecutionCluster) -> Cluster {
    let status = object.status.as_ref();
    let ready = status.and_then(|status| condition(&status.conditions, "Ready"));
    let elsewhere = object.spec.kbs.as_ref().map(|kbs| kbs.url.clone());
    Cluster {
        name: object.name_any(),
        kbs: elsewhere.or_else(|| object.spec.trustee_image.clone()),
        ready: ready.map(|ready| ready.status == "True"),
        message: ready.and_then(|ready| {
            // A condition without a message repeats its reason.
            (ready.message != ready.reason).then(|| ready.message.clone())
        }),
        since: ready.map(|ready| ready.last_transition_time.0.to_string()),
    }
}

fn image(object: &ApprovedImage) -> (String, Result<i64, String>) {
    let status = object.status.as_ref();
    let committed = status.and_then(|status| condition(&status.conditions, "Committed"));
    let values = status.map_or(0, |status| status.reference_values);
    let stands = match committed {
        Some(committed) if committed.status == "True" => Ok(values),
        Some(committed) => Err(committed.message.clone()),
        None => Err("no operator has looked at it yet".to_owned()),
    };
    (object.name_any(), stands)
}

fn line(object: &Machine) -> Line {
    let status = object.status.clone().unwrap_or_default();
    Line {
        name: object.name_any(),
        phase: status.phase,
        node: status.node,
        image: status.image,
        last_attestation: status.last_attestation.map(|at| at.0.to_string()),
        reason: status.reason,
    }
}

fn condition<'c>(conditions: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions.iter().find(|one| one.type_ == kind)
}

/// Who holds the lease, and for how long it was silent.
fn holder(lease: Lease) -> Option<(String, i64)> {
    let spec = lease.spec?;
    let holder = spec.holder_identity.filter(|name| !name.is_empty())?;
    let silent = spec.renew_time.map_or(i64::MAX, |at| {
        Timestamp::now()
            .as_second()
            .saturating_sub(at.0.as_second())
    });
    Some((holder, silent))
}

impl Overview {
    /// The text for a person: with `every`, all machines; otherwise those that want attention.
    pub fn text(&self, every: bool) -> String {
        let mut out = String::new();
        let mut say = |text: String| {
            let _ = writeln!(out, "{}", text.trim_end());
        };
        if self.clusters.is_empty() {
            say(format!(
                "there is no TrustedExecutionCluster in namespace {}; --namespace names another one",
                self.namespace
            ));
        }
        for cluster in &self.clusters {
            let kbs = cluster.kbs.as_deref().unwrap_or("no KBS");
            let since = cluster.since.as_deref().unwrap_or_default();
            let message = cluster.message.as_deref().unwrap_or_default();
            say(format!(
                "cluster {}/{}, {kbs}",
                self.namespace, cluster.name
            ));
            say(match cluster.ready {
                Some(true) => format!("  ready since {since}  {message}"),
                Some(false) => format!(
                    "! not ready since {since}: {message}\n! what follows is how things stood then"
                ),
                None => "! no operator has looked at it yet".to_owned(),
            });
        }
        say(match &self.operator {
            Some((name, silent)) if *silent <= SILENT => format!("operator {name} works"),
            Some((name, silent)) => format!("! operator {name} has been silent for {silent} s"),
            None => {
                "! no operator works: look at its pods and at the lease sheepfold-operator; nodes that are known boot all \
                 the same"
                    .to_owned()
            }
        });
        for (name, stands) in &self.images {
            say(match stands {
                Ok(values) => format!("image {name}: {values} values"),
                Err(why) => format!("! image {name} approves nothing: {why}"),
            });
        }
        let phases: Vec<String> = self
            .phases
            .iter()
            .map(|(phase, count)| format!("{count} {phase}"))
            .collect();
        say(match self.machines.len() {
            0 => "no machines".to_owned(),
            count => format!("{count} machines: {}", phases.join(", ")),
        });
        // What is held waits for somebody, and may do so on purpose.
        let is_shown =
            |one: &&Line| every || one.wants_attention() || one.phase == Some(Phase::Held);
        let wanted: Vec<&Line> = self.machines.iter().filter(is_shown).collect();
        let longest = wanted.iter().map(|one| one.label().len()).max();
        let width = longest.unwrap_or_default().max(NAME.len());
        if !wanted.is_empty() {
            say(format!(
                "  {NAME:<width$} {:<10} {:<20} {:<16} REASON",
                "PHASE", "ATTESTED", "IMAGE"
            ));
        }
        for one in wanted {
            let phase = one
                .phase
                .map_or_else(|| UNKNOWN.to_owned(), |phase| format!("{phase:?}"));
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            say(format!(
                "{} {:<width$} {phase:<10} {:<20} {:<16} {}",
                if one.wants_attention() { '!' } else { ' ' },
                one.label(),
                or_dash(&one.last_attestation),
                or_dash(&one.image),
                one.reason.as_deref().unwrap_or_default()
            ));
        }
        out
    }
}

impl Line {
    /// Its name, and its node, which is what its console says, where that is another.
    fn label(&self) -> String {
        match &self.node {
            Some(node) if *node != self.name => format!("{} ({node})", self.name),
            _ => self.name.clone(),
        }
    }

    /// Somebody may have to do something.
    fn wants_attention(&self) -> bool {
        match self.phase {
            None => true,
            // As somebody said.
            Some(Phase::Held | Phase::Revoked) => false,
            // It gets its secrets, and still something may be wrong beside them.
            Some(phase) => !phase.is_served() || phase == Phase::Stale || self.reason.is_some(),
        }
    }
}

const NAME: &str = "NAME";
const UNKNOWN: &str = "(unknown)";
const PAGE: u32 = 500;
/// Seconds: a lease lasts fifteen.
const SILENT: i64 = 20;

#[cfg(test)]
mod tests {
    use super::{Cluster, Line, Overview, Phase, cluster, image, line};
    use serde_json::json;

    fn overview() -> Overview {
        let machine = |name: &str, phase, reason: Option<&str>| Line {
            name: name.to_owned(),
            phase,
            reason: reason.map(str::to_owned),
            ..Line::default()
        };
        Overview {
            namespace: "ns".to_owned(),
            clusters: vec![Cluster {
                name: "one".to_owned(),
                kbs: Some("https://kbs".to_owned()),
                ready: Some(true),
                ..Cluster::default()
            }],
            operator: Some(("op".to_owned(), 2)),
            images: [
                ("good".to_owned(), Ok(3)),
                ("bad".to_owned(), Err("no values".to_owned())),
            ]
            .into(),
            machines: vec![
                machine("fine", Some(Phase::Unlocked), None),
                machine("wrong", Some(Phase::Refused), Some("two keys")),
                machine("new", None, None),
            ],
            ..Overview::default()
        }
    }

    fn marked(text: &str) -> Vec<&str> {
        text.lines().filter(|line| line.starts_with('!')).collect()
    }

    #[test]
    fn what_wants_attention_is_marked_and_the_rest_left_out() {
        let text = overview().text(false);
        let marked = marked(&text);
        assert_eq!(marked.len(), 3, "{text}");
        assert!(marked[0].contains("bad approves nothing: no values"));
        assert!(
            marked[1].contains("wrong")
                && marked[1].contains("Refused")
                && marked[1].contains("two keys")
        );
        assert!(marked[2].contains("new") && marked[2].contains("(unknown)"));
        assert!(!text.contains("fine"));
        assert!(overview().text(true).contains("fine"));
    }

    #[test]
    fn whoever_is_served_is_shown_when_something_else_is_wrong_and_whoever_is_held_waits() {
        let line = |name: &str, phase, reason: Option<&str>| Line {
            name: name.to_owned(),
            phase: Some(phase),
            node: Some("node-1".to_owned()),
            reason: reason.map(str::to_owned),
            ..Line::default()
        };
        let all = Overview {
            machines: vec![
                line("a", Phase::Unlocked, Some("there is no Secret")),
                line("b", Phase::Held, Some("spec.state is held")),
                line("c", Phase::Revoked, Some("spec.state is revoked")),
                line("d", Phase::Rotating, None),
                line("e", Phase::Stale, None),
                line("node-1", Phase::Lost, None),
            ],
            ..overview()
        };
        let text = all.text(false);
        let head = text.lines().find(|line| line.contains("PHASE")).unwrap();
        let rows: Vec<&str> = text
            .lines()
            .skip_while(|line| *line != head)
            .skip(1)
            .collect();
        let expected = [
            "! a (node-1) Unlocked",
            "  b (node-1) Held",
            "! e (node-1) Stale",
            "! node-1     Lost",
        ];
        assert_eq!(rows.len(), expected.len(), "{text}");
        for (row, expected) in rows.iter().zip(expected) {
            assert!(row.starts_with(expected), "{text}");
            assert_eq!(head.find("PHASE"), Some("! a (node-1) ".len()), "{text}");
        }
        assert!(rows[0].ends_with("there is no Secret") && rows[1].ends_with("spec.state is held"));
    }

    #[test]
    fn a_kbs_that_is_away_and_an_operator_that_is_silent_are_said_first() {
        let mut away = overview();
        away.clusters[0].ready = Some(false);
        away.clusters[0].message = Some("no answer".to_owned());
        away.operator = Some(("op".to_owned(), 3600));
        let text = away.text(false);
        assert!(marked(&text)[0].contains("no answer"), "{text}");
        assert!(text.contains("how things stood then"));
        assert!(text.contains("! operator op has been silent for 3600 s"));
        away.operator = None;
        assert!(away.text(false).contains("! no operator works"));
        assert!(
            Overview::default()
                .text(false)
                .contains("there is no TrustedExecutionCluster")
        );
    }

    #[test]
    fn statuses_are_repeated() {
        let condition = |kind: &str, status: &str, message: &str| {
            json!([{
                "type": kind, "status": status, "message": message, "reason": "R",
                "lastTransitionTime": "2026-11-30T08:00:00Z",
            }])
        };
        let object = |kind: &str, status: serde_json::Value| {
            json!({
                "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
                "metadata": {"name": "x"}, "spec": {}, "status": status,
            })
        };
        let status = json!({"conditions": condition("Ready", "False", "away")});
        let mut object_of = object("TrustedExecutionCluster", status);
        let kbs = |object: &serde_json::Value| {
            cluster(&serde_json::from_value(object.clone()).unwrap()).kbs
        };
        assert_eq!(kbs(&object_of), None);
        object_of["spec"]["trusteeImage"] = "registry.example/kbs:v0.21.0".into();
        assert_eq!(
            kbs(&object_of).as_deref(),
            Some("registry.example/kbs:v0.21.0")
        );
        object_of["spec"]["kbs"] = json!({"url": "https://kbs", "adminKey": {"secret": "s"}});
        assert_eq!(kbs(&object_of).as_deref(), Some("https://kbs"));
        let read = cluster(&serde_json::from_value(object_of).unwrap());
        assert_eq!(
            (read.ready, read.message.as_deref()),
            (Some(false), Some("away"))
        );
        assert_eq!(read.since.as_deref(), Some("2026-11-30T08:00:00Z"));
        let status =
            json!({"conditions": condition("Committed", "False", "why"), "referenceValues": 0});
        let read = image(&serde_json::from_value(object("ApprovedImage", status)).unwrap());
        assert_eq!(read, ("x".to_owned(), Err("why".to_owned())));
        let status =
            json!({"phase": "Stale", "image": "os", "lastAttestation": "2026-11-30T08:00:00Z"});
        let read = line(&serde_json::from_value(object("Machine", status)).unwrap());
        assert_eq!(read.phase, Some(Phase::Stale));
        assert!(read.wants_attention() && read.last_attestation.is_some());
    }
}
