// SPDX-License-Identifier: Apache-2.0

//! What the program says about recorded boots: agreement, the first difference, and the page, in a real browser.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use measured_boot::bank::Bank;
use measured_boot::eventlog::EventLog;
use measured_boot::explain::explain;
use measured_boot::predict::{Measured, PredictedEvent, Prediction};
use refvals::explain::{closest, page};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// The log of a recorded boot.
fn log() -> Option<EventLog> {
    let base = std::env::var_os("SHEEPFOLD_FIXTURES").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../shared/fixtures"
            ))
        },
        PathBuf::from,
    );
    let path = base.join("measured-boot/sb-failed-first-option/eventlog.bin");
    match std::fs::read(&path) {
        Ok(bytes) => Some(EventLog::parse(&bytes).unwrap()),
        Err(_) => {
            eprintln!(
                "SKIPPED: no recorded boot at {}; set SHEEPFOLD_FIXTURES",
                path.display()
            );
            None
        }
    }
}

/// A prediction of exactly what a log says about these PCRs, the text of the log as its words.
fn as_logged(log: &EventLog) -> Prediction {
    let events = log
        .extends()
        .filter(|(_, event)| [4, 14].contains(&event.pcr));
    Prediction {
        events: events
            .map(|(_, event)| PredictedEvent {
                pcr: event.pcr as u8,
                kind: event.kind,
                what: event.text(),
                data: Measured::File(
                    serde_json::from_value(
                        serde_json::json!({"sha256": event.digest(Bank::Sha256).unwrap()}),
                    )
                    .unwrap(),
                ),
                runtime: false,
            })
            .collect(),
        pcrs: BTreeSet::from([4, 14]),
        kernel_measurements: 2,
        unobserved: vec![],
        sbat_level: None,
    }
}

#[test]
fn the_closest_prediction_counts_and_the_page_marks_its_first_difference() {
    let Some(log) = log() else { return };
    let right = as_logged(&log);
    let mut early = right.clone();
    early.events.remove(0);
    let mut late = right.clone();
    late.events.last_mut().unwrap().data = Measured::Bytes(b"other"[..].into());
    late.events[1].what = "<script>alert(1)</script> & \"more\"".to_owned();

    let predictions = [early.clone(), late.clone()];
    let (chosen, explanation) = closest(&log, &predictions, Bank::Sha256).unwrap();
    assert_eq!(chosen, &late);
    let html = page(&log, chosen, &explanation, "a <title>").unwrap();
    assert_eq!(html.matches("<tr class=\"first\">").count(), 1);
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;"));
    assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("href="));
    assert!(html.contains("default-src 'none'") && html.contains("a &lt;title&gt;"));

    let (_, agreement) = closest(&log, &[early, right.clone()], Bank::Sha256).unwrap();
    assert!(agreement.agrees());
    let html = page(&log, &right, &agreement, "t").unwrap();
    assert_eq!(html.matches("class=\"first\"").count(), 0);
    assert!(closest(&log, &[], Bank::Sha256).is_err());
}

/// Layout, not markup: a browser paints the page, and what is marked is in the picture.
#[test]
fn a_browser_shows_the_page() {
    let Some(log) = log() else { return };
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        eprintln!("SKIPPED: no chromium here; install it to see the page as a browser does");
        return;
    };
    let mut prediction = as_logged(&log);
    prediction.events[2].data = Measured::Bytes(b"other"[..].into());
    let explanation = explain(&log, &prediction, Bank::Sha256).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.html");
    std::fs::write(
        &file,
        page(&log, &prediction, &explanation, "example").unwrap(),
    )
    .unwrap();
    let run = |arguments: &[String]| {
        let output = Command::new(browser)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .arg(format!(
                "--user-data-dir={}",
                directory.path().join("profile").display()
            ))
            .args(arguments)
            .arg(format!("file://{}", file.display()))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let dom = run(&["--dump-dom".to_owned()]);
    assert!(
        dom.contains("<tr class=\"first\">") && dom.contains("not as predicted"),
        "{dom}"
    );
    let picture = std::env::var_os("SHEEPFOLD_PICTURE")
        .map_or_else(|| directory.path().join("page.png"), PathBuf::from);
    run(&[
        format!("--screenshot={}", picture.display()),
        "--window-size=1100,1400".to_owned(),
    ]);
    let png = std::fs::read(picture).unwrap();
    assert!(
        png.starts_with(b"\x89PNG") && png.len() > 20_000,
        "{} bytes",
        png.len()
    );
}
