// SPDX-License-Identifier: Apache-2.0

//! What is installed by kustomize, by Helm and by OLM is the same: the same rights, the same definitions, the same
//! pods. The chart holds links to the files that kustomize applies; here it is seen that no file is left out, that
//! pods are restricted, and, where the programs are there (`kubectl`, and `helm` or what HELM names), that both
//! say the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").map(|text| {
        let text = text.trim_start_matches("---\n");
        serde_saphyr::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    });
    documents.filter(|document| !document.is_null()).collect()
}

/// 255.0 and 255 are one number to an API server; which of them is written, programs see differently.
fn whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let written = number.to_string();
            if let Some(Ok(whole)) = written.strip_suffix(".0").map(str::parse::<i64>) {
                *value = json!(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole),
        Value::Object(members) => members.values_mut().for_each(whole),
        _ => {}
    }
}

/// By kind and name, without what depends on where it is installed.
fn by_name(objects: Vec<Value>) -> BTreeMap<(String, String), Value> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = BTreeMap::new();
    for mut object in objects {
        whole(&mut object);
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("namespace");
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            subject.as_object_mut().unwrap().remove("namespace");
        }
        let key = (text(&object["kind"]), text(&object["metadata"]["name"]));
        assert!(all.insert(key, object).is_none(), "twice");
    }
    all
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: no {program} ({error}), so it was not asked");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Everything that is installed, from the files themselves.
fn installed() -> Vec<Value> {
    let files = [
        "rbac.yaml",
        "deployment.yaml",
        "networkpolicy.yaml",
        "registrar/rbac.yaml",
        "registrar/registrar.yaml",
        "registrar/networkpolicy.yaml",
    ];
    files
        .iter()
        .flat_map(|file| documents(&read(&deploy().join(file))))
        .collect()
}

#[test]
fn kustomize_and_the_chart_hold_the_same_files() {
    let listed = |dir: &str| -> Vec<String> {
        let file = deploy().join(dir).join("kustomization.yaml");
        let kustomization: Value = serde_saphyr::from_str(&read(&file)).unwrap();
        let resources = kustomization["resources"].as_array().unwrap().iter();
        resources
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    let chart = deploy().join("helm");
    let templates = read(&chart.join("templates/operator.yaml"))
        + &read(&chart.join("templates/registrar.yaml"));
    let real = |path: PathBuf| path.canonicalize().unwrap();
    assert_eq!(
        real(chart.join("crds/crds.yaml")),
        real(deploy().join("crds.yaml"))
    );
    let operators = listed("").into_iter().map(|name| (name.clone(), name));
    let registrars = listed("registrar").into_iter().map(|name| {
        let name = format!("registrar/{name}");
        (name.clone(), name)
    });
    for (file, name) in operators.chain(registrars) {
        // The definitions have a place of their own, and Helm makes the namespace.
        if ["crds.yaml", "namespace.yaml"].contains(&&*name) {
            continue;
        }
        let linked = chart.join("files").join(&name);
        assert_eq!(real(linked), real(deploy().join(file)), "{name}");
        assert!(
            templates.contains(&format!(".Files.Get \"files/{name}\"")),
            "{name} is in no template"
        );
    }
}

#[test]
fn nothing_reaches_beyond_its_namespace() {
    for object in installed() {
        let kind = object["kind"].as_str().unwrap();
        assert!(!kind.starts_with("Cluster"), "{kind}");
        for rule in object["rules"].as_array().into_iter().flatten() {
            for list in ["apiGroups", "resources", "verbs"] {
                for entry in rule[list].as_array().unwrap() {
                    assert_ne!(entry, "*", "{rule}");
                }
            }
            let grants = |what: &str| rule["resources"].as_array().unwrap().contains(&json!(what));
            for much in [
                "pods",
                "pods/exec",
                "roles",
                "rolebindings",
                "serviceaccounts/token",
            ] {
                assert!(!grants(much), "{much}");
            }
            let much = ["deletecollection", "escalate", "bind", "impersonate"];
            let verbs = rule["verbs"].as_array().unwrap();
            assert!(
                much.iter().all(|verb| !verbs.contains(&json!(verb))),
                "{rule}"
            );
            // Deleted is what has a name of ours, and nothing that holds what cannot be made again.
            if verbs.contains(&json!("delete")) {
                let names = rule["resourceNames"].as_array().unwrap();
                assert!(!names.is_empty(), "{rule}");
                assert!(
                    !grants("secrets") && !grants("persistentvolumeclaims"),
                    "{rule}"
                );
            }
        }
    }
}

/// Pod Security Standards, profile Restricted, as of Kubernetes 1.33: the namespace enforces it.
#[test]
fn pods_are_restricted_and_know_their_accounts() {
    let namespace = &documents(&read(&deploy().join("namespace.yaml")))[0];
    assert_eq!(
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    let all = installed();
    let mut seen = Vec::new();
    for deployment in all.iter().filter(|object| object["kind"] == "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(
                container["image"], "sheepfold-operator",
                "what kustomize and Helm replace"
            );
        }
        for kind in ["ServiceAccount", "RoleBinding", "Role"] {
            let named = |object: &&Value| {
                object["kind"] == kind && object["metadata"]["name"] == pod["serviceAccountName"]
            };
            assert!(all.iter().any(|object| named(&object)), "{kind}");
        }
        assert_eq!(
            deployment["spec"]["selector"]["matchLabels"],
            deployment["spec"]["template"]["metadata"]["labels"]
        );
        seen.push(deployment["metadata"]["name"].clone());
    }
    assert_eq!(seen, ["sheepfold-operator", "sheepfold-registrar"]);
}

