// SPDX-License-Identifier: Apache-2.0

//! Images that are approved by reference: what `provision` would write for them is what `refvals` computes, pulled
//! once, with every step of an update; and nothing at all where something cannot be computed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod bootable;

use bootable::registry::{Image, Registry, as_it_is};
use bootable::{PLATFORM, files, tuple};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A directory for `provision`, with a home of its own.
struct Cluster {
    directory: TempDir,
}

impl Cluster {
    fn new(registries: &str) -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let spec = format!(
            "  kbs: {{url: 'https://127.0.0.1:1', ca: x, adminKeyFile: key}}\n  registries: {registries}\n"
        );
        this.object("Cluster", "test", &spec);
        this
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("cluster")
    }

    fn object(&self, kind: &str, name: &str, spec: &str) {
        std::fs::create_dir_all(self.path()).unwrap();
        let text = format!(
            "apiVersion: trusted-execution-clusters.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}"
        );
        std::fs::write(self.path().join(format!("{kind}-{name}.yaml")), text).unwrap();
    }

    fn image(&self, name: &str, image: &str, more: &str) {
        let spec = format!(
            "  image: {image}\n  platforms: ['{PLATFORM}']\n  boot: {{kernelMeasurements: 1}}\n{more}"
        );
        self.object("ApprovedImage", name, &spec);
    }

    /// What `provision` would write: the boot tuples; or what it says.
    fn tuples(&self) -> Result<Vec<Value>, (i32, String)> {
        self.tuples_and_remarks().map(|(tuples, _)| tuples)
    }

    fn tuples_and_remarks(&self) -> Result<(Vec<Value>, String), (i32, String)> {
        let output = Command::new(env!("CARGO_BIN_EXE_sheepfold-operator"))
            .args(["--json", "provision", "--dry-run"])
            .arg(self.path())
            .env("XDG_CACHE_HOME", self.directory.path().join("cache"))
            .env("HOME", self.directory.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if !output.status.success() {
            return Err((output.status.code().unwrap(), stderr));
        }
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let added = plan["values"]["boot_tuples"]["added"].as_array().unwrap();
        let tuples = added.iter().map(|entry| entry["value"].clone());
        Ok((tuples.collect(), stderr))
    }
}

fn sorted(mut tuples: Vec<Value>) -> Vec<Value> {
    tuples.sort_by_key(ToString::to_string);
    tuples
}

