// SPDX-License-Identifier: Apache-2.0

//! Black-box tests of the pin. One program, so that it links once.

// In a test a panic is the report.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;
mod jose;
mod properties;
mod sss;
mod story;
mod upstream;
mod vectors;
