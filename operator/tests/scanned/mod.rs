// SPDX-License-Identifier: Apache-2.0

//! Approved images by reference, on a real API server and from a registry of ours: what they boot is computed by the
//! operator itself, once; and what keeps it from being computed is said, and heals.

use super::bootable::registry::{Image, Registry, as_it_is};
use super::bootable::{PLATFORM, files, tuple};
use super::common::Tpm;
use super::control_plane::{Place, eventually, object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{
    ApprovedImage, ApprovedImageStatus, Computed, Phase, TrustedExecutionCluster,
};

fn image(content: &str) -> Image {
    Image::of(&files(content, content), "")
}

/// Makes the Secret and the ConfigMap that lead to this registry; what a cluster says of them.
fn access(place: &Place, registry: &Registry) -> Value {
    let read = |name: &str| std::fs::read_to_string(registry.directory.path().join(name)).unwrap();
    pull_secret(place, "pull", &read("auth.json"));
    place.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "registry-ca"},
        "data": {"ca.crt": read("ca.pem")},
    }));
    json!({"pullSecret": "pull", "ca": {"configMap": "registry-ca"}})
}

fn pull_secret(place: &Place, name: &str, auth: &str) {
    place.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": auth},
    }));
}

fn approve(place: &Place, name: &str, reference: &str, more: Value) {
    let mut spec = json!({"image": reference, "boot": {"kernelMeasurements": 1}});
    let more = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(more);
    place.apply(&object("ApprovedImage", name, spec));
}

fn status(place: &Place, name: &str) -> ApprovedImageStatus {
    let image: ApprovedImage = place.get(name);
    image.status.unwrap_or_default()
}

fn condition(place: &Place, name: &str, kind: &str) -> Option<Condition> {
    let mut conditions = status(place, name).conditions.into_iter();
    conditions.find(|one| one.type_ == kind)
}

#[track_caller]
fn await_scanned(place: &Place, name: &str, reason: &str) -> Condition {
    eventually(&format!("{name} is {reason}"), || {
        condition(place, name, "Scanned").is_some_and(|one| one.reason == reason)
    });
    condition(place, name, "Scanned").unwrap()
}

fn computed(place: &Place, name: &str) -> Computed {
    status(place, name).computed.unwrap()
}

/// The boots that the KBS knows.
fn known(place: &Place) -> Vec<Value> {
    let state = place.lab.state();
    let known = state["reference_values"]["boot_tuples"].as_array();
    sorted(known.cloned().unwrap_or_default())
}

fn sorted(mut tuples: Vec<Value>) -> Vec<Value> {
    tuples.sort_by_key(ToString::to_string);
    tuples
}

/// Requests that change what the KBS approves.
fn writes(place: &Place) -> usize {
    let seen = place.lab.server.requests();
    let writes = seen.iter().filter(|one| one.method == "POST");
    writes
        .filter(|one| one.path.contains("reference-value"))
        .count()
}