fn layout(directory: &Path, image: &Image) -> String {
    image.write_layout(directory);
    directory.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn an_image_in_a_registry_is_pulled_once_and_approves_what_it_boots() {
    let registry = Registry::serve(Image::of(&files("A", "A"), ""), as_it_is);
    let image = registry.name(&Image::of(&files("A", "A"), "").root);
    let at = |name: &str| registry.directory.path().join(name).display().to_string();
    let access = format!(
        "{{authFile: {}, caFile: {}}}",
        at("auth.json"),
        at("ca.pem")
    );
    let cluster = Cluster::new(&access);
    cluster.image("a", &image, "");
    assert_eq!(cluster.tuples().unwrap(), [tuple("A", "A")]);
    let before = registry.requests("");
    assert!(before > 0);
    assert_eq!(cluster.tuples().unwrap(), [tuple("A", "A")]);
    assert_eq!(registry.requests(""), before, "facts are kept by digest");
    // What was written down by hand is approved beside it.
    let by_hand =
        json!({"pcr04": "4".repeat(64), "pcr07": "7".repeat(64), "pcr14": "e".repeat(64)});
    let more = format!("  referenceValues: {{bootTuples: [{by_hand}]}}\n");
    cluster.image("a", &image, &more);
    assert_eq!(
        sorted(cluster.tuples().unwrap()),
        sorted(vec![by_hand, tuple("A", "A")])
    );
}

#[test]
fn a_label_that_is_not_what_the_image_boots_is_remarked() {
    let cluster = Cluster::new("{}");
    let four = tuple("A", "A")["pcr04"].clone();
    for (value, differs) in [(four, false), (json!("0".repeat(64)), true)] {
        let label = json!({"pcrs": [{"id": 4, "value": value}]}).to_string();
        let image = Image::of(&files("A", "A"), &label);
        let reference = layout(&cluster.path().join("layout"), &image);
        cluster.image("a", &reference, "");
        let (tuples, remarks) = cluster.tuples_and_remarks().unwrap();
        assert_eq!(tuples, [tuple("A", "A")], "the label changes nothing");
        let says = "a: the label org.coreos.pcrs says 0000";
        assert_eq!(remarks.contains(says), differs, "{remarks}");
    }
}

#[test]
fn an_update_approves_its_steps_and_no_others() {
    let cluster = Cluster::new("{}");
    std::fs::create_dir_all(cluster.path()).unwrap();
    for name in ["A", "B", "C"] {
        let image = Image::of(&files(name, name), "");
        // Relative to the object, wherever the operator runs.
        let reference = layout(&cluster.path().join(format!("layout-{name}")), &image);
        let more = match name {
            "B" => "  updatesFrom: [a]\n",
            _ => "",
        };
        cluster.image(&name.to_lowercase(), &reference, more);
    }
    let expected = [
        ("A", "A"),
        ("A", "B"),
        ("B", "A"),
        ("B", "B"),
        // Beside them, and never updated to or from.
        ("C", "C"),
    ];
    let expected = expected.map(|(loader, kernel)| tuple(loader, kernel));
    assert_eq!(sorted(cluster.tuples().unwrap()), sorted(expected.to_vec()));
}

#[test]
fn what_cannot_be_computed_approves_nothing() {
    let cluster = Cluster::new("{}");
    let refused = |code: i32, text: &str| {
        let (exit, says) = cluster.tuples().unwrap_err();
        assert!(exit == code && says.contains(text), "{exit}: {says}");
    };
    // A registry that is not there: the network's.
    let digest = format!("sha256:{}", "0".repeat(64));
    cluster.image("a", &format!("localhost:1/os@{digest}"), "");
    refused(12, "ApprovedImage-a.yaml:1: image a: ");
    refused(12, "spec.registries.caFile");
    // A tag may be moved.
    cluster.image("a", "localhost:1/os:latest", "");
    refused(10, "a tag is not enough");
    let reference = layout(
        &cluster.path().join("layout"),
        &Image::of(&files("A", "A"), ""),
    );
    cluster.image("a", &reference, "  updatesFrom: [b]\n");
    refused(10, "a is updated from b: both need an image and platforms");
    cluster.object("ApprovedImage", "a", "  platforms: [x]\n");
    refused(10, "a has platforms but no image");
    cluster.object("ApprovedImage", "a", &format!("  image: {reference}\n"));
    refused(10, "neither platforms nor reference values");
    // Secure Boot, and nobody signed it.
    let spec = format!("  image: {reference}\n  platforms: ['profile:debian13-ovmf-ms']\n");
    cluster.object("ApprovedImage", "a", &spec);
    refused(10, "image a starts on no platform");
    // An image without a kernel.
    let reference = layout(&cluster.path().join("other"), &Image::made(""));
    cluster.image("a", &reference, "");
    refused(10, "nothing in a says how it boots");
}

/// A document of the registries that is none: by which field it was named.
#[test]
fn what_a_registry_needs_is_named_by_its_field() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (field, why) in [
        ("authFile", "expected"),
        ("caFile", "it holds no certificate in PEM"),
        ("cosignKeyFile", "not a public key"),
    ] {
        let cluster = Cluster::new(&format!("{{{field}: wrong}}"));
        std::fs::write(cluster.path().join("wrong"), "hello").unwrap();
        cluster.image("a", &format!("localhost:1/os@{digest}"), "");
        let (exit, says) = cluster.tuples().unwrap_err();
        let expected = format!("wrong (spec.registries.{field}) is not valid: {why}");
        assert!(exit == 15 && says.contains(&expected), "{exit}: {says}");
        assert!(!says.contains("--"), "no option of another program: {says}");
    }
}
