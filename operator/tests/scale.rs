// SPDX-License-Identifier: Apache-2.0

//! Ten thousand machines: what one more costs. Times are in `examples/scale.rs`, counts are here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use kbs_protocol::Secret;
use kbs_protocol::resource::ResourcePath;
use serde_json::Value;
use sheepfold_operator::kbs_admin::Error;
use sheepfold_operator::plan::Write;
use sheepfold_operator::provision::{Options, Outcome, Run, Target, Wishes};
use sheepfold_operator::testing::{directory, machine_file};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// A KBS that only counts.
#[derive(Default)]
struct Counts {
    requests: Cell<usize>,
    bytes: Cell<usize>,
    values: RefCell<BTreeMap<String, Value>>,
}

impl Counts {
    fn count(&self, bytes: usize) -> Result<(), Error> {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        Ok(())
    }

    fn take(&self) -> (usize, usize) {
        (self.requests.take(), self.bytes.take())
    }
}

impl Target for Counts {
    fn set_resource(&self, path: &ResourcePath, secret: &Secret) -> Result<(), Error> {
        self.count(path.as_str().len() + secret.len())
    }
    fn delete_resource(&self, path: &ResourcePath) -> Result<(), Error> {
        self.count(path.as_str().len())
    }
    fn set_reference_values(&self, values: &[(&str, Value)]) -> Result<(), Error> {
        let stored = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.values.borrow_mut().extend(stored);
        self.count(
            values
                .iter()
                .map(|(name, value)| name.len() + value.to_string().len())
                .sum(),
        )
    }
    fn set_attestation_policy(&self, _: &str, text: &str) -> Result<(), Error> {
        self.count(text.len())
    }
    fn set_resource_policy(&self, text: &str) -> Result<(), Error> {
        self.count(text.len())
    }
    fn reference_value(&self, name: &str) -> Result<Option<Value>, Error> {
        Ok(self.values.borrow().get(name).cloned())
    }
}

#[test]
fn one_machine_more_among_ten_thousand_is_three_writes() {
    // Twenty thousand flushes to a disk are not what is counted here.
    let memory = std::path::Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    let cluster = dir.path().join("cluster");
    directory(&cluster, "https://127.0.0.1:1", 10_000).unwrap();
    let kbs = Counts::default();
    let provision = || -> Outcome {
        let mut run = Run::open(&cluster, &Options::default()).unwrap();
        run.provision(&Wishes::default(), &kbs, &mut |_, _| {})
            .unwrap()
    };
    let all = provision().plan;
    assert_eq!(all.problems, []);
    let (requests, bytes) = kbs.take();
    println!(
        "from empty: {} writes, {requests} requests, {bytes} bytes",
        all.writes.len()
    );
    let secrets = all
        .writes
        .iter()
        .filter(|write| matches!(write, Write::Resource { .. }));
    assert_eq!(secrets.count(), 20_000, "each in two places");

    std::fs::write(cluster.join("one-more.yaml"), machine_file(10_000)).unwrap();
    let one = provision().plan;
    let (requests, bytes) = kbs.take();
    println!(
        "one more: {} writes, {requests} requests, {bytes} bytes",
        one.writes.len()
    );
    assert!(one.writes.len() <= 3, "{:?}", one.writes);
    assert!(requests <= 3);
    assert!(bytes < 64 * 1024, "{bytes}");
    assert!(provision().plan.writes.is_empty());
}
