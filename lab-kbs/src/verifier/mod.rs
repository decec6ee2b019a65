// SPDX-License-Identifier: Apache-2.0

//! From evidence to claims. `tpm` is verified strictly; `sample` proves nothing and is left to the
//! policies; other kinds have no verifier here. Called by the handshake.

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::Tee;
use kbs_protocol::evidence::{SampleEvidence, TpmEvidence};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::verify;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

/// What verified evidence says, in the words the policies know.
#[derive(Debug)]
pub(crate) struct Claims {
    pub(crate) tee: Tee,
    /// The object under the TEE's name.
    pub(crate) claims: Value,
    pub(crate) report_data: String,
    /// What the platform says about init-data, in the platform's own spelling.
    pub(crate) init_data: Option<String>,
}

/// Verifies one piece of evidence against the runtime data it must commit to.
pub(crate) fn verify(
    tee: Tee,
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
) -> anyhow::Result<Claims> {
    match tee {
        Tee::Tpm => tpm(evidence, digest, init_data),
        Tee::Sample => sample(evidence, digest, init_data),
        other => bail!("no verifier for {other} evidence is built in"),
    }
}

fn tpm(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
) -> anyhow::Result<Claims> {
    let evidence =
        TpmEvidence::deserialize(evidence).context("the TPM evidence has another form")?;
    let report_data = digest.report_data(Tee::Tpm);
    let quote = verify::tpm_quote(&evidence, &report_data)?;
    let pcr8 = quote.pcrs.get(8).context("the quote has no PCR 8")?;
    if let Some(init_data) = init_data {
        let expected = init_data.expected_pcr8()?;
        ensure!(
            *pcr8 == expected,
            "PCR 8 is {}, the init-data needs {}",
            hex(pcr8),
            hex(&expected)
        );
    }
    let init_data = Some(hex(pcr8));
    let pcrs = quote.pcrs.iter().enumerate();
    let mut claims: Map<_, _> = pcrs
        .map(|(number, value)| (format!("pcr{number:02}"), json!(hex(value))))
        .collect();
    claims.insert("ak_public".to_owned(), json!(evidence.ak_public));
    Ok(Claims {
        tee: Tee::Tpm,
        claims: claims.into(),
        report_data: hex(&report_data),
        init_data,
    })
}

fn sample(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
) -> anyhow::Result<Claims> {
    let evidence =
        SampleEvidence::deserialize(evidence).context("the sample evidence has another form")?;
    let report_data = STANDARD
        .decode(&evidence.report_data)
        .context("report_data is not base64")?;
    ensure!(
        report_data == digest.as_bytes(),
        "report_data belongs to another session or key"
    );
    let claims = json!({
        "svn": evidence.svn,
        "launch_digest": "abcde",
        "platform_version": { "major": 1, "minor": 4 },
        "debug": false,
    });
    let init_data = init_data.map(|init_data| STANDARD.encode(init_data.digest()));
    Ok(Claims {
        tee: Tee::Sample,
        claims,
        report_data: evidence.report_data,
        init_data,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::verify;
    use kbs_protocol::Tee;
    use kbs_protocol::init_data::InitDataToml;
    use kbs_protocol::message::RuntimeData;
    use kbs_protocol::runtime_data::RuntimeDigest;
    use kbs_protocol::tee_key::TeeKey;
    use serde_json::json;

    fn digest() -> RuntimeDigest {
        let tee_pubkey = TeeKey::generate().unwrap().public();
        RuntimeDigest::primary(
            &RuntimeData {
                nonce: "n".into(),
                tee_pubkey,
            },
            "",
        )
        .unwrap()
    }

    #[test]
    fn sample_must_carry_the_digest() {
        let digest = digest();
        let good = json!({"svn": "1", "report_data": digest.to_base64()});
        let claims = verify(Tee::Sample, &good, &digest, None).unwrap();
        assert_eq!(
            (claims.claims["svn"].as_str(), claims.init_data),
            (Some("1"), None)
        );
        for bad in [
            json!({"svn": "1", "report_data": super::tests::digest().to_base64()}),
            json!({"svn": "1", "report_data": ""}),
            json!({"svn": 1, "report_data": digest.to_base64()}),
            json!({"svn": "1"}),
            json!(null),
        ] {
            assert!(verify(Tee::Sample, &bad, &digest, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn sample_passes_init_data_on_unverified() {
        let digest = digest();
        let init =
            InitDataToml::parse("version=\"0.1.0\"\nalgorithm=\"sha384\"\n[data]\n").unwrap();
        let evidence = json!({"svn": "1", "report_data": digest.to_base64()});
        let claims = verify(Tee::Sample, &evidence, &digest, Some(&init)).unwrap();
        assert_eq!(claims.init_data.unwrap().len(), 64);
    }

    #[test]
    fn kinds_without_a_verifier_are_refused() {
        for tee in [Tee::Snp, Tee::Tdx, Tee::AzSnpVtpm, Tee::AzTdxVtpm] {
            let error = verify(tee, &json!({}), &digest(), None)
                .unwrap_err()
                .to_string();
            assert!(error.contains(tee.as_str()), "{error}");
        }
    }
}
