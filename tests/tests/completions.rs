// SPDX-License-Identifier: Apache-2.0
//! Shell completions: what they offer is what the programs know, and each shell can read its own.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use std::collections::BTreeSet;

use sheepfold_tests::paths;
use sheepfold_tests::process::Run;

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];
const PROGRAMS: [&str; 4] = ["trustee-agent", "lab-kbs", "refvals", "sheepfold-operator"];

/// The script of a program for a shell: from the program itself, where it knows how.
fn script(program: &str, shell: &str) -> String {
    let run = match program {
        "trustee-agent" | "lab-kbs" => {
            Run::new(paths::binary("sheepfold-completions").unwrap()).arg(program)
        }
        _ => Run::new(paths::binary(program).unwrap()).arg("completions"),
    };
    run.arg(shell).success().unwrap().out()
}

/// Long options and the first words of commands, as the help of a program without clap shows them.
fn of_the_help(program: &str) -> BTreeSet<String> {
    let help = Run::new(paths::binary(program).unwrap())
        .arg("--help")
        .success()
        .unwrap()
        .out();
    // What is below is about faults and refusals of the server.
    let help = help.split("\nFaults (").next().unwrap();
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    let options = help
        .match_indices("--")
        .map(|(at, _)| help[at..].split(ends).next().unwrap().to_owned())
        .filter(|option| option.len() > 2);
    options.collect()
}

#[test]
fn completions_offer_what_the_programs_know() {
    for (program, least) in [("trustee-agent", 11), ("lab-kbs", 20)] {
        let known = of_the_help(program);
        assert!(known.len() >= least, "{known:?}");
        // In the script for fish every option is a word: `-l name`.
        let script = script(program, "fish");
        let offered: BTreeSet<String> = script
            .lines()
            .filter(|line| line.starts_with("complete -c "))
            .filter_map(|line| line.split(" -l ").nth(1))
            .map(|rest| format!("--{}", rest.split(' ').next().unwrap()))
            .collect();
        let without_help = |options: BTreeSet<String>| -> BTreeSet<String> {
            options
                .into_iter()
                .filter(|name| name != "--help")
                .collect()
        };
        assert_eq!(without_help(offered), without_help(known), "{program}");
    }
    // The agent's help lists its commands.
    let help = Run::new(paths::binary("trustee-agent").unwrap()).arg("--help");
    let help = help.success().unwrap().out();
    let commands: BTreeSet<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    let script = script("trustee-agent", "fish");
    let offered: BTreeSet<String> = script
        .lines()
        .filter(|line| line.contains("__fish_trustee_agent_needs_command"))
        .filter_map(|line| line.split(" -a \"").nth(1))
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert_eq!(offered, commands);
}

#[test]
fn every_shell_reads_its_own() {
    for program in PROGRAMS {
        for shell in SHELLS {
            let script = script(program, shell);
            assert!(script.contains(program), "{program} {shell}");
            if paths::tool(shell).is_none() {
                paths::skipped(&format!("{shell} is not installed"));
                continue;
            }
            let arguments: &[&str] = match shell {
                "fish" => &["--no-execute"],
                _ => &["-n"],
            };
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            Run::new(shell)
                .args(arguments)
                .arg(file.path())
                .success()
                .unwrap();
        }
    }
}

/// What a person sees after the tabulator key, in the shell that every machine has.
#[test]
fn bash_completes() {
    for (program, line, expected) in [
        ("trustee-agent", "trustee-agent sta", vec!["status"]),
        (
            "trustee-agent",
            "trustee-agent seal --or",
            vec!["--or-poweroff"],
        ),
        (
            "lab-kbs",
            "lab-kbs serve --policy st",
            vec!["strict", "stock"],
        ),
        ("refvals", "refvals pre", vec!["predict", "preflight"]),
        (
            "sheepfold-operator",
            "sheepfold-operator re",
            vec!["register", "rebound", "renew-volume", "revoke"],
        ),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script(program, "bash")).unwrap();
        let function = program.replace('-', "__");
        let ask = format!(
            "source {}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _{function} {program} \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.path().display()
        );
        let answer = Run::new("bash").args(["-c", &ask]).success().unwrap().out();
        let offered: BTreeSet<&str> = answer.lines().collect();
        assert_eq!(offered, expected.into_iter().collect(), "{line}");
    }
}