/// In: the ports that the pod has. Out: to ports that are named one by one, and the registrar to fewer.
#[test]
fn each_pod_may_reach_and_be_reached_at_what_it_needs() {
    let all = installed();
    let dns = ["TCP 53", "TCP 5353", "UDP 53", "UDP 5353"];
    let api_server = ["TCP 443", "TCP 6443", "TCP 8443"];
    let kbs = ["TCP 8080"];
    for (name, reached, reaches) in [
        (
            "sheepfold-operator",
            "metrics",
            [&dns[..], &api_server, &kbs].concat(),
        ),
        (
            "sheepfold-registrar",
            "https",
            [&dns[..], &api_server].concat(),
        ),
    ] {
        let of = |kind: &str| {
            let mut found = all
                .iter()
                .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
            let one = found.next().unwrap_or_else(|| panic!("{name}: no {kind}"));
            assert!(found.next().is_none(), "{name}");
            one
        };
        let pod = &of("Deployment")["spec"]["template"];
        let policy = &of("NetworkPolicy")["spec"];
        assert_eq!(
            policy["podSelector"],
            json!({"matchLabels": pod["metadata"]["labels"]}),
            "{name}"
        );
        assert_eq!(
            policy["policyTypes"],
            json!(["Ingress", "Egress"]),
            "{name}"
        );
        assert_eq!(
            policy["ingress"],
            json!([{"ports": [{"protocol": "TCP", "port": reached}]}]),
            "{name}"
        );
        // A port by name is one of the pod's; more of them would be shut.
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        let ports: Vec<_> = ports.iter().map(|port| &port["name"]).collect();
        assert_eq!(ports, [reached], "{name}");
        let mut out = Vec::new();
        for rule in policy["egress"].as_array().unwrap() {
            // A rule without ports lets everything out.
            for port in rule["ports"].as_array().unwrap() {
                let number = port["port"].as_u64().unwrap();
                assert!(port["endPort"].is_null(), "{port}");
                out.push(format!("{} {number}", port["protocol"].as_str().unwrap()));
            }
        }
        out.sort();
        let mut reaches = reaches;
        reaches.sort_unstable();
        assert_eq!(out, reaches, "{name}");
    }
}

/// Helm writes further ports after the last line: it has to be one of a list of TCP ports.
#[test]
fn a_network_policy_ends_where_ports_can_be_added() {
    for file in ["networkpolicy.yaml", "registrar/networkpolicy.yaml"] {
        let text = read(&deploy().join(file)) + "    - protocol: TCP\n      port: 5000\n";
        let policy = &documents(&text)[0];
        let egress = policy["spec"]["egress"].as_array().unwrap();
        let last = egress.last().unwrap()["ports"].as_array().unwrap();
        assert!(last.len() > 1 && last.iter().all(|port| port["protocol"] == "TCP"));
        assert_eq!(last.last().unwrap()["port"], 5000, "{file}");
    }
}

