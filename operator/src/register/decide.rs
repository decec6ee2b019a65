// SPDX-License-Identifier: Apache-2.0

//! The list of nodes in a cluster, for an administrator: who enrolled, and which key of a TPM counts. With the rights of
//! whoever asks; [`objects`](super::objects) is what the registrar itself does with the same objects.

use super::objects::MACHINE;
use crate::controllers::api::{AttestationKey, Machine};
use crate::controllers::{Error as ClusterError, connect, show};
use crate::model::State;
use kbs_protocol::NodeId;
use kbs_protocol::encoding::b64;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who enrolled: a JSON object for each key, as for a list in files, with the names of its objects.
///
/// # Errors
/// The API server does not answer, or does not let us.
pub async fn list(namespace: Option<String>) -> Result<Vec<Value>, ClusterError> {
    let (client, namespace) = connect(namespace).await?;
    let list = List::read(&client, &namespace).await?;
    Ok(list.keys.iter().map(|key| list.row(key)).collect())
}

/// Lets the key of this node replace the approved one of its TPM. Returns the Machines that are something else now.
///
/// # Errors
/// [`Undecided`], and as [`list`].
pub async fn approve(
    namespace: Option<String>,
    node: NodeId,
) -> Result<Result<Vec<(String, State)>, Undecided>, ClusterError> {
    let (client, namespace) = connect(namespace).await?;
    let list = List::read(&client, &namespace).await?;
    let changes = match list.changes(node) {
        Ok(changes) => changes,
        Err(undecided) => return Ok(Err(undecided)),
    };
    let machines: Api<Machine> = Api::namespaced(client, &namespace);
    for (name, state) in &changes {
        let change = Patch::Merge(json!({"spec": {"state": state}}));
        let written = machines.patch(name, &PatchParams::default(), &change).await;
        written.map_err(|error| ClusterError::api("decide about a Machine", &error))?;
    }
    Ok(Ok(changes))
}

/// Why nothing was decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// Nobody enrolled with it.
    #[error("no registered TPM has shown the key of node {0}")]
    NoSuchNode(NodeId),
    /// It was deleted, and does not come back by itself.
    #[error("the Machine of node {node} was deleted")]
    NoMachine {
        /// The node.
        node: NodeId,
        /// The AttestationKey that remembers it.
        key: String,
    },
}

/// The objects of one namespace.
struct List {
    keys: Vec<AttestationKey>,
    machines: BTreeMap<String, Machine>,
}

impl List {
    async fn read(client: &Client, namespace: &str) -> Result<Self, ClusterError> {
        let failed = |error| ClusterError::api("read keys and machines", &error);
        let keys = show::all(client, namespace).await.map_err(failed)?;
        let machines = show::all::<Machine>(client, namespace).await;
        Ok(Self::of(keys, machines.map_err(failed)?))
    }

    fn of(keys: Vec<AttestationKey>, machines: Vec<Machine>) -> Self {
        let machines = machines.into_iter();
        Self {
            keys,
            machines: machines.map(|one| (one.name_any(), one)).collect(),
        }
    }

    /// The one that its key remembers; or the one that says that it is the same, for a key that somebody wrote.
    fn machine(&self, key: &AttestationKey) -> Option<&Machine> {
        if let Some(name) = key.annotations().get(MACHINE) {
            return self.machines.get(name);
        }
        self.machines.values().find(|machine| {
            let spec = &machine.spec;
            let is_named = spec.id.is_some() && spec.id == key.spec.uuid;
            is_named || spec.attestation_key.as_ref() == Some(&key.spec.public_key)
        })
    }

    fn row(&self, key: &AttestationKey) -> Value {
        let spec = &key.spec;
        let machine = self.machine(key);
        let since = key.metadata.creation_timestamp.as_ref();
        json!({
            "node_id": node(key).map(|node| node.to_string()),
            "state": match machine {
                Some(machine) => json!(state(machine)),
                None => json!("no-machine"),
            },
            "ek_sha256": spec.endorsement_key_sha256, "basis": spec.basis, "product": spec.product,
            "since": since.map(|since| since.0.as_second()), "ak_public": spec.public_key,
            "attestation_key": key.name_any(), "machine": machine.map(Machine::name_any),
        })
    }

