// SPDX-License-Identifier: Apache-2.0

//! The command line: which words mean what. Nothing is done here.

use crate::initramfs;
use kbs_protocol::resource::Volume;
use lexopt::ValueExt as _;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The subcommand.
    pub command: Command,
    /// `--config`, else the variable, else the default path.
    pub config: PathBuf,
    /// Results and errors as one JSON object on standard output.
    pub json: bool,
}

/// A subcommand with its own options.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Prove what booted; fetch nothing.
    Attest,
    /// Fetch one resource and write it to standard output.
    Fetch {
        /// Which one.
        resource: Resource,
    },
    /// Fetch this node's Ignition config and put it where Ignition looks.
    FetchConfig {
        /// The file system in which Ignition runs.
        root: PathBuf,
    },
    /// Prove to the registrar that the key lives in a TPM it knows.
    Enroll,
    /// Show what this node is and whom it trusts. Asks no server.
    Status,
    /// Open volumes.
    Unlock(Unlock),
    /// Give systemd-cryptsetup the passphrase of one volume.
    Answer(Unlock),
    /// Bind volumes to the present secret.
    Rebind(Unlock),
    /// Give volumes a key slot for the recovery passphrase.
    Recovery(Unlock),
    /// Ask for the secret, throw it away, and say why it came or did not.
    Explain {
        /// The volume whose secret is asked for.
        volume: Volume,
    },
    /// The same for a token from standard input, without a handshake.
    ExplainToken,
    /// Check everything between this node and its secret, in order.
    Doctor,
    /// Make sure that the root is a volume that the agent opened.
    Guard,
    /// Tell the registrar which volumes this boot has opened.
    RecordBoot,
    /// Shut the door behind the last fetch.
    Seal {
        /// If that fails, power the machine off.
        or_poweroff: bool,
    },
    /// First boot: the volumes that Ignition has just bound open with what the KBS gives.
    VerifyBinding,
    /// The Clevis pin.
    Pin(Pin),
    /// Called by systemd before any unit of the initramfs.
    Generator {
        /// Where units of this boot are written (systemd.generator(7), the first directory).
        normal: PathBuf,
    },
    /// Print a text and leave.
    Print(&'static str),
}

/// What `fetch` fetches.
#[derive(Debug, PartialEq, Eq)]
pub enum Resource {
    /// The secret of a volume, where `kbs.path` says.
    Volume(Volume),
    /// A path in the KBS, `{node}` allowed.
    Path(String),
}

/// Which volumes, and how far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unlock {
    /// Their device-mapper names, one at least.
    pub names: Vec<String>,
    /// The device of the only one; otherwise the kernel command line or `/etc/crypttab` says.
    pub device: Option<PathBuf>,
    /// Everything but the activation.
    pub test: bool,
    /// Hand over the ids of the volume keys, as on first boot.
    pub record: bool,
}

/// The two halves of the Clevis pin.
#[derive(Debug, PartialEq, Eq)]
pub enum Pin {
    /// Plaintext on standard input, token on standard output.
    Encrypt {
        /// The pin's configuration, a JSON object.
        config: OsString,
    },
    /// Token on standard input, plaintext on standard output.
    Decrypt,
    /// `--summary` of the encrypting half: one line, nothing else.
    Summary,
    /// Not called as Clevis calls it; holds the usage text.
    Usage(&'static str),
}

/// Reads the command line. The name the program was started under decides first: Clevis finds its pins by
/// name.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, lexopt::Error> {
    let mut args = args.into_iter();
    let name = args.next().map(PathBuf::from).unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match name.file_name().and_then(|name| name.to_str()) {
        Some(ENCRYPT_NAME) => Ok(pin(parse_encrypt(&rest))),
        Some(DECRYPT_NAME) => Ok(pin(parse_decrypt(&rest))),
        Some(GENERATOR_NAME) => parse_generator(&rest),
        _ => parse_agent(rest),
    }
}

