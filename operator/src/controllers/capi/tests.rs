// SPDX-License-Identifier: Apache-2.0

//! The definitions keep the contract, and the pointer is a config that holds nothing secret.

use super::{AttestedConfig, AttestedConfigSpec, AttestedConfigTemplate, crds, crds_yaml, pointer};
use crate::controllers::api::tests::Rules;
use serde_json::{Value, json};

#[test]
fn the_committed_definitions_are_the_derived_ones() {
    let committed = include_str!("../../../deploy/capi/crds.yaml");
    assert!(
        committed == crds_yaml().unwrap(),
        "run `sheepfold-operator crds --cluster-api > operator/deploy/capi/crds.yaml`"
    );
}

#[test]
fn the_definitions_keep_the_contract() {
    let [config, template] = crds().map(|crd| serde_json::to_value(crd).unwrap());
    for (crd, plural) in [
        (&config, "attestedconfigs"),
        (&template, "attestedconfigtemplates"),
    ] {
        assert_eq!(
            crd["metadata"]["name"],
            format!("{plural}.trusted-execution-clusters.io")
        );
        assert_eq!(crd["spec"]["scope"], "Namespaced");
        for contract in ["v1beta1", "v1beta2"] {
            let label = &crd["metadata"]["labels"][format!("cluster.x-k8s.io/{contract}")];
            assert_eq!(label, "v1alpha1");
        }
    }
    let schema =
        |crd: &Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone();
    let status = &schema(&config)["status"]["properties"];
    assert_eq!(status["dataSecretName"]["type"], "string");
    assert_eq!(status["ready"]["type"], "boolean");
    assert_eq!(
        status["initialization"]["properties"]["dataSecretCreated"]["type"],
        "boolean"
    );
    let inner =
        &schema(&template)["spec"]["properties"]["template"]["properties"]["spec"]["properties"];
    assert_eq!(inner["config"]["properties"]["secret"]["type"], "string");
}

#[test]
fn a_pointer_points_and_says_nothing() {
    let empty = pointer(&AttestedConfigSpec::default());
    assert_eq!(empty, json!({"ignition": {"version": "3.4.0"}}));
    let spec = AttestedConfigSpec {
        registrar: Some("https://registrar:8443/".to_owned()),
        ca: Some("PEM".to_owned()),
        ..AttestedConfigSpec::default()
    };
    let full = pointer(&spec);
    assert_eq!(
        full["ignition"]["config"]["merge"][0]["source"],
        "https://registrar:8443/ignition"
    );
    let authority = &full["ignition"]["security"]["tls"]["certificateAuthorities"][0];
    assert_eq!(authority["source"], "data:;base64,UEVN");
}

#[test]
fn the_registrar_is_asked_over_tls() {
    let config = |registrar: &str| json!({"registrar": registrar});
    let template = |registrar: &str| json!({"template": {"spec": config(registrar)}});
    let check = |mut rules: Rules, of: &dyn Fn(&str) -> Value| {
        rules.allowed(&of("https://registrar:8443"), None);
        rules.refused(&of("http://registrar:8443"), None, "begins with https://");
        rules.each_was_needed();
    };
    check(Rules::of::<AttestedConfig>(), &config);
    check(Rules::of::<AttestedConfigTemplate>(), &template);
}