    /// The others are held first: at no moment two keys of one TPM count.
    fn changes(&self, wanted: NodeId) -> Result<Vec<(String, State)>, Undecided> {
        let is_wanted = |key: &&AttestationKey| node(key) == Some(wanted);
        let key = self.keys.iter().find(is_wanted);
        let key = key.ok_or(Undecided::NoSuchNode(wanted))?;
        let machine = self.machine(key).ok_or_else(|| Undecided::NoMachine {
            node: wanted,
            key: key.name_any(),
        })?;
        let tpm = key.spec.endorsement_key_sha256.as_ref();
        let others = self
            .keys
            .iter()
            .filter(|other| tpm.is_some() && other.spec.endorsement_key_sha256.as_ref() == tpm);
        let others = others.filter_map(|other| self.machine(other));
        let mut changes: Vec<(String, State)> = others
            .filter(|other| {
                other.name_any() != machine.name_any() && state(other) == State::Approved
            })
            .map(|other| (other.name_any(), State::Held))
            .collect();
        if state(machine) != State::Approved {
            changes.push((machine.name_any(), State::Approved));
        }
        Ok(changes)
    }
}

/// What the key makes, whatever its object says.
fn node(key: &AttestationKey) -> Option<NodeId> {
    b64::decode(&key.spec.public_key).map(|spki| NodeId::from_spki_der(&spki))
}

fn state(machine: &Machine) -> State {
    machine.spec.state.unwrap_or(State::Approved)
}

#[cfg(test)]
mod tests {
    use super::{List, Undecided};
    use crate::model::State;
    use kbs_protocol::NodeId;
    use kbs_protocol::encoding::b64;
    use serde_json::{Value, json};

    fn id(number: u8) -> NodeId {
        NodeId::from_spki_der(&[number])
    }

    fn key(tpm: Option<&str>, number: u8, machine: Option<&str>) -> Value {
        let mut key = json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "AttestationKey",
            "metadata": {"name": format!("key-{number}"), "creationTimestamp": "1970-01-01T00:01:00Z"},
            "spec": {
                "publicKey": b64::encode([number]), "uuid": id(number).to_string(), "endorsementKeySha256": tpm,
                "basis": "ek-certificate", "product": "test box",
            },
        });
        if let Some(machine) = machine {
            key["metadata"]["annotations"] =
                json!({"trusted-execution-clusters.io/machine": machine});
        }
        key
    }

    fn machine(name: &str, spec: Value) -> Value {
        json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": name}, "spec": spec,
        })
    }

    fn list(keys: Value, machines: Value) -> List {
        let keys = serde_json::from_value(keys).unwrap();
        List::of(keys, serde_json::from_value(machines).unwrap())
    }

    /// Two keys of one TPM, the second held; another TPM; a key whose Machine was deleted; one by hand, without a TPM.
    fn usual() -> List {
        list(
            json!([
                key(Some("t1"), 1, Some("one")),
                key(Some("t1"), 2, Some("two")),
                key(Some("t2"), 3, Some("three")),
                key(Some("t3"), 4, Some("gone")),
                key(None, 5, None),
                key(None, 6, None),
            ]),
            json!([
                machine("one", json!({"id": id(1).to_string()})),
                machine("two", json!({"id": id(2).to_string(), "state": "held"})),
                machine(
                    "three",
                    json!({"id": id(3).to_string(), "state": "approved"})
                ),
                // Of the same node as the one that was deleted, and not it.
                machine("four", json!({"id": id(4).to_string()})),
                machine(
                    "five",
                    json!({"attestationKey": b64::encode([5]), "state": "revoked"})
                ),
            ]),
        )
    }

    #[test]
    fn each_key_is_listed_with_its_machine() {
        let list = usual();
        let rows: Vec<Value> = list.keys.iter().map(|key| list.row(key)).collect();
        let of =
            |member: &str| -> Vec<Value> { rows.iter().map(|row| row[member].clone()).collect() };
        assert_eq!(
            of("state"),
            [
                "approved",
                "held",
                "approved",
                "no-machine",
                "revoked",
                "no-machine"
            ]
        );
        assert_eq!(
            json!(of("machine")),
            json!(["one", "two", "three", null, "five", null])
        );
        assert_eq!(
            rows[0],
            json!({
                "node_id": id(1).to_string(), "state": "approved", "ek_sha256": "t1", "basis": "ek-certificate",
                "product": "test box", "since": 60, "ak_public": b64::encode([1]), "attestation_key": "key-1",
                "machine": "one",
            })
        );
    }

    #[test]
    fn of_one_tpm_one_key_counts() {
        let list = usual();
        let held = ("one".to_owned(), State::Held);
        let approved = |name: &str| (name.to_owned(), State::Approved);
        assert_eq!(list.changes(id(2)), Ok(vec![held, approved("two")]));
        // Nothing to do, nobody else concerned, and no TPM in common.
        assert_eq!(list.changes(id(1)), Ok(vec![]));
        assert_eq!(list.changes(id(3)), Ok(vec![]));
        assert_eq!(list.changes(id(5)), Ok(vec![approved("five")]));
        let (node, key) = (id(4), "key-4".to_owned());
        assert_eq!(list.changes(node), Err(Undecided::NoMachine { node, key }));
        assert_eq!(list.changes(id(9)), Err(Undecided::NoSuchNode(id(9))));
    }
}
