// SPDX-License-Identifier: Apache-2.0

//! `sheepfold-operator`: the server side of Sheepfold. One word chooses the duty, see each module.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|word| word.to_str()) {
        Some("register") => sheepfold_operator::register::cli::run(args),
        _ => {
            eprintln!("usage: sheepfold-operator register --config FILE");
            ExitCode::from(2)
        }
    }
}
