// SPDX-License-Identifier: Apache-2.0

//! `refvals`: reference values from bootable images. What it can do is in [`refvals::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    refvals::cli::run(std::env::args_os())
}
