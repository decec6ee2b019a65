// SPDX-License-Identifier: Apache-2.0

//! `sheepfold-operator`: the server side of Sheepfold. What it can do is in [`sheepfold_operator::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sheepfold_operator::cli::run(std::env::args_os())
}
