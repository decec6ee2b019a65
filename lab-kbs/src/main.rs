// SPDX-License-Identifier: Apache-2.0

//! The `lab-kbs` command: hands its arguments to the library and exits with the code it gets back.

fn main() -> std::process::ExitCode {
    lab_kbs::cli::main(std::env::args_os())
}
