// SPDX-License-Identifier: Apache-2.0

//! Intel TDX: is this quote by an enclave of Intel's, at which patch level, and what does it say? The verification
//! itself is the library's (`dcap-qvl`); collateral comes from files.

use super::roots::Roots;
use super::{Claims, hex};
use crate::clock::unix_now;
use anyhow::{Context as _, ensure};
use dcap_qvl::policy::{PckCertFlag, QuoteClaims, QuotePolicy};
use dcap_qvl::quote::{Quote, Report, TDAttributes, TDReport10};
use dcap_qvl::verify::QuoteVerifier;
use kbs_protocol::Tee;
use kbs_protocol::encoding::b64;
use kbs_protocol::evidence::TdxEvidence;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use measured_boot::bank::Bank;
use measured_boot::eventlog::{Event, EventLog};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

pub(super) fn verify(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
    roots: &Roots,
) -> anyhow::Result<Claims> {
    let evidence =
        TdxEvidence::deserialize(evidence).context("the TDX evidence has another form")?;
    let quote = b64::decode(&evidence.quote).context("the quote is not base64")?;
    let verified = believe(&quote, roots)?;
    let report_data = digest.report_data(Tee::Tdx);
    ensure!(
        verified.body.report_data[..] == report_data,
        "REPORTDATA belongs to another session or key"
    );
    if let Some(init_data) = init_data {
        let expected: [u8; 48] = init_data.launch_register();
        ensure!(
            verified.body.mr_config_id == expected,
            "MRCONFIGID is {}, the init-data needs {}",
            hex(verified.body.mr_config_id),
            hex(expected)
        );
    }
    let mut claims = verified.claims();
    if let Some(log) = &evidence.cc_eventlog {
        let log = b64::decode(log).context("the event log is not base64")?;
        let log = EventLog::parse(&log).context("the event log does not read")?;
        replay(&log, &verified.body)?;
        claims.insert("uefi_event_logs".to_owned(), log_claims(&log));
    }
    Ok(Claims {
        tee: Tee::Tdx,
        claims: claims.into(),
        report_data: hex(report_data),
        init_data: Some(hex(verified.body.mr_config_id)),
    })
}

/// A quote that Intel's roots vouch for.
pub(super) struct Verified {
    claims: QuoteClaims,
    pub(super) body: TDReport10,
}

/// Verifies a quote against the collateral for its platform.
pub(super) fn believe(bytes: &[u8], roots: &Roots) -> anyhow::Result<Verified> {
    believe_at(bytes, roots, unix_now())
}

/// The same at another time, in seconds since 1970: recorded collateral runs out.
pub(super) fn believe_at(bytes: &[u8], roots: &Roots, now: u64) -> anyhow::Result<Verified> {
    ensure!(
        bytes.len() <= QUOTE_LIMIT,
        "the quote is {} bytes long",
        bytes.len()
    );
    let quote = Quote::parse(bytes).context("the quote does not read")?;
    // Of the versions that the library reads, 3 to 5, the oldest is an enclave's in any case.
    ensure!(
        !quote.header.is_sgx(),
        "quote version {} of TEE type {:#x}, expected a TD's in version 4 or 5",
        quote.header.version,
        quote.header.tee_type
    );
    let verifier = match &roots.intel {
        Some(root) => QuoteVerifier::new(root.clone()),
        None => QuoteVerifier::new_prod(),
    };
    // As in Trustee, what a TD may do is a claim, and so is its patch level: the attestation policy's to judge. Only
    // what is revoked ends here, in the library.
    let verifier = verifier.allow_debug(true).allow_service_td(true);
    let fmspc = dcap_qvl::intel::quote_fmspc(&quote).context("the quote names no platform")?;
    let collateral = roots
        .collateral
        .iter()
        .find(|collateral| is_for(collateral, &fmspc))
        .with_context(|| format!("there is no collateral for platform {}", hex(fmspc)))?;
    let claims =
        verifier.verify_with_policy(bytes, collateral, now, &QuotePolicy::claims_only(now))?;
    let body = *claims.report.as_td10().context("the quote is of no TD")?;
    Ok(Verified { claims, body })
}

fn is_for(collateral: &dcap_qvl::QuoteCollateralV3, fmspc: &[u8]) -> bool {
    serde_json::from_str::<Value>(&collateral.tcb_info).is_ok_and(|info| {
        let named = info
            .get("fmspc")
            .and_then(Value::as_str)
            .unwrap_or_default();
        named.eq_ignore_ascii_case(&hex(fmspc))
    })
}

