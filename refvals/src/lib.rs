// SPDX-License-Identifier: Apache-2.0

//! Reference values from bootable images. [`measured_boot`] is pure and knows how machines measure; this crate opens
//! what it reads: directories, layouts and registries ([`source`]), firmware variables and event logs ([`platform`]).
//! The program `refvals` ([`cli`]) and the operator use it.
//!
//! ```no_run
//! # fn main() -> Result<(), refvals::Error> {
//! use measured_boot::{bank::Bank, image::Choice, path::{BootPath, Route}, predict::predict};
//! let image = refvals::source::directory("esp".as_ref(), "my image", &Choice::default())?;
//! let platform = refvals::platform::load("OVMF_VARS_4M.ms.fd", None)?;
//! let path = BootPath::new(image.route.unwrap_or(Route::ShimGrub));
//! let pcrs = predict(&image, &platform, &path)?.pcrs(Bank::Sha256)?;
//! println!("{}", pcrs.get(4));
//! # Ok(()) }
//! ```

pub mod cli;
mod error;
pub mod explain;
mod given;
pub mod label;
pub mod platform;
pub mod preflight;
pub mod source;

pub use error::Error;
pub use given::Given;