fn parse_agent(args: Vec<OsString>) -> Result<Invocation, lexopt::Error> {
    use lexopt::Arg::{Long, Short, Value};

    let mut config = default_config();
    let mut json = false;
    let mut path = None;
    let mut volume = None;
    let mut root = None;
    let mut token_from_stdin = false;
    let mut or_poweroff = false;
    let mut unlock = Unlock::default();
    let mut words: Vec<String> = Vec::new();
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("config") => config = parser.value()?.into(),
            Long("json") => json = true,
            Long("path") => path = Some(parser.value()?.string()?),
            Long("volume") => volume = Some(parser.value()?.parse::<Volume>()?),
            Long("root") => root = Some(PathBuf::from(parser.value()?)),
            Long("name") => unlock.names.push(parser.value()?.string()?),
            Long("device") => unlock.device = Some(parser.value()?.into()),
            Long("test") => unlock.test = true,
            Long("record") => unlock.record = true,
            Long("token") => {
                let value = parser.value()?;
                if value != "-" {
                    return Err("--token takes `-` only: the token comes on standard input".into());
                }
                token_from_stdin = true;
            }
            Long("or-poweroff") => or_poweroff = true,
            Long("help") | Short('h') => return Ok(print(HELP)),
            Long("version") | Short('V') => return Ok(print(VERSION)),
            Value(word) => {
                words.push(word.string()?);
                if json && words.first().is_some_and(|word| word == "pin") {
                    return Err(
                        "--json does not go with `pin`: its output is the token or the plaintext"
                            .into(),
                    );
                }
                if words == ["pin", "encrypt"] {
                    let rest: Vec<OsString> = parser.raw_args()?.collect();
                    return Ok(Invocation {
                        config,
                        ..pin(parse_encrypt(&rest))
                    });
                }
                if words == ["pin", "decrypt"] {
                    let rest: Vec<OsString> = parser.raw_args()?.collect();
                    return Ok(Invocation {
                        config,
                        ..pin(parse_decrypt(&rest))
                    });
                }
            }
            _ => return Err(arg.unexpected()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = match words.as_slice() {
        ["attest"] => Command::Attest,
        ["fetch"] => Command::Fetch {
            resource: match (path.take(), volume.take()) {
                (Some(_), Some(_)) => return Err("--path names the volume already".into()),
                (Some(path), None) => Resource::Path(path),
                (None, volume) => Resource::Volume(volume.unwrap_or_default()),
            },
        },
        ["fetch-config"] => Command::FetchConfig {
            root: root.take().unwrap_or_else(|| "/".into()),
        },
        ["enroll"] => Command::Enroll,
        ["status"] => Command::Status,
        ["explain"] if std::mem::take(&mut token_from_stdin) => Command::ExplainToken,
        ["explain"] => Command::Explain {
            volume: volume.take().unwrap_or_default(),
        },
        ["doctor"] => Command::Doctor,
        ["guard"] => Command::Guard,
        ["record-boot"] => Command::RecordBoot,
        ["seal"] => Command::Seal {
            or_poweroff: std::mem::take(&mut or_poweroff),
        },
        ["verify-binding"] => Command::VerifyBinding,
        ["unlock"] => Command::Unlock(checked(std::mem::take(&mut unlock))?),
        ["answer" | "rebind" | "recovery"] if unlock.test || unlock.record => {
            return Err("--record and --test go with `unlock` only".into());
        }
        ["answer"] if unlock.names.len() == 1 => {
            Command::Answer(checked(std::mem::take(&mut unlock))?)
        }
        ["answer"] => return Err("`answer` needs one --name NAME".into()),
        ["rebind"] => Command::Rebind(checked(std::mem::take(&mut unlock))?),
        ["recovery"] => Command::Recovery(checked(std::mem::take(&mut unlock))?),
        [] => return Err("no command: try `trustee-agent --help`".into()),
        other => {
            return Err(format!(
                "unknown command {:?}: try `trustee-agent --help`",
                other.join(" ")
            )
            .into());
        }
    };
    if or_poweroff {
        return Err("--or-poweroff goes with `seal` only".into());
    }
    if unlock != Unlock::default() {
        return Err("--name and --device go with `unlock`, `answer`, `rebind` and `recovery`, --record and --test with `unlock` only".into());
    }
    if path.is_some() {
        return Err("--path goes with `fetch` only".into());
    }
    if volume.is_some() {
        return Err("--volume goes with `fetch` and `explain` without --token only".into());
    }
    if root.is_some() {
        return Err("--root goes with `fetch-config` only".into());
    }
    if token_from_stdin {
        return Err("--token goes with `explain` only".into());
    }
    Ok(Invocation {
        command,
        config,
        json,
    })
}

/// A name becomes part of paths and of the kernel's names; systemd knows no more characters unescaped.
fn checked(unlock: Unlock) -> Result<Unlock, lexopt::Error> {
    if unlock.names.is_empty() {
        return Err(
            "`unlock`, `rebind` and `recovery` need --name NAME, once for each volume".into(),
        );
    }
    if unlock.device.is_some() && unlock.names.len() > 1 {
        return Err("--device goes with one --name only".into());
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    for name in &unlock.names {
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(legal) {
            return Err(format!(
                "a volume's name is 1 to 64 letters, digits, \"-\", \"_\" and \".\", got {name:?}"
            )
            .into());
        }
    }
    Ok(unlock)
}

/// `clevis-encrypt-trustee CONFIG [-y]`; Clevis passes an empty second word at times.
fn parse_encrypt(args: &[OsString]) -> Pin {
    match args {
        [summary] if summary == "--summary" => Pin::Summary,
        [config] if !config.is_empty() && config != "--help" => Pin::Encrypt {
            config: config.clone(),
        },
        [config, flag] if flag == "-y" || flag.is_empty() => Pin::Encrypt {
            config: config.clone(),
        },
        _ => Pin::Usage(clevis_pin::command::ENCRYPT_USAGE),
    }
}

fn parse_decrypt(args: &[OsString]) -> Pin {
    if args.is_empty() {
        Pin::Decrypt
    } else {
        Pin::Usage(clevis_pin::command::DECRYPT_USAGE)
    }
}

/// `trustee-generator NORMAL EARLY LATE`.
fn parse_generator(args: &[OsString]) -> Result<Invocation, lexopt::Error> {
    let [normal, _early, _late] = args else {
        return Err("systemd calls this with three directories: NORMAL EARLY LATE".into());
    };
    Ok(Invocation {
        command: Command::Generator {
            normal: normal.into(),
        },
        config: default_config(),
        json: false,
    })
}

fn pin(pin: Pin) -> Invocation {
    Invocation {
        command: Command::Pin(pin),
        config: default_config(),
        json: false,
    }
}

fn print(text: &'static str) -> Invocation {
    Invocation {
        command: Command::Print(text),
        config: PathBuf::new(),
        json: false,
    }
}

fn default_config() -> PathBuf {
    initramfs::variable(CONFIG_VARIABLE).map_or_else(|| DEFAULT_CONFIG.into(), PathBuf::from)
}

const ENCRYPT_NAME: &str = "clevis-encrypt-trustee";
const DECRYPT_NAME: &str = "clevis-decrypt-trustee";
const GENERATOR_NAME: &str = "trustee-generator";
const CONFIG_VARIABLE: &str = "TRUSTEE_AGENT_CONFIG";
const DEFAULT_CONFIG: &str = "/etc/trustee/agent.toml";
const VERSION: &str = concat!("trustee-agent ", env!("CARGO_PKG_VERSION"), "\n");
const HELP: &str = "\
Proves to a Trustee KBS what this machine booted, and fetches the secret that belongs to it alone.

Usage: trustee-agent [--config FILE] [--json] COMMAND

Commands:
  attest               prove what booted, show the verdict, fetch nothing
  fetch [--volume NAME | --path PATH]
                       write the secret of a volume (default: root) to standard output, from where
                       kbs.path of agent.toml says; or the resource at PATH, which the booted system
                       can still read if it is runtime/{node}/NAME
  fetch-config [--root DIR]
                       fetch this node's Ignition config from where ignition.path of agent.toml says, check
                       it, and put it where Ignition looks, below DIR (default: /)
  enroll               prove once to the registrar that this node's key lives in its TPM
  status               show this node's id, keys and trust anchors, which volumes are bound, how far the
                       boot is, and for whom it waits; asks no server
  explain [--volume NAME | --token -]
                       ask for the secret, throw it away, and say why it came or did not;
                       with `--token -` read an attestation token from standard input instead
  unlock --name NAME…  open volumes by the secrets of this node, from headers judged first
         [--device DEV]  (default: rd.luks.name= of the kernel command line, then /etc/crypttab)
         [--test]        stop before the volume becomes active
         [--record]      record the ids of the volume keys, as on first boot
  answer --name NAME   give systemd-cryptsetup, which asks at the socket on standard input, the passphrase
         [--device DEV]  of a volume whose header was judged; for unlock.mode = \"socket\"
  verify-binding       first boot: every open volume can be unlocked again, before anything is written to it;
                       records the ids of the volume keys
  rebind --name NAME…  after a rotation: bind volumes to the present secret, before the seal
         [--device DEV]
  recovery --name NAME…
         [--device DEV]  give volumes a key slot for the recovery passphrase that the KBS keeps, before the seal
  doctor               check TPM, key, clock, name, network, certificate and protocol, in this order
  guard                make sure that what is mounted at /sysroot is a volume that the agent opened
  record-boot          tell the registrar which volumes this boot has opened, signed by the TPM, before the seal
  seal [--or-poweroff] move the register that disk secrets depend on: no more of them until the next
                       boot; if that fails, power off
  pin encrypt CONFIG   the Clevis pin `trustee`: plaintext in, token out
  pin decrypt          the Clevis pin `trustee`: token in, plaintext out

Options:
  --config FILE        trust anchors and timeouts (default: $TRUSTEE_AGENT_CONFIG, else
                       /etc/trustee/agent.toml; in an initramfs always the latter)
  --json               results and errors as one JSON object on standard output
  -h, --help           this text
  -V, --version        the version

Exit codes: 0 done, 2 usage, 10 configuration, 11 machine, 12 network, 13 server, 14 policy, 15 data.
`status` ends with the code of the party for whom this boot waits.
Started as clevis-encrypt-trustee or clevis-decrypt-trustee it is the pin, with exit codes 0, 1 and 2.
";

#[cfg(test)]
mod tests {
    use super::{Command, Invocation, Pin, Resource, parse};
    use std::ffi::OsString;

    fn read(line: &[&str]) -> Result<Invocation, String> {
        parse(line.iter().map(OsString::from)).map_err(|e| e.to_string())
    }

    fn command(line: &[&str]) -> Command {
        read(line).unwrap().command
    }

    #[test]
    fn commands_and_options_in_any_order() {
        let invocation = read(&[
            "trustee-agent",
            "--json",
            "fetch",
            "--path",
            "a/b/c",
            "--config",
            "x",
        ])
        .unwrap();
        assert!(invocation.json);
        assert_eq!(invocation.config.to_str(), Some("x"));
        assert_eq!(
            invocation.command,
            Command::Fetch {
                resource: Resource::Path("a/b/c".to_owned())
            }
        );
        let data = || "data".parse().unwrap();
        assert_eq!(
            command(&["t", "fetch", "--volume", "data"]),
            Command::Fetch {
                resource: Resource::Volume(data())
            }
        );
        assert_eq!(
            command(&["t", "--volume", "data", "explain"]),
            Command::Explain { volume: data() }
        );
        assert_eq!(command(&["./trustee-agent", "attest"]), Command::Attest);
        assert_eq!(command(&["./trustee-agent", "enroll"]), Command::Enroll);
        for (line, root) in [
            (&["t", "fetch-config"][..], "/"),
            (&["t", "--root", "/sysroot", "fetch-config"], "/sysroot"),
        ] {
            assert_eq!(command(line), Command::FetchConfig { root: root.into() });
        }
        assert_eq!(
            command(&["t", "explain", "--token", "-"]),
            Command::ExplainToken
        );
    }

    #[test]
    fn only_who_says_so_powers_off() {
        let seal = |or_poweroff| Command::Seal { or_poweroff };
        assert_eq!(command(&["t", "seal"]), seal(false));
        assert_eq!(command(&["t", "seal", "--or-poweroff"]), seal(true));
        assert_eq!(command(&["t", "guard"]), Command::Guard);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, reason) in [
            (&["t"][..], "no command"),
            (&["t", "fetsch"], "\"fetsch\""),
            (&["t", "attest", "now"], "\"attest now\""),
            (&["t", "attest", "--path", "a/b/c"], "`fetch` only"),
            (&["t", "fetch", "--root", "/"], "`fetch-config` only"),
            (&["t", "attest", "--token", "-"], "`explain` only"),
            (&["t", "attest", "--volume", "data"], "`fetch`"),
            (
                &["t", "explain", "--token", "-", "--volume", "data"],
                "--token",
            ),
            (&["t", "fetch", "--volume", "a/b"], "segment"),
            (
                &["t", "fetch", "--volume", "data", "--path", "a/b/c"],
                "--path",
            ),
            (&["t", "guard", "--or-poweroff"], "`seal` only"),
            (&["t", "--frob"], "--frob"),
            (&["t", "fetch", "--path"], "--path"),
            (&["t", "explain", "--token", "file"], "standard input"),
            (&["t", "unlock"], "--name"),
            (&["t", "answer"], "one --name"),
            (&["t", "answer", "--name", "a", "--name", "b"], "one --name"),
            (&["t", "answer", "--name", "../a"], "1 to 64 letters"),
            (&["t", "attest", "--name", "x"], "`unlock` only"),
            (&["t", "unlock", "--name", "../x"], "1 to 64 letters"),
            (
                &[
                    "t", "unlock", "--name", "a", "--name", "b", "--device", "/x",
                ],
                "one --name",
            ),
            (&["t", "--json", "pin", "decrypt"], "`pin`"),
        ] {
            assert!(read(line).unwrap_err().contains(reason), "{line:?}");
        }
        for command in ["answer", "rebind", "recovery"] {
            for option in ["--test", "--record"] {
                let line = ["t", command, "--name", "a", option];
                let error = read(&line).unwrap_err();
                assert!(error.contains("with `unlock` only"), "{line:?}: {error}");
            }
        }
    }

    #[test]
    fn clevis_finds_its_pins_by_name() {
        let encrypt =
            |args: &[&str]| command(&[&["/usr/bin/clevis-encrypt-trustee"], args].concat());
        let config = || {
            Command::Pin(Pin::Encrypt {
                config: "{}".into(),
            })
        };
        assert_eq!(encrypt(&["{}"]), config());
        assert_eq!(encrypt(&["{}", "-y"]), config());
        assert_eq!(encrypt(&["{}", ""]), config());
        assert_eq!(encrypt(&["--summary"]), Command::Pin(Pin::Summary));
        for wrong in [
            &[][..],
            &[""],
            &["--help"],
            &["{}", "-n"],
            &["{}", "-y", "x"],
        ] {
            assert!(
                matches!(encrypt(wrong), Command::Pin(Pin::Usage(_))),
                "{wrong:?}"
            );
        }
        assert_eq!(
            command(&["clevis-decrypt-trustee"]),
            Command::Pin(Pin::Decrypt)
        );
        assert!(matches!(
            command(&["clevis-decrypt-trustee", "--summary"]),
            Command::Pin(Pin::Usage(_))
        ));
    }

    #[test]
    fn systemd_finds_its_generator_by_name() {
        let generator = "/usr/lib/systemd/system-generators/trustee-generator";
        let normal = Command::Generator {
            normal: "/n".into(),
        };
        assert_eq!(command(&[generator, "/n", "/e", "/l"]), normal);
        for wrong in [&[generator][..], &[generator, "/n"]] {
            assert!(read(wrong).unwrap_err().contains("three directories"));
        }
    }

    #[test]
    fn the_pin_is_reachable_as_a_subcommand_too() {
        let invocation = read(&["t", "--config", "x", "pin", "encrypt", "{}", "-y"]).unwrap();
        assert_eq!(invocation.config.to_str(), Some("x"));
        assert_eq!(
            invocation.command,
            Command::Pin(Pin::Encrypt {
                config: "{}".into()
            })
        );
        assert_eq!(
            command(&["t", "pin", "decrypt"]),
            Command::Pin(Pin::Decrypt)
        );
    }
}
