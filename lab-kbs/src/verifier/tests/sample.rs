// SPDX-License-Identifier: Apache-2.0

//! `sample`: no protection, but the right hash.

use super::{Sessions, init_data, roots, verify};
use kbs_protocol::Tee;
use serde_json::json;

#[test]
fn sample_must_carry_the_digest() {
    let (sessions, roots) = (Sessions::new(), roots(&[], None, &[]));
    let digest = &sessions.ours;
    let good = json!({"svn": "1", "report_data": digest.to_base64()});
    let claims = verify(Tee::Sample, &good, digest, None, &roots).unwrap();
    assert_eq!(
        (claims.claims["svn"].as_str(), claims.init_data),
        (Some("1"), None)
    );
    for bad in [
        json!({"svn": "1", "report_data": sessions.other.to_base64()}),
        json!({"svn": "1", "report_data": ""}),
        json!({"svn": 1, "report_data": digest.to_base64()}),
        json!({"svn": "1"}),
        json!(null),
    ] {
        assert!(
            verify(Tee::Sample, &bad, digest, None, &roots).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn sample_passes_init_data_on_unverified() {
    let (sessions, roots) = (Sessions::new(), roots(&[], None, &[]));
    let evidence = json!({"svn": "1", "report_data": sessions.ours.to_base64()});
    let claims = verify(
        Tee::Sample,
        &evidence,
        &sessions.ours,
        Some(&init_data()),
        &roots,
    )
    .unwrap();
    assert_eq!(claims.init_data.unwrap().len(), 44);
}