#[test]
fn an_image_by_reference_is_looked_through_once_and_its_boots_are_served() {
    let Some(place) = Place::new() else { return };
    let [a, b] = [0, 1].map(Tpm::number);
    let a = a.showing(&tuple("A", "A"));
    let b = b.showing(&tuple("B", "B"));
    let (first, second) = (image("A"), image("B"));
    let mut served = first.clone();
    served.blobs.extend(second.blobs.clone());
    // What the tag says has moved on: the digest counts.
    served.tags.insert("latest".to_owned(), second.root.clone());
    let registry = Registry::serve(served, as_it_is);
    let registries = access(&place, &registry);
    // The operator as it is installed, with the rights that come with it.
    let operator = place.installed_operator();
    place.cluster(json!({"platforms": [PLATFORM], "registries": registries}));
    // As the talk writes it, but for what GRUB does.
    let spec = json!({"reference": registry.name(&first.root), "boot": {"kernelMeasurements": 1}});
    place.apply(&object("ApprovedImage", "os", spec));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    await_scanned(&place, "os", "Computed");
    eventually("what it boots is served", || {
        place.lab.fetch(&a, &a.root()).is_some()
    });
    assert_eq!(place.lab.fetch(&b, &b.root()), None, "nobody approved that");
    assert_eq!(known(&place), [tuple("A", "A")]);
    let written = computed(&place, "os");
    assert_eq!(written.image, first.root);
    assert_eq!(json!(written.boots[0].boot_tuple), tuple("A", "A"));
    assert_eq!(
        (written.boots.len(), status(&place, "os").reference_values),
        (1, 1)
    );
    assert_eq!(condition(&place, "os", "Committed").unwrap().status, "True");
    let log = operator.end();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    assert!(
        !place.everything_readable().contains("dXNlcjpwYXNz"),
        "credentials stay where they are"
    );

    // Another operator finds it in the status, without a cache of its own.
    let (requests, before) = (registry.requests(""), writes(&place));
    assert!(requests > 0);
    let _operator = place.operator("another");
    place.machine("a", &a, json!({"rotation": 1}));
    place.await_phase("a", Phase::Rotating);
    assert_eq!(registry.requests(""), requests, "nothing is pulled again");
    let took_over = writes(&place) - before;
    // One image more: one value of the KBS and what is derived from it, however many machines there are.
    let before = writes(&place);
    approve(&place, "more", &registry.name(&second.root), json!({}));
    eventually("it is served", || place.lab.fetch(&b, &b.root()).is_some());
    let one_more = writes(&place) - before;
    assert!(
        one_more <= 4,
        "{one_more} writes; {took_over} when it took over"
    );
    assert_eq!(
        known(&place),
        sorted(vec![tuple("A", "A"), tuple("B", "B")])
    );
    place.delete::<ApprovedImage>("more");
    eventually("b is refused", || place.lab.fetch(&b, &b.root()).is_none());
    assert!(place.lab.fetch(&a, &a.root()).is_some());
}

#[test]
fn what_keeps_an_image_from_being_computed_is_said_and_heals() {
    let Some(place) = Place::new() else { return };
    let a = Tpm::number(0).showing(&tuple("A", "A"));
    let wanted = image("A");
    let registry = Registry::serve(wanted.clone(), as_it_is);
    registry.set_down(true);
    let registries = access(&place, &registry);
    let _operator = place.operator("one");
    place.cluster(json!({"registries": registries}));
    place.machine("a", &a, json!({}));
    approve(&place, "os", &registry.name(&wanted.root), json!({}));
    // Nobody has said on which machines.
    eventually("it asks for platforms", || {
        condition(&place, "os", "Committed")
            .is_some_and(|one| one.message.contains("name the platforms"))
    });
    assert_eq!(condition(&place, "os", "Scanned"), None);
    let from = json!({"platforms": ["configmap:firmware"]});
    approve(&place, "os", &registry.name(&wanted.root), from);
    let said = await_scanned(&place, "os", "NoConfigMap");
    assert!(said.message.contains("\"firmware\""), "{}", said.message);
    let firmware = refvals::platform::load(PLATFORM, None).unwrap();
    place.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "firmware"},
        "data": {"platform.json": json!(firmware).to_string()},
    }));
    // The registry is down: whose turn it is, aloud, and nobody is served.
    let said = await_scanned(&place, "os", "RegistryUnreachable");
    assert_eq!(said.status, "False");
    assert!(
        said.message.contains("it is the turn of the network"),
        "{}",
        said.message
    );
    let committed = condition(&place, "os", "Committed").unwrap();
    assert_eq!(
        (&*committed.status, &*committed.reason),
        ("False", "NotComputed")
    );
    let is_said = |reason: &str| {
        let events = place.events();
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some(reason))
    };
    eventually("it is said aloud", || is_said("RegistryUnreachable"));
    assert_eq!(known(&place), Vec::<Value>::new());
    registry.set_down(false);
    await_scanned(&place, "os", "Computed");
    place.await_phase("a", Phase::Served);
    eventually("a is served", || place.lab.fetch(&a, &a.root()).is_some());

    // Another firmware in the ConfigMap: noticed; what cannot be computed leaves what was.
    registry.set_down(true);
    let mut other = firmware;
    other.platform = "another name".to_owned();
    place.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "firmware"},
        "data": {"platform.json": json!(other).to_string()},
    }));
    let said = await_scanned(&place, "os", "RegistryUnreachable");
    assert!(said.message.contains("stays approved"), "{}", said.message);
    assert!(place.lab.fetch(&a, &a.root()).is_some());
    registry.set_down(false);
    await_scanned(&place, "os", "Computed");
    assert_eq!(computed(&place, "os").boots[0].platform, "another name");
}

