// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent doctor`: everything between this node and its secret, in the order in which it is needed.
//! Stops at the first broken thing, because what comes after it cannot work either.

mod findings;

use crate::config::{Config, ServerUrl};
use crate::error::Error;
use crate::evidence::rtmr::Rtmr3;
use crate::evidence::tpm_status::{AkState, inspect};
use crate::evidence::{self, EvidenceError};
use crate::exit;
use crate::kbs::{Client, KbsError, Probe};
use crate::seal::Doors;
use crate::{report, trust};
use findings::{Broken, Checks};
use kbs_protocol::resource::Volume;
use kbs_protocol::{Blame as _, NodeId, Owner, Tee};
use serde_json::json;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

pub(super) fn run(path: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let mut checks = Checks::default();
    checks.note("configuration", &path.display().to_string());
    let broken = examine(&config, path, &mut checks).err();
    let facts = json!({
        "ok": broken.is_none(),
        "checks": checks.lines(),
        "broken": broken.as_ref().map(Broken::to_json),
    });
    let text = checks.to_text(broken.as_ref());
    report::success(&facts, &text, json)?;
    Ok(broken.map_or(ExitCode::SUCCESS, |broken| exit::status(broken.owner)))
}

/// The checks, in order.
fn examine(config: &Config, path: &Path, checks: &mut Checks) -> Result<(), Broken> {
    check_processor(config, checks)?;
    let node = match config.evidence.has_tpm() {
        true => check_tpm(config, checks)?,
        false => Some(check_assigned(config, checks)?),
    };
    check_clock(path, SystemTime::now(), checks)?;
    let addresses = check_names(config, checks)?;
    check_tcp(config, &addresses, checks)?;
    check_servers(config, &node, checks)
}

/// Driver, interface and provider of each source that is no TPM; the sentence says which of them is missing.
fn check_processor(config: &Config, checks: &mut Checks) -> Result<(), Broken> {
    for tee in config.evidence.all().filter(|tee| *tee != Tee::Tpm) {
        let what = evidence::attester(tee, &config.evidence, &config.tpm, None)
            .and_then(|mut attester| attester.detect())
            .map_err(|error| {
                Broken::new("evidence", error.owner(), error.to_string(), error.advice())
            })?;
        checks.note("evidence", &what);
    }
    // Found out now, and not when the machine powers off at the end of its initramfs.
    if let Some(root) = Doors::of(config).rtmr3 {
        Rtmr3::find(root).map_err(|error| {
            Broken::new("seal", error.owner(), error.to_string(), error.advice())
        })?;
        checks.note("seal", "RTMR 3 can be extended");
    }
    Ok(())
}

/// Without a TPM only init-data can name the node.
fn check_assigned(config: &Config, checks: &mut Checks) -> Result<NodeId, Broken> {
    let Some(id) = config.assigned_id() else {
        let tee = config.evidence.primary;
        let error = EvidenceError::Nameless { tee };
        return Err(Broken::new(
            "node id",
            error.owner(),
            error.to_string(),
            error.advice(),
        ));
    };
    checks.note("node id", &format!("{id}, assigned by init-data"));
    Ok(id)
}

fn check_tpm(config: &Config, checks: &mut Checks) -> Result<Option<NodeId>, Broken> {
    let tpm = inspect(&config.tpm.tcti, config.tpm.ak_handle)
        .map_err(|error| Broken::new("TPM", error.owner(), error.to_string(), error.advice()))?;
    checks.note(
        "TPM",
        &format!("{} firmware {}", tpm.manufacturer, tpm.firmware),
    );
    if tpm.pcrs.is_none() {
        return Err(Broken::new(
            "TPM",
            Owner::Machine,
            format!(
                "its SHA-256 bank is not active, only {}",
                tpm.banks.join(", ")
            ),
            "allocate the bank (tpm2_pcrallocate sha256:all) and restart the machine".to_owned(),
        ));
    }
    match tpm.ak {
        AkState::Ok { node_id, .. } => {
            checks.note("attestation key", &format!("node {node_id}"));
            Ok(node_id.parse().ok())
        }
        AkState::Absent => {
            checks.note(
                "attestation key",
                "none yet; the first attestation makes it",
            );
            Ok(None)
        }
        AkState::Weak { why, advice } => {
            Err(Broken::new("attestation key", Owner::Machine, why, advice))
        }
    }
}

/// The clock belongs to the host; all that can be said alone is that it must not be older than the
/// configuration it reads. The server's own time is compared later.
fn check_clock(path: &Path, now: SystemTime, checks: &mut Checks) -> Result<(), Broken> {
    let written = std::fs::metadata(path)
        .and_then(|data| data.modified())
        .ok();
    if let Some(behind) = written.and_then(|written| written.duration_since(now).ok())
        && behind > CLOCK_TOLERANCE
    {
        return Err(Broken::new(
            "clock",
            Owner::Machine,
            format!(
                "it is {} s behind the date of {}",
                behind.as_secs(),
                path.display()
            ),
            "set the clock of the machine or its host; certificates look not yet valid to it"
                .to_owned(),
        ));
    }
    checks.note("clock", "plausible");
    Ok(())
}