impl Verified {
    /// The members below `tdx`, but for the event log.
    pub(super) fn claims(&self) -> Map<String, Value> {
        let (claims, body) = (&self.claims, &self.body);
        let (header, platform) = (&claims.header, &claims.platform);
        let svns = [header.qe_svn.to_le_bytes(), header.pce_svn.to_le_bytes()].concat();
        let mut quote_body = json!({
            "tcb_svn": hex(body.tee_tcb_svn),
            "mr_seam": hex(body.mr_seam),
            "mrsigner_seam": hex(body.mr_signer_seam),
            "seam_attributes": hex(body.seam_attributes),
            "td_attributes": hex(body.td_attributes),
            "xfam": hex(body.xfam),
            "mr_td": hex(body.mr_td),
            "mr_config_id": hex(body.mr_config_id),
            "mr_owner": hex(body.mr_owner),
            "mr_owner_config": hex(body.mr_owner_config),
            "rtmr_0": hex(body.rt_mr0),
            "rtmr_1": hex(body.rt_mr1),
            "rtmr_2": hex(body.rt_mr2),
            "rtmr_3": hex(body.rt_mr3),
            "report_data": hex(body.report_data),
        });
        if let (Some(later), Some(members)) = (claims.report.as_td15(), quote_body.as_object_mut())
        {
            members.insert("tee_tcb_svn2".to_owned(), json!(hex(later.tee_tcb_svn2)));
            members.insert("mr_servicetd".to_owned(), json!(hex(later.mr_service_td)));
        }
        let mut quote = json!({
            "header": {
                "version": hex(header.version.to_le_bytes()),
                "att_key_type": hex(header.attestation_key_type.to_le_bytes()),
                "tee_type": hex(header.tee_type.to_le_bytes()),
                "reserved": hex(svns),
                "vendor_id": hex(header.qe_vendor_id),
                "user_data": hex(header.user_data),
            },
            "body": quote_body,
        });
        if header.version >= 5
            && let Some(members) = quote.as_object_mut()
        {
            let (kind, size) = match claims.report {
                Report::TD10(_) => (2_u16, 584_u32),
                Report::TD15(_) => (3, 648),
                _ => (4, 885),
            };
            members.insert("type".to_owned(), json!(hex(kind.to_le_bytes())));
            members.insert("size".to_owned(), json!(hex(size.to_le_bytes())));
        }
        let mut members = Map::from_iter([
            ("quote".to_owned(), quote),
            ("td_attributes".to_owned(), attributes(body.td_attributes)),
        ]);
        let pck = &platform.pck;
        let more = [
            ("tcb_status", json!(claims.tcb.status.to_string())),
            ("tcb_date", json!(platform.tcb_level.tcb_date)),
            ("advisory_ids", json!(claims.tcb.advisory_ids)),
            // What has expired is refused before it comes to claims.
            ("collateral_expiration_status", json!("0")),
            ("earliest_issue_date", json!(claims.earliest_issue_date)),
            ("latest_issue_date", json!(claims.latest_issue_date)),
            (
                "earliest_expiration_date",
                json!(claims.earliest_expiration_date),
            ),
            ("tcb_eval_num", json!(claims.tcb.eval_data_number)),
            ("pck_crl_num", json!(platform.pck_crl_num)),
            ("root_ca_crl_num", json!(platform.root_ca_crl_num)),
            ("platform_provider_id", json!(pck.platform_provider_id)),
            ("sgx_type", json!(pck.sgx_type)),
            ("root_key_id", json!(hex(&platform.root_key_id))),
            (
                "platform_instance_id",
                json!(pck.platform_instance_id.map(hex)),
            ),
            ("is_dynamic_platform", flag(pck.dynamic_platform)),
            ("is_cached_keys", flag(pck.cached_keys)),
            ("is_smt_enabled", flag(pck.smt_enabled)),
        ];
        let present = more.into_iter().filter(|(_, value)| !value.is_null());
        members.extend(present.map(|(name, value)| (name.to_owned(), value)));
        members
    }
}

fn attributes(bytes: [u8; 8]) -> Value {
    match TDAttributes::parse(bytes) {
        Ok(read) => json!({
            "debug": read.tud & 1 != 0,
            "septve_disable": read.sec.sept_ve_disable,
            "protection_keys": read.sec.pks,
            "key_locker": read.sec.kl,
            "perfmon": read.other.perfmon,
        }),
        Err(_) => Value::Null,
    }
}

fn flag(flag: PckCertFlag) -> Value {
    match flag {
        PckCertFlag::True => json!(true),
        PckCertFlag::False => json!(false),
        PckCertFlag::Undefined => Value::Null,
    }
}

/// The log must lead to the registers that the processor signed: index 1 to 4 is RTMR 0 to 3.
fn replay(log: &EventLog, body: &TDReport10) -> anyhow::Result<()> {
    let signed = [&body.rt_mr0, &body.rt_mr1, &body.rt_mr2, &body.rt_mr3];
    for (index, (register, signed)) in (1_u32..).zip(signed).enumerate() {
        let mut value = Bank::Sha384.zero();
        for (_, event) in log.extends().filter(|(_, event)| event.pcr == register) {
            let digest = event
                .digest(Bank::Sha384)
                .context("an event has no SHA-384 digest")?;
            value = Bank::Sha384.extend(&value, digest);
        }
        ensure!(
            value.as_bytes() == signed,
            "the event log leads to RTMR {index} {}, the quote says {}",
            hex(value.as_bytes()),
            hex(signed)
        );
    }
    Ok(())
}

fn log_claims(log: &EventLog) -> Value {
    let claim = |event: &Event| {
        json!({
            "index": event.pcr,
            "type_name": event.kind.to_string(),
            "digests": event.digest(Bank::Sha384).map(|digest| {
                vec![json!({ "alg": "SHA-384", "digest": hex(digest.as_bytes()) })]
            }).unwrap_or_default(),
            "event": b64::encode(&event.data),
            "digest_matches_event": event.covers_data(Bank::Sha384),
            "details": { "string": event.text() },
        })
    };
    log.events.iter().map(claim).collect()
}

/// Quotes are about 5 KiB.
const QUOTE_LIMIT: usize = 128 * 1024;
