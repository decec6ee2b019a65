// SPDX-License-Identifier: Apache-2.0

//! What is served, what alerts ask for and what the dashboard shows are the same names; labels are few.

use super::serve::CONNECTIONS;
use super::{Figures, Listener, Metrics};
use crate::controllers::api::Phase;
use kbs_protocol::Owner;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const RULES: &str = include_str!("../../../deploy/monitoring/rules.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/monitoring/dashboard.json");

/// Names of samples, each with its label sets.
fn samples(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        all.entry(name.to_owned())
            .or_default()
            .push(labels.to_owned());
    }
    all
}

/// All `expr` in a document, whatever is around them.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => expressions(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// The metrics in expressions: ours, and those of processes.
fn named(expressions: &[String]) -> BTreeSet<String> {
    let words = expressions
        .iter()
        .flat_map(|text| text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    words
        .filter(|word| word.starts_with("sheepfold_") || word.starts_with("process_"))
        .map(ToOwned::to_owned)
        .collect()
}

fn documents() -> (Value, Value) {
    (
        serde_saphyr::from_str(RULES).unwrap(),
        serde_json::from_str(DASHBOARD).unwrap(),
    )
}

#[test]
fn alerts_and_dashboard_name_what_is_served_and_nothing_else() {
    let served: BTreeSet<String> = samples(&Metrics::default().text()).into_keys().collect();
    let (rules, dashboard) = documents();
    let (mut alerts, mut panels) = (Vec::new(), Vec::new());
    expressions(&rules, &mut alerts);
    expressions(&dashboard, &mut panels);
    assert!(alerts.len() >= 8 && panels.len() >= 8);
    let mut asked = named(&alerts);
    asked.extend(named(&panels));
    assert_eq!(asked, served);
}

#[test]
fn words_in_alerts_are_words_of_labels() {
    let served = samples(&Metrics::default().text());
    let (rules, dashboard) = documents();
    let mut all = Vec::new();
    expressions(&rules, &mut all);
    expressions(&dashboard, &mut all);
    let mut seen = 0;
    for text in &all {
        for label in ["phase", "state", "result"] {
            for part in text.split(&format!("{label}=\"")).skip(1) {
                let word = part.split('"').next().unwrap();
                let has = |labels: &String| labels.contains(&format!("{label}=\"{word}\""));
                assert!(served.values().flatten().any(has), "{text}");
                seen += 1;
            }
        }
    }
    assert!(seen > 2);
}

#[test]
fn every_alert_says_what_to_do() {
    let (rules, _) = documents();
    let alerts = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let annotations = &alert["annotations"];
        for text in ["summary", "description"] {
            assert!(
                annotations[text]
                    .as_str()
                    .is_some_and(|text| text.len() > 10),
                "{alert}"
            );
        }
        let severity = alert["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning")), "{alert}");
    }
}

#[test]
fn labels_are_few_however_much_happens() {
    let metrics = Metrics::default();
    let before = samples(&metrics.text());
    for _ in 0..1000 {
        for owner in Owner::ALL {
            metrics.round(Duration::from_millis(1), Err(owner));
        }
        metrics.round(Duration::from_millis(1), Ok(()));
        metrics.note(|figures| figures.machines.iter_mut().for_each(|count| *count += 1));
    }
    assert_eq!(
        samples(&metrics.text()),
        before,
        "the same samples, other values"
    );
    let counts = before.values().map(Vec::len);
    assert!(counts.sum::<usize>() < 48);
    for labels in before.values() {
        let different: BTreeSet<_> = labels.iter().collect();
        assert_eq!(different.len(), labels.len());
    }
}

#[test]
fn figures_come_out_as_they_went_in() {
    let metrics = Metrics::default();
    metrics.note(|figures: &mut Figures| {
        figures.leading = true;
        figures.kbs_writes = 17;
        for (phase, count) in Phase::ALL.iter().zip(&mut figures.machines) {
            *count = u64::from(*phase == Phase::Refused) * 3;
        }
    });
    metrics.round(Duration::from_millis(1500), Err(Owner::Server));
    let text = metrics.text();
    for line in [
        "sheepfold_leading 1",
        "sheepfold_kbs_writes_total 17",
        "sheepfold_machines{phase=\"Refused\"} 3",
        "sheepfold_machines{phase=\"Served\"} 0",
        "sheepfold_rounds_total{result=\"server\"} 1",
        "sheepfold_rounds_total{result=\"done\"} 0",
        "sheepfold_busy_seconds_total 1.5",
        "sheepfold_last_round_timestamp_seconds 0",
    ] {
        assert!(
            text.lines().any(|got| got == line),
            "{line} is not in {text}"
        );
    }
    assert!(text.contains("# TYPE sheepfold_kbs_writes_total counter\n"));
    let others = Owner::ALL.iter().filter(|owner| **owner != Owner::Server);
    for owner in others {
        let line = format!("sheepfold_rounds_total{{result=\"{}\"}} 0", owner.as_str());
        assert!(text.lines().any(|got| got == line), "{line}: {text}");
    }
    metrics.round(Duration::from_millis(1), Ok(()));
    let never = "\nsheepfold_last_round_timestamp_seconds 0\n";
    assert!(!metrics.text().contains(never), "a round has ended");
    let memory = samples(&text).contains_key("process_resident_memory_bytes");
    assert!(memory && !text.contains("process_resident_memory_bytes 0\n"));
}

fn listening() -> (tokio::runtime::Runtime, Listener, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap());
    let listener = runtime.block_on(listener).unwrap();
    let address = listener.address().unwrap();
    (runtime, listener, address)
}

#[test]
fn who_holds_every_connection_gets_no_more_of_them() {
    let (runtime, listener, address) = listening();
    runtime.spawn(listener.serve(Metrics::default()));
    // A connection that was answered on, and stays open.
    let ask = || {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut first = [0; 12];
        let answered = stream.read_exact(&mut first).is_ok() && first == *b"HTTP/1.1 200";
        answered.then_some(stream)
    };
    let mut held: Vec<_> = (0..CONNECTIONS).map(|_| ask().unwrap()).collect();
    assert!(ask().is_none(), "there is no room");
    held.pop();
    // The server hears of it a little later.
    let again = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        ask().is_some()
    });
    assert!(again, "there is room again");
}

#[test]
fn who_asks_for_ever_is_let_go() {
    let (runtime, listener, address) = listening();
    let short = listener.within(Duration::from_millis(500));
    runtime.spawn(short.serve(Metrics::default()));
    let mut stream = TcpStream::connect(address).unwrap();
    let answered = (0..1000).take_while(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let asked = stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
        asked.is_ok() && stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0)
    });
    let answered = answered.count();
    assert!((1..1000).contains(&answered), "{answered} answers");
}