#[test]
fn a_pull_secret_that_is_wrong_is_named_and_its_correction_seen() {
    let Some(place) = Place::new() else { return };
    let wanted = image("A");
    let registry = Registry::serve(wanted.clone(), as_it_is);
    let good = std::fs::read_to_string(registry.directory.path().join("auth.json")).unwrap();
    let mut registries = access(&place, &registry);
    registries.as_object_mut().unwrap().remove("pullSecret");
    let _operator = place.operator("one");
    place.cluster(json!({"platforms": [PLATFORM], "registries": registries.clone()}));
    let name = registry.name(&wanted.root);
    approve(&place, "os", &name, json!({}));
    let said = await_scanned(&place, "os", "Unauthorized");
    assert!(
        said.message.contains("name a Secret with credentials"),
        "{}",
        said.message
    );
    approve(&place, "os", &name, json!({"pullSecret": "own"}));
    let said = await_scanned(&place, "os", "NoPullSecret");
    assert!(said.message.contains("\"own\""), "{}", said.message);
    pull_secret(
        &place,
        "own",
        &good.replace("dXNlcjpwYXNz", "dXNlcjp3cm9uZw=="),
    );
    let said = await_scanned(&place, "os", "Unauthorized");
    assert!(said.message.contains("Secret \"own\""), "{}", said.message);
    assert!(!place.everything_readable().contains("wrong"));
    pull_secret(&place, "own", r#"{"auths": 1}"#);
    let said = await_scanned(&place, "os", "InvalidDocument");
    let named = "Secret \"own\" (spec.pullSecret of the image)";
    assert!(said.message.contains(named), "{}", said.message);
    // And so is an authority that is none.
    place.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad-ca"}, "data": {"ca.crt": "none"},
    }));
    let mut bad = registries.clone();
    bad["ca"]["configMap"] = "bad-ca".into();
    place.cluster(json!({"platforms": [PLATFORM], "registries": bad}));
    pull_secret(&place, "own", &good);
    let named = "ConfigMap \"bad-ca\" (spec.registries.ca of the cluster)";
    eventually("the authority is named", || {
        condition(&place, "os", "Scanned").is_some_and(|one| one.message.contains(named))
    });
    place.cluster(json!({"platforms": [PLATFORM], "registries": registries}));
    await_scanned(&place, "os", "Computed");
}