fn check_names(
    config: &Config,
    checks: &mut Checks,
) -> Result<Vec<Option<Vec<SocketAddr>>>, Broken> {
    let resolve = |server: &ServerUrl| {
        let Some(target) = server.host_and_port() else {
            return Err("it has no host".to_owned());
        };
        target
            .to_socket_addrs()
            .map(Vec::from_iter)
            .map_err(|error| error.to_string())
    };
    each("name", &config.kbs.servers, checks, |server| {
        let addresses = resolve(server).map_err(|why| {
            Broken::new(
                "name",
                Owner::Network,
                format!("{server}: its name does not resolve: {why}"),
                "look at the resolver (/etc/resolv.conf), or write an address into kbs.servers"
                    .to_owned(),
            )
        })?;
        let shown: Vec<String> = addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        Ok((format!("{server} is {}", shown.join(", ")), addresses))
    })
}

fn check_tcp(
    config: &Config,
    addresses: &[Option<Vec<SocketAddr>>],
    checks: &mut Checks,
) -> Result<(), Broken> {
    let mut addresses = addresses.iter();
    each("TCP", &config.kbs.servers, checks, |server| {
        let candidates = addresses.next().cloned().flatten().unwrap_or_default();
        let mut why = "its name does not resolve".to_owned();
        for address in candidates {
            match TcpStream::connect_timeout(&address, config.timeouts.connect) {
                Ok(_) => return Ok((format!("{server} accepts connections at {address}"), ())),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(Broken::new(
            "TCP",
            Owner::Network,
            format!("{server}: no connection: {why}"),
            "look at the network of this node, at firewalls, and at whether the KBS runs"
                .to_owned(),
        ))
    })
    .map(|_: Vec<Option<()>>| ())
}

/// TLS and protocol in one request: a challenge is asked for and forgotten.
fn check_servers(
    config: &Config,
    node: &Option<NodeId>,
    checks: &mut Checks,
) -> Result<(), Broken> {
    let broken = |error: &dyn kbs_protocol::Blame, check| {
        Broken::new(check, error.owner(), error.to_string(), error.advice())
    };
    let node = node.unwrap_or_else(|| NodeId::from_spki_der(&[]));
    let client = trust::configured(config, &node, &Volume::default())
        .map_err(Error::from)
        .and_then(|target| Ok(Client::new(&target, &config.timeouts)?))
        .map_err(|error| broken(&error, "configuration"))?;
    let mut probes = client.probe(config.evidence.primary).into_iter();
    let mut skews = Vec::new();
    each(
        "TLS and protocol",
        &config.kbs.servers,
        checks,
        |server| match probes.next() {
            Some(Ok(Probe { clock_skew, .. })) => {
                skews.extend(clock_skew);
                let protocol = kbs_protocol::message::PROTOCOL_VERSION;
                Ok((
                    format!("{server} is who we trust and speaks {protocol}"),
                    (),
                ))
            }
            Some(Err(error)) => {
                let check = if matches!(error, KbsError::Tls { .. }) {
                    "TLS"
                } else {
                    "protocol"
                };
                Err(broken(&error, check))
            }
            None => Err(Broken::new(
                "protocol",
                Owner::Server,
                format!("{server}: not asked"),
                String::new(),
            )),
        },
    )
    .map(|_: Vec<Option<()>>| ())?;
    for skew in skews
        .into_iter()
        .filter(|skew| skew.unsigned_abs() > CLOCK_TOLERANCE.as_secs())
    {
        checks.warn(
            "clock",
            &format!("the server's clock differs by {skew} s; one of the two is wrong"),
        );
    }
    Ok(())
}

/// One check over all servers: it holds if one server passes; the others become warnings.
fn each<T>(
    name: &'static str,
    servers: &[ServerUrl],
    checks: &mut Checks,
    mut check: impl FnMut(&ServerUrl) -> Result<(String, T), Broken>,
) -> Result<Vec<Option<T>>, Broken> {
    let results: Vec<_> = servers.iter().map(&mut check).collect();
    let one_passes = results.iter().any(Result::is_ok);
    let mut values = Vec::new();
    for result in results {
        match result {
            Ok((fact, value)) => {
                checks.note(name, &fact);
                values.push(Some(value));
            }
            Err(broken) if one_passes => {
                checks.warn(name, &broken.why);
                values.push(None);
            }
            Err(broken) => return Err(broken),
        }
    }
    Ok(values)
}

/// Below this no certificate and no token notices.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::{CLOCK_TOLERANCE, Checks, check_clock};
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_clock_before_the_configuration_is_broken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (path, mut checks) = (file.path(), Checks::default());
        let now = SystemTime::now();
        assert!(check_clock(path, now, &mut checks).is_ok());
        let wound_back = now - CLOCK_TOLERANCE - Duration::from_secs(5);
        let broken = check_clock(path, wound_back, &mut checks).err().unwrap();
        assert!(broken.why.contains("behind the date of"), "{}", broken.why);
    }
}
