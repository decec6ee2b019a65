// SPDX-License-Identifier: Apache-2.0

//! A small key broker service that speaks the protocol of Trustee, for tests, demos and laboratories.
//!
//! It is not for production: production is Trustee. It exists so that every path of the agent, failures
//! included, can be walked on one machine and without a confidential computer. Tests start it in their own
//! process:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let dir = std::path::Path::new("/tmp/lab");
//! lab_kbs::keys::init(dir, &lab_kbs::keys::InitOptions::default())?;
//! let server = lab_kbs::Server::start(lab_kbs::Options::new(dir))?;
//! server.faults().set_text("error=attest:attest*1")?;
//! println!("{}", server.url());
//! # Ok(())
//! # }
//! ```
//!
//! A request travels through the modules in this order: [`server`] accepts it, `http` reads it and lets
//! the [`fault`] knobs interfere, `router` chooses between `handshake`, `resource` and `management`.
//! `handshake` asks `verifier` for claims, `policy` for a verdict and `ear` for a token; `resource` asks
//! `token` who is calling and `policy` whether they may. What must survive a restart is in `store`.
//! Every refusal is a [`wire_error::WireError`], with a cause that only the server's own log shows.

mod admin_auth;
pub mod admin_client;
pub mod cli;
mod clock;
pub mod dialect;
mod ear;
pub mod fault;
mod handshake;
mod http;
mod jws;
pub mod keys;
mod management;
mod options;
mod policy;
mod random;
mod resource;
mod router;
pub mod server;
mod session;
mod store;
mod token;
mod verifier;
pub mod wire_error;

pub use dialect::Dialect;
pub use fault::{Fault, Faults, Step};
pub use options::{Acl, Options, PolicySet};
pub use server::{Seen, Server};
