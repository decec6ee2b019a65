// SPDX-License-Identifier: Apache-2.0

//! `sheepfold-completions PROGRAM SHELL` prints completions of `trustee-agent` or `lab-kbs`, whose command lines are read
//! without clap: an initramfs does not pay for completions. The other programs print their own. What is written down here
//! is held against their `--help` by `tests/tests/completions.rs`.

mod agent;
mod lab_kbs;

use clap::{Command, Parser, ValueEnum};
use clap_complete::{Shell, generate};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Prints shell completions.
#[derive(Debug, Parser)]
#[command(name = "sheepfold-completions", version)]
struct Invocation {
    /// Whose.
    program: Program,
    /// For which shell.
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Program {
    TrusteeAgent,
    LabKbs,
}

fn main() -> ExitCode {
    let Invocation { program, shell } = Invocation::parse();
    let mut command = command(program);
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    generate(shell, &mut command, &name, &mut script);
    // In a bash script of clap_complete 4.6.12, what a program's commands complete to is listed under another name than it
    // is looked for, where the program has a dash in its name.
    let (looked_for, listed) = (name.replace('-', "__"), name.replace('-', "__subcmd__"));
    let script = String::from_utf8_lossy(&script).replace(&listed, &looked_for);
    match io::stdout().write_all(script.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sheepfold-completions: cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command(program: Program) -> Command {
    match program {
        Program::TrusteeAgent => agent::command(),
        Program::LabKbs => lab_kbs::command(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Program, command};
    use clap::ValueEnum as _;

    #[test]
    fn the_command_lines_are_consistent() {
        for program in Program::value_variants() {
            command(*program).debug_assert();
        }
    }
}