#[test]
fn the_registrar_starts_with_the_configuration_that_comes_along() {
    let all = installed();
    let registrar = all.iter().find(|object| {
        object["metadata"]["name"] == "sheepfold-registrar" && object["kind"] == "Deployment"
    });
    let pod = &registrar.unwrap()["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let config: toml::Table = read(&deploy().join("registrar/registrar.toml"))
        .parse()
        .unwrap();
    let mounts = container["volumeMounts"].as_array().unwrap();
    for (key, file) in &config {
        if key.ends_with("_file") {
            let (dir, _) = file.as_str().unwrap().rsplit_once('/').unwrap();
            assert!(
                mounts.iter().any(|mount| mount["mountPath"] == dir),
                "{key}"
            );
        }
    }
    let port = config["listen"]
        .as_str()
        .unwrap()
        .rsplit_once(':')
        .unwrap()
        .1;
    assert_eq!(
        container["ports"][0]["containerPort"],
        port.parse::<u16>().unwrap()
    );
    let arguments: Vec<_> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .collect();
    assert_eq!(
        arguments,
        [
            "register",
            "--config",
            "/etc/registrar/config/registrar.toml"
        ]
    );
    // The program reads it, but for the files that only a pod has.
    let dir = tempfile::tempdir().unwrap();
    let mut text = read(&deploy().join("registrar/registrar.toml"));
    let made = rcgen::generate_simple_self_signed(vec!["registrar".to_owned()]).unwrap();
    for (name, content) in [
        ("tls/tls.crt", made.cert.pem()),
        ("tls/tls.key", made.signing_key.serialize_pem()),
        ("config/ek-roots.pem", made.cert.pem()),
    ] {
        let file = dir.path().join(name.replace('/', "-"));
        std::fs::write(&file, content).unwrap();
        text = text.replace(&format!("/etc/registrar/{name}"), file.to_str().unwrap());
    }
    let file = dir.path().join("registrar.toml");
    std::fs::write(&file, text).unwrap();
    let config = sheepfold_operator::register::config::Config::load(&file).unwrap();
    assert_eq!(
        config.list,
        sheepfold_operator::register::config::List::Objects(None)
    );
}

#[test]
fn helm_and_kustomize_say_the_same() {
    let helm = std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let chart = deploy().join("helm");
    let chart = chart.to_str().unwrap();
    let rendered = run(
        &helm,
        &[
            "template",
            "sheepfold",
            chart,
            "--namespace",
            "trusted-execution-clusters",
            "--include-crds",
            "--set",
            "registrar.enabled=true",
        ],
    );
    let kustomized = ["", "registrar"].map(|dir| {
        let dir = deploy().join(dir);
        run("kubectl", &["kustomize", dir.to_str().unwrap()])
    });
    let [Some(operator), Some(registrar)] = kustomized else {
        return;
    };
    let mut wanted = by_name(documents(&format!("{operator}\n---\n{registrar}")));
    wanted.remove(&(
        "Namespace".to_owned(),
        "trusted-execution-clusters".to_owned(),
    ));
    // A generated ConfigMap carries a digest in its name.
    let (name, config) = wanted
        .iter()
        .find(|((kind, _), _)| kind == "ConfigMap")
        .unwrap();
    let (name, mut config) = (name.clone(), config.clone());
    let wanted: BTreeMap<_, _> = {
        config["metadata"]["name"] = json!("sheepfold-registrar");
        config["data"]["ek-roots.pem"] = json!("");
        wanted.remove(&name);
        let text = json!(wanted.values().collect::<Vec<_>>())
            .to_string()
            .replace(&name.1, "sheepfold-registrar");
        let mut all: Vec<Value> = serde_json::from_str(&text).unwrap();
        all.push(config);
        by_name(all)
    };
    assert_eq!(wanted.len(), 17, "{:?}", wanted.keys());
    let Some(rendered) = rendered else { return };
    let rendered = by_name(documents(&rendered));
    assert_eq!(
        rendered.keys().collect::<Vec<_>>(),
        wanted.keys().collect::<Vec<_>>()
    );
    for (key, object) in &rendered {
        assert_eq!(object, &wanted[key], "{key:?}");
    }
    let other = run(
        &helm,
        &[
            "template",
            "x",
            chart,
            "--set",
            "image=registry.example/op@sha256:00,replicas=3",
        ],
    );
    let other = by_name(documents(&other.unwrap()));
    let deployment = &other[&("Deployment".to_owned(), "sheepfold-operator".to_owned())];
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(
        deployment["spec"]["template"]["spec"]["containers"][0]["image"],
        "registry.example/op@sha256:00"
    );
    assert!(
        !other.keys().any(|(_, name)| name == "sheepfold-registrar"),
        "only where it is wanted"
    );
    let policies = |values: &str| {
        let values = format!("registrar.enabled=true,{values}");
        let rendered = run(&helm, &["template", "x", chart, "--set", &values]);
        let mut all = documents(&rendered.unwrap());
        all.retain(|object| object["kind"] == "NetworkPolicy");
        all
    };
    assert!(policies("networkPolicy.enabled=false").is_empty());
    let wider = policies("networkPolicy.apiServerPorts={16443},networkPolicy.ports={5000,3128}");
    assert_eq!(wider.len(), 2);
    for policy in wider {
        let last = policy["spec"]["egress"].as_array().unwrap().last().unwrap();
        let ports = last["ports"].as_array().unwrap().iter();
        let mut numbers: Vec<_> = ports.map(|port| port["port"].as_u64().unwrap()).collect();
        let (before, added) = match policy["metadata"]["name"].as_str().unwrap() {
            "sheepfold-operator" => (4, vec![16443, 5000, 3128]),
            _ => (3, vec![16443]),
        };
        assert_eq!(numbers.split_off(before), added);
    }
}
