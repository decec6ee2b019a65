// SPDX-License-Identifier: Apache-2.0

//! What `doctor` has found: the list of checks and the first broken thing, as text and as JSON.

use crate::exit;
use kbs_protocol::Owner;
use serde_json::{Value, json};

/// What has been found so far, one line a fact.
#[derive(Default)]
pub(super) struct Checks(Vec<Value>);

impl Checks {
    /// One JSON object a line.
    pub(super) fn lines(&self) -> &[Value] {
        &self.0
    }

    pub(super) fn note(&mut self, check: &str, fact: &str) {
        self.0
            .push(json!({ "check": check, "ok": true, "fact": fact }));
    }

    pub(super) fn warn(&mut self, check: &str, fact: &str) {
        self.0
            .push(json!({ "check": check, "ok": false, "fact": fact }));
    }

    pub(super) fn to_text(&self, broken: Option<&Broken>) -> String {
        let member = |line: &Value, name| {
            line.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let mut lines: Vec<String> = Vec::new();
        for line in &self.0 {
            let mark = if line.get("ok") == Some(&Value::Bool(true)) {
                "ok  "
            } else {
                "warn"
            };
            lines.push(format!(
                "{mark}  {:<16}  {}",
                member(line, "check"),
                member(line, "fact")
            ));
        }
        match broken {
            None => lines.push(
                "everything between this node and its KBS works; `trustee-agent explain` asks for the secret"
                    .to_owned(),
            ),
            Some(broken) => lines.extend([
                format!("FAIL  {:<16}  {}", broken.check, broken.why),
                format!("      {:<16}  {}", "to act", broken.owner),
                format!("      {:<16}  {}", "next", broken.advice),
            ]),
        }
        lines.join("\n") + "\n"
    }
}

/// The first thing that does not work.
pub(super) struct Broken {
    check: &'static str,
    pub(super) owner: Owner,
    pub(super) why: String,
    advice: String,
}

impl Broken {
    pub(super) fn new(check: &'static str, owner: Owner, why: String, advice: String) -> Self {
        Self {
            check,
            owner,
            why,
            advice,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "check": self.check,
            "owner": self.owner.as_str(),
            "message": self.why,
            "advice": self.advice,
            "exit_code": exit::code(self.owner),
        })
    }
}
