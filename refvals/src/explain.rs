// SPDX-License-Identifier: Apache-2.0

//! A log beside a prediction, for people: one sentence, or a page that stands alone. The page holds no script and
//! loads nothing, so it can be mailed and opened anywhere; every text of the log is escaped, for whoever wrote the log
//! could write any text.

use crate::Error;
use measured_boot::bank::{Bank, Digest};
use measured_boot::eventlog::{Event, EventLog};
use measured_boot::explain::{Explanation, explain};
use measured_boot::predict::{PredictedEvent, Prediction};

/// The closest of several predictions: the one that differs latest.
///
/// # Errors
/// As [`explain`]; [`Error::Document`] when there is no prediction.
pub fn closest<'p>(
    log: &EventLog,
    predictions: &'p [Prediction],
    bank: Bank,
) -> Result<(&'p Prediction, Explanation), Error> {
    let mut best: Option<(usize, &Prediction, Explanation)> = None;
    for prediction in predictions {
        let explanation = explain(log, prediction, bank)?;
        let place = match &explanation.first {
            None => usize::MAX,
            // A log that ends before the prediction does agrees as far as it goes.
            Some(first) => first
                .found
                .as_ref()
                .map_or(usize::MAX.saturating_sub(1), |found| found.entry),
        };
        if best.as_ref().is_none_or(|(known, _, _)| place > *known) {
            best = Some((place, prediction, explanation));
        }
    }
    best.map(|(_, prediction, explanation)| (prediction, explanation))
        .ok_or_else(|| Error::document("the prediction", "there is none"))
}

/// A page with the chain of events of each predicted PCR: prediction beside reality, the first difference marked.
///
/// # Errors
/// [`Error::Boot`] when the facts do not have the log's bank.
pub fn page(
    log: &EventLog,
    prediction: &Prediction,
    explanation: &Explanation,
    title: &str,
) -> Result<String, Error> {
    let bank = explanation.bank;
    let mut body = String::new();
    for (pcr, agrees) in &explanation.pcrs {
        let verdict = if *agrees {
            "as predicted"
        } else {
            "not as predicted"
        };
        let class = if *agrees { "good" } else { "bad" };
        body += &format!(
            "<section><h2>PCR {pcr} <span class=\"{class}\">{verdict}</span></h2>\n<table>\n"
        );
        body += "<tr><th></th><th>predicted</th><th>in the log</th></tr>\n";
        body += &rows(log, prediction, explanation, *pcr, bank)?;
        body += "</table></section>\n";
    }
    let verdict = escaped(&explanation.to_string());
    let class = if explanation.agrees() { "good" } else { "bad" };
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"verdict {class}\">{verdict}</p>\n{body}</body></html>\n",
        title = escaped(title),
    ))
}

fn rows(
    log: &EventLog,
    prediction: &Prediction,
    explanation: &Explanation,
    pcr: u8,
    bank: Bank,
) -> Result<String, Error> {
    let mut found = log.extends_of(pcr);
    let mut predicted = prediction.logged(pcr);
    let first = explanation
        .first
        .as_ref()
        .filter(|first| first.pcr == pcr)
        .map(|first| first.position);
    let mut text = String::new();
    let mut has_differed = false;
    for position in 1_usize.. {
        let (expected, found) = (predicted.next(), found.next());
        if expected.is_none() && found.is_none() {
            break;
        }
        let ours = expected.map(|event| event.digest(bank)).transpose()?;
        let theirs = found.and_then(|(_, event)| event.digest(bank));
        has_differed |= ours.as_ref() != theirs;
        let class = match (first == Some(position), has_differed) {
            (true, _) => "first",
            (_, true) => "after",
            _ => "same",
        };
        let mark = if class == "first" { "&#9654; " } else { "" };
        text += &format!(
            "<tr class=\"{class}\"><td>{mark}{position}</td><td>{}</td><td>{}</td></tr>\n",
            expected.map_or_else(nothing, |event| cell(&words(event), ours.as_ref())),
            found.map_or_else(nothing, |(entry, event)| cell(
                &format!("entry {entry}: {} {}", event.kind, said(event)),
                theirs
            )),
        );
    }
    Ok(text)
}

fn words(event: &PredictedEvent) -> String {
    format!("{}: {}", event.kind, event.what)
}

fn said(event: &Event) -> String {
    // Most texts of firmware are UTF-16 or binary; what can be read of them is enough for people.
    event.text().replace("\\x00", "")
}

fn cell(text: &str, digest: Option<&Digest>) -> String {
    let digest = digest.map(ToString::to_string).unwrap_or_default();
    format!("<div>{}</div><code>{digest}</code>", escaped(text))
}

fn nothing() -> String {
    "<i>nothing</i>".to_owned()
}

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\'' => "&#39;".to_owned(),
            other => other.to_string(),
        })
        .collect()
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#1b1b1b}\
     h1{font-size:1.4em}h2{font-size:1.1em;margin:1.6em 0 .4em}\
     .verdict{padding:.7em 1em;border-left:.4em solid;background:#f4f4f4}\
     .good{color:#146c2e}.bad{color:#a3180f}h2 .good,h2 .bad{font-weight:400}\
     table{border-collapse:collapse;width:100%;table-layout:fixed}\
     th,td{text-align:left;vertical-align:top;padding:.35em .6em;border-bottom:1px solid #ddd;overflow-wrap:anywhere}\
     th:first-child,td:first-child{width:3em}\
     code{font-size:.78em;color:#666}\
     tr.first td{background:#ffe3df;border-top:2px solid #a3180f;border-bottom:2px solid #a3180f}\
     tr.after{opacity:.55}";