#[test]
fn what_is_not_what_it_should_be_approves_nothing() {
    let Some(place) = Place::new() else { return };
    let wanted = image("A");
    // The layers, and nothing else, are other bytes than their digests say.
    let tampered = Registry::serve(wanted.clone(), |path, mut bytes| {
        if path.starts_with("/cdn/") && bytes.starts_with(&[0x1f, 0x8b]) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        bytes
    });
    let registries = access(&place, &tampered);
    let _operator = place.operator_with("one", |settings| settings.image_bytes = 100_000);
    place.cluster(json!({"platforms": [PLATFORM], "registries": registries}));
    approve(&place, "os", &tampered.name(&wanted.root), json!({}));
    let said = await_scanned(&place, "os", "DigestMismatch");
    assert!(
        said.message.contains("do not approve this image"),
        "{}",
        said.message
    );

    // Neither an image without a kernel, one that is too large, one that starts nowhere, nor one that is updated from
    // nothing; and nothing of the operator's own container.
    let mut all = Image::made("");
    let empty = all.root.clone();
    let large = {
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let mut content = files("L", "L");
        content.push(("usr/share/noise", noise.take(200_000).collect()));
        Image::of(&content, "")
    };
    all.blobs.extend(large.blobs.clone());
    all.blobs.extend(wanted.blobs.clone());
    let registry = Registry::serve(all, as_it_is);
    let registries = access(&place, &registry);
    place.cluster(json!({"platforms": [PLATFORM], "registries": registries}));
    let secure = json!({"platforms": ["profile:debian13-ovmf-ms"]});
    let local = format!("/etc@sha256:{}", "0".repeat(64));
    let cases = [
        (
            "empty",
            registry.name(&empty),
            json!({}),
            "NotPredictable",
            "spec.boot.path",
        ),
        (
            "large",
            registry.name(&large.root),
            json!({}),
            "InvalidDocument",
            "of at most 100000",
        ),
        (
            "secure",
            registry.name(&wanted.root),
            secure,
            "NotPredictable",
            "none of the platforms",
        ),
        (
            "path",
            local,
            json!({}),
            "InvalidSpec",
            "nor an image by digest",
        ),
        (
            "alone",
            registry.name(&wanted.root),
            json!({"updatesFrom": ["nobody"]}),
            "InvalidSpec",
            "both need an image",
        ),
        (
            "file",
            registry.name(&wanted.root),
            json!({"platforms": ["/etc/passwd"]}),
            "InvalidSpec",
            "is no platform",
        ),
    ];
    for (name, reference, more, _, _) in &cases {
        approve(&place, name, reference, more.clone());
    }
    for (name, _, _, reason, says) in &cases {
        let said = await_scanned(&place, name, reason);
        assert!(said.message.contains(says), "{name}: {}", said.message);
    }
    assert_eq!(known(&place), Vec::<Value>::new());
}

#[test]
fn steps_of_an_update_are_approved_as_long_as_both_images_are() {
    let Some(place) = Place::new() else { return };
    let label = json!({"pcrs": [{"id": 4, "value": "0".repeat(64)}]}).to_string();
    let (old, new) = (image("A"), Image::of(&files("B", "B"), &label));
    let mut all = old.clone();
    all.blobs.extend(new.blobs.clone());
    let registry = Registry::serve(all, as_it_is);
    let registries = access(&place, &registry);
    let _operator = place.operator("one");
    place.cluster(json!({"platforms": [PLATFORM], "registries": registries}));
    approve(&place, "a", &registry.name(&old.root), json!({}));
    eventually("a is approved", || known(&place) == [tuple("A", "A")]);
    approve(
        &place,
        "b",
        &registry.name(&new.root),
        json!({"updatesFrom": ["a"]}),
    );
    let steps = [("A", "A"), ("A", "B"), ("B", "A"), ("B", "B")];
    let steps = sorted(steps.map(|(loader, kernel)| tuple(loader, kernel)).to_vec());
    eventually("every step is approved", || known(&place) == steps);
    let said = await_scanned(&place, "b", "Computed");
    assert!(
        said.message.contains("2 boots") && said.message.contains("the label org.coreos.pcrs"),
        "{}",
        said.message
    );
    eventually("the label is remarked aloud", || {
        let events = place.events();
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("LabelDiffers"))
    });
    // The registry has gone, and so does the older image: what is left of the other needs nobody.
    registry.set_down(true);
    place.delete::<ApprovedImage>("a");
    eventually("its steps have gone with it", || {
        known(&place) == [tuple("B", "B")]
    });
    // An image of the same name is another one; and without platforms nothing is computed, and nothing counts that was.
    let by_hand = json!({"referenceValues": {"bootTuples": [tuple("C", "C")]}});
    place.apply(&object("ApprovedImage", "a", by_hand));
    let both = sorted(vec![tuple("B", "B"), tuple("C", "C")]);
    eventually("what is written down counts", || known(&place) == both);
    let none = json!({"spec": {"platforms": null}});
    place.change::<TrustedExecutionCluster>("cluster", &none);
    eventually("nobody says where it boots", || {
        known(&place) == [tuple("C", "C")]
    });
}
