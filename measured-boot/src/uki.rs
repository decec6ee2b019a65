// SPDX-License-Identifier: Apache-2.0

//! What systemd-stub measures of a unified kernel image into PCR 11 (systemd-stub(7), "TPM PCR Notes"; UAPI
//! group specification UKI), and what systemd adds later (systemd-pcrphase.service(8)).

use crate::error::Error;
use crate::eventlog::EventType;
use crate::facts::{SectionFacts, UkiFacts};
use crate::predict::{Measured, PredictedEvent};

/// The extends of PCR 11: for each section its name, then its content, in the stub's order and not in the
/// file's; then the phases.
///
/// # Errors
/// [`Error::Unsupported`] for sections that the stub chooses by the hardware it finds.
pub(crate) fn events(uki: &UkiFacts, phases: &[String]) -> Result<Vec<PredictedEvent>, Error> {
    let mut events = Vec::new();
    for name in MEASURED {
        let Some(section) = chosen(uki, name) else {
            continue;
        };
        if BY_HARDWARE.contains(&name) {
            return Err(Error::Unsupported {
                what: format!("the section {name} of {}", uki.file.name),
                why: "whether it is measured depends on the hardware",
            });
        }
        let named = [name.as_bytes(), &[0]].concat();
        let what = format!("the name of the section {name}");
        events.push(PredictedEvent::bytes(11, EventType::IPL, what, &named));
        events.push(PredictedEvent {
            pcr: 11,
            kind: EventType::IPL,
            what: format!("the content of the section {name}"),
            data: Measured::File(section.digests.clone()),
            runtime: false,
        });
    }
    events.extend(phases.iter().map(|phase| PredictedEvent {
        runtime: true,
        ..PredictedEvent::bytes(
            11,
            EventType::IPL,
            format!("the phase {phase}"),
            phase.as_bytes(),
        )
    }));
    Ok(events)
}

/// The section that counts: that of the default profile, else that of the base.
fn chosen<'a>(uki: &'a UkiFacts, name: &str) -> Option<&'a SectionFacts> {
    let default_profile = uki.profiles.first().into_iter().flatten();
    default_profile
        .chain(&uki.sections)
        .find(|section| section.name == name)
}

/// The sections that are measured, in order. `.pcrsig` is not: it signs the result.
const MEASURED: [&str; 14] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey", ".profile", ".dtbauto", ".hwids", ".efifw",
];
const BY_HARDWARE: [&str; 3] = [".dtbauto", ".hwids", ".efifw"];

#[cfg(test)]
mod tests {
    use super::events;
    use crate::bank::{Bank, Digests};
    use crate::facts::{SectionFacts, UkiFacts};

    fn section(name: &str, content: &str) -> SectionFacts {
        SectionFacts {
            name: name.to_owned(),
            digests: Digests::of(content.as_bytes()),
        }
    }

    fn measured(uki: &UkiFacts, phases: &[String]) -> Vec<String> {
        let known = [
            "base",
            "first",
            "second",
            "kernel",
            ".linux\0",
            ".osrel\0",
            ".profile\0",
            "enter-initrd",
        ];
        let events = events(uki, phases).unwrap();
        let digests = events
            .iter()
            .map(|event| event.digest(Bank::Sha512).unwrap());
        digests
            .map(|digest| {
                let known = known
                    .iter()
                    .find(|text| Bank::Sha512.hash(text.as_bytes()) == digest);
                known.expect("a digest of something else").to_string()
            })
            .collect()
    }

    #[test]
    fn order_is_the_stubs_and_the_default_profile_wins() {
        let mut uki = UkiFacts {
            sections: vec![
                section(".osrel", "base"),
                section(".pcrsig", "skipped"),
                section(".text", "skipped"),
                section(".linux", "kernel"),
            ],
            ..UkiFacts::default()
        };
        let base = [".linux\0", "kernel", ".osrel\0", "base"];
        assert_eq!(measured(&uki, &[]), base);
        assert_eq!(
            measured(&uki, &["enter-initrd".to_owned()]),
            [&base[..], &["enter-initrd"]].concat()
        );
        uki.profiles = vec![
            vec![section(".profile", "first"), section(".osrel", "first")],
            vec![section(".profile", "second"), section(".osrel", "second")],
        ];
        assert_eq!(
            measured(&uki, &[]),
            [
                ".linux\0",
                "kernel",
                ".osrel\0",
                "first",
                ".profile\0",
                "first"
            ]
        );
        uki.sections.push(section(".hwids", "x"));
        let error = events(&uki, &[]).unwrap_err().to_string();
        assert!(error.contains("the section .hwids"), "{error}");
    }
}
