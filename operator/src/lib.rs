// SPDX-License-Identifier: Apache-2.0

//! The server side of Sheepfold: what a Trustee KBS has to know so that each node gets its own secret and
//! nobody else's, and the means to tell it.
//!
//! 1. [`model`]: what is wanted, as values: a cluster with its approved boots, its machines, their secrets.
//! 2. [`policy`]: the two constant Rego texts that a KBS evaluates, and an engine to run them here.
//! 3. [`plan`]: pure; from what is wanted and what was written so far to the next writes, in an order in
//!    which no moment is weaker than both ends.
//! 4. [`kbs_admin`]: sends writes to the KBS, after it has made sure that the KBS is fit to be managed.
//! 5. [`provision`]: applies a directory of files: record, new secrets, one durable step at a time.
//! 6. [`register`]: takes in nodes that prove that their key lives in a known TPM.
//! 7. [`cli`]: these, before a person.
//! 8. [`controllers`]: applies the objects of a Kubernetes namespace, for ever.
//! 9. [`trustee`]: pure; the objects of a Trustee that the operator runs.
//! 10. [`ignition`]: pure; the config by which a node encrypts its volumes on first boot.
//!
//! The first three know no clock, file or socket. Secrets never pass through them: a plan says *which*
//! secret goes where, and [`provision`], which makes them, carries it out.

pub mod bundle;
pub mod cli;
pub mod controllers;
pub mod ignition;
pub mod kbs_admin;
pub mod model;
pub mod plan;
pub mod policy;
pub mod provision;
pub mod register;
pub mod testing;
pub mod trustee;
