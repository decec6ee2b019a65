// SPDX-License-Identifier: Apache-2.0

//! Malformed evidence and headers, made by hand: a good structure with one thing wrong, named. None may be accepted.
//! What other tests keep as files (`malformed-...`) counts here as well.

use crate::corpus;
use crate::tpm::{RECORDED, RECORDED_VOLUMES, signed, signed_volumes};
use kbs_protocol::encoding::b64;
use serde_json::{Value, json};

/// One case.
#[derive(Debug)]
pub struct Case {
    /// The target that must not accept it.
    pub target: &'static str,
    /// What is wrong.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |target, made: Vec<(String, Vec<u8>)>| {
        let case = |(name, bytes)| Case {
            target,
            name,
            bytes,
        };
        cases.extend(made.into_iter().map(case));
    };
    add("tpm_quote", quotes());
    add("tpm_public", public_areas());
    add("tpm_evidence", evidence());
    add("volume_record", volume_records());
    add("snp_report", snp_reports());
    add("snp_cert_table", cert_tables());
    add("tdx_quote", tdx_quotes());
    add("hcl_report", hcl_reports());
    for (target, prefixes) in [
        (
            "pin_token",
            &[
                "malformed-",
                "foreign-",
                "algorithm-",
                "kid-",
                "notauthentic-",
            ][..],
        ),
        ("pin_header", &["malformed-", "foreign-", "algorithm-"]),
    ] {
        add(target, files(target, prefixes));
    }
    cases
}

/// The vectors of a target whose names begin with one of these verdicts.
fn files(target: &str, prefixes: &[&str]) -> Vec<(String, Vec<u8>)> {
    let target = crate::Target::find(target).unwrap();
    let mut found = Vec::new();
    for dir in target.vectors {
        for entry in std::fs::read_dir(crate::root().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                found.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    found
}

/// A structure with some bytes of it replaced.
struct Base {
    what: &'static str,
    bytes: Vec<u8>,
    made: Vec<(String, Vec<u8>)>,
}

impl Base {
    fn new(what: &'static str, bytes: &[u8]) -> Self {
        Self {
            what,
            bytes: bytes.to_vec(),
            made: Vec::new(),
        }
    }

    /// Each of these values in place of what is there.
    fn put<const N: usize>(&mut self, field: &str, offset: usize, values: &[[u8; N]]) {
        for value in values {
            let mut bytes = self.bytes.clone();
            bytes[offset..offset + N].copy_from_slice(value);
            assert_ne!(bytes, self.bytes, "{field} {value:02x?} is what was there");
            self.made
                .push((format!("{} {field} {value:02x?}", self.what), bytes));
        }
    }

    /// Cut at each of these places.
    fn cut(&mut self, places: &[usize]) {
        for place in places {
            let cut = self.bytes[..*place].to_vec();
            self.made
                .push((format!("{} cut at {place}", self.what), cut));
        }
    }

    /// With this behind it.
    fn then(&mut self, name: &str, more: &[u8]) {
        let longer = [&self.bytes, more].concat();
        self.made
            .push((format!("{} and {name}", self.what), longer));
    }

    fn other(&mut self, name: &str, bytes: Vec<u8>) {
        self.made.push((format!("{} {name}", self.what), bytes));
    }
}

/// TPMS_ATTEST (TPM 2.0 Library, Part 2, 10.12.12), field by field. Each is signed by a good key.
fn quotes() -> Vec<(String, Vec<u8>)> {
    let mut quote = Base::new("quote", corpus::QUOTE);
    quote.put(
        "magic",
        0,
        &[[0; 4], *b"\xffTCF", *b"GCT\xff", [0xff; 4], *b"TCG\xff"],
    );
    // Every other thing that a TPM attests to, and what no TPM does.
    quote.put(
        "type",
        4,
        &[
            [0x80, 0x14],
            [0x80, 0x15],
            [0x80, 0x16],
            [0x80, 0x17],
            [0x80, 0x19],
            [0x80, 0x1a],
            [0x80, 0x1c],
            [0, 0x18],
            [0x18, 0x80],
            [0, 0],
            [0xff, 0xff],
        ],
    );
    let sizes = |good: u8| {
        [
            [0, 0],
            [0, 1],
            [0, good - 1],
            [0, good + 1],
            [good, 0],
            [1, good],
            [0xff, 0xff],
        ]
    };
    quote.put("size of the signer's name", 6, &sizes(0x22));
    quote.put("size of the extra data", 42, &sizes(0x20));
    quote.put("size of the PCR digest", 111, &sizes(0x20));
    quote.put("extra data", 44, &[[0; 32], [0xff; 32]]);
    quote.put("first byte of the extra data", 44, &[[0], [2]]);
    quote.put("last byte of the extra data", 75, &[[0], [33]]);
    quote.put("safe", 92, &[[2], [0x80], [0xff]]);
    quote.put(
        "number of selections",
        101,
        &[[0; 4], [0, 0, 0, 2], [0, 0, 0, 17], [1, 0, 0, 0], [0xff; 4]],
    );
    quote.put(
        "bank",
        105,
        &[
            [0, 0],
            [0, 4],
            [0, 0x0c],
            [0, 0x0d],
            [0, 0x10],
            [0, 0x12],
            [0, 0x27],
            [0x0b, 0],
        ],
    );
    quote.put(
        "size of the selection",
        107,
        &[[0], [1], [2], [4], [5], [0xff]],
    );
    for register in 0..24_usize {
        let mut bytes = quote.bytes.clone();
        bytes[108 + register / 8] ^= 1 << (register % 8);
        quote.other(&format!("without PCR {register}"), bytes);
    }
    quote.put(
        "selection",
        108,
        &[
            [0; 3],
            [0xff, 0xff, 0],
            [0, 0xff, 0xff],
            [0xff, 0, 0xff],
            [0x80, 0x40, 0],
        ],
    );
    quote.put("PCR digest", 113, &[[0; 32], [0xff; 32]]);
    quote.put("last byte of the PCR digest", 144, &[[0], [0xff]]);
    quote.cut(&[
        0, 1, 3, 4, 5, 6, 7, 8, 41, 42, 43, 44, 75, 76, 84, 88, 92, 93, 101, 104, 105, 107, 108,
        110, 111, 113, 144,
    ]);
    quote.then("one byte", &[0]);
    quote.then("itself", corpus::QUOTE);
    quote.then("a TPMT_SIGNATURE", &[0, 0x14, 0, 0x0b, 1, 0]);
    quote.other("in a TPM2B", [&[0, 145], corpus::QUOTE].concat());
    quote.other(
        "over part of the bank",
        include_bytes!("../vectors/part.tpms_attest").to_vec(),
    );
    quote.other(
        "over two banks",
        include_bytes!("../vectors/banks.tpms_attest").to_vec(),
    );
    let whole = &corpus::QUOTE[105..111];
    let halves: Vec<u8> = [
        &[0, 0, 0, 2][..],
        &[0, 0x0b, 3, 0xff, 0xff, 0],
        &[0, 0x0b, 3, 0, 0, 0xff],
    ]
    .concat();
    let twice: Vec<u8> = [&[0, 0, 0, 2][..], whole, whole].concat();
    let then_none: Vec<u8> = [&[0, 0, 0, 2][..], whole, &[0, 0x0b, 3, 0, 0, 0]].concat();
    let wide: Vec<u8> = [&[0, 0, 0, 1][..], &[0, 0x0b, 4, 0xff, 0xff, 0xff, 0]].concat();
    for (name, selection) in [
        ("in two halves", halves),
        ("twice", twice),
        ("and nothing", then_none),
        ("in four bytes", wide),
    ] {
        let bytes = [&corpus::QUOTE[..101], &selection, &corpus::QUOTE[111..]].concat();
        quote.other(&format!("the bank selected {name}"), bytes);
    }
    quote.made
}

/// TPM2B_PUBLIC (Part 2, 12.2.5) of an RSA attestation key.
fn public_areas() -> Vec<(String, Vec<u8>)> {
    let mut area = Base::new("public area", corpus::AK);
    area.put(
        "size",
        0,
        &[[0, 0], [1, 0x17], [1, 0x19], [0x18, 1], [0xff, 0xff]],
    );
    area.put(
        "type",
        2,
        &[[0, 0], [0, 8], [0, 0x23], [0, 0x25], [1, 0], [0xff, 0xff]],
    );
    area.put(
        "nameAlg",
        4,
        &[[0, 0], [0, 4], [0, 0x0c], [0, 0x0d], [0, 0x10], [0x0b, 0]],
    );
    for bit in [
        0, 3, 8, 9, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31_usize,
    ] {
        let mut bytes = area.bytes.clone();
        bytes[9 - bit / 8] ^= 1 << (bit % 8);
        area.other(&format!("with the reserved attribute {bit}"), bytes);
    }
    area.put(
        "size of the policy",
        10,
        &[[0, 1], [0, 0x20], [0, 0x30], [0xff, 0xff]],
    );
    area.put(
        "symmetric",
        12,
        &[[0, 0], [0, 6], [0, 0x0a], [0, 0x26], [0xff, 0xff]],
    );
    area.put(
        "scheme",
        14,
        &[
            [0, 0],
            [0, 0x0b],
            [0, 0x10],
            [0, 0x15],
            [0, 0x1a],
            [0xff, 0xff],
        ],
    );
    area.put(
        "key bits",
        18,
        &[[0, 0], [4, 0], [8, 1], [0x0c, 0], [0x10, 0], [0xff, 0xff]],
    );
    area.put(
        "exponent",
        20,
        &[
            [0, 0, 0, 1],
            [0, 0, 0, 2],
            [0, 1, 0, 0],
            [0xff, 0xff, 0xff, 0xfe],
        ],
    );
    area.put(
        "size of the modulus",
        24,
        &[[0, 0], [0, 0xff], [1, 1], [0xff, 0xff]],
    );
    area.put("first byte of the modulus", 26, &[[0], [0x7f]]);
    area.cut(&[0, 1, 2, 4, 6, 10, 12, 14, 16, 18, 20, 24, 26, 100, 281]);
    area.then("one byte", &[0]);
    area.then("itself", corpus::AK);
    area.other("without its size", corpus::AK[2..].to_vec());
    let mut ecc = Base::new(
        "ECC public area",
        include_bytes!("../vectors/ek-ecc.tpm2b_public"),
    );
    let end = ecc.bytes.len();
    // TPMS_ECC_PARMS ends with curve and key derivation; two sized coordinates of 32 bytes follow.
    ecc.put(
        "curve",
        end - 72,
        &[[0, 0], [0, 4], [0, 5], [0, 0x10], [0, 0x20]],
    );
    ecc.put("key derivation", end - 70, &[[0, 0], [0, 0x20], [0, 0x22]]);
    ecc.put("size of x", end - 68, &[[0, 0x1f], [0, 0x21], [0xff, 0xff]]);
    ecc.put("size of y", end - 34, &[[0, 0x1f], [0, 0x21], [0xff, 0xff]]);
    ecc.cut(&[end - 1, end - 34, end - 68, end - 72]);
    [area.made, ecc.made].concat()
}

/// The JSON of TPM evidence, member by member.
fn evidence() -> Vec<(String, Vec<u8>)> {
    let good = serde_json::to_value(&*RECORDED).unwrap();
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, value: &Value| {
        made.push((format!("evidence {name}"), value.to_string().into_bytes()))
    };
    let with = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let members = [
        "/ak_public",
        "/tpm_quote/message",
        "/tpm_quote/signature",
        "/tpm_quote/pcrs",
        "/tpm_quote",
    ];
    for pointer in members {
        for value in [
            json!(null),
            json!(1),
            json!(true),
            json!({}),
            json!([]),
            json!(""),
            json!(["00"]),
        ] {
            add(
                &format!("{pointer} is {value}"),
                &with(pointer, value.clone()),
            );
        }
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let mut without = good.clone();
        without
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(name);
        add(&format!("without {pointer}"), &without);
    }
    let pcrs: Vec<Value> = good["tpm_quote"]["pcrs"].as_array().unwrap().clone();
    let mut with_pcrs =
        |name: &str, pcrs: Vec<Value>| add(name, &with("/tpm_quote/pcrs", json!(pcrs)));
    with_pcrs("with 23 PCRs", pcrs[..23].to_vec());
    with_pcrs("with 25 PCRs", [&pcrs[..], &pcrs[..1]].concat());
    let mut exchanged = pcrs.clone();
    exchanged.swap(4, 7);
    with_pcrs("with two PCRs exchanged", exchanged);
    let text = pcrs[4].as_str().unwrap();
    for (name, value) in [
        ("short", json!(text[2..])),
        ("long", json!(format!("{text}00"))),
        ("prefixed", json!(format!("0x{}", &text[2..]))),
        ("no hexadecimal", json!(text.replace(&text[..1], "g"))),
        ("another", json!("00".repeat(32))),
        ("a number", json!(4)),
        ("null", json!(null)),
        ("with a space", json!(format!(" {}", &text[1..]))),
    ] {
        let mut changed = pcrs.clone();
        changed[4] = value;
        with_pcrs(&format!("with a PCR that is {name}"), changed);
    }
    let bytes =
        |pointer: &str| b64::decode(good.pointer(pointer).unwrap().as_str().unwrap()).unwrap();
    for pointer in ["/ak_public", "/tpm_quote/message", "/tpm_quote/signature"] {
        let honest = bytes(pointer);
        let text = good.pointer(pointer).unwrap().as_str().unwrap();
        let mut add_text = |name: &str, text: String| {
            add(&format!("{pointer} {name}"), &with(pointer, json!(text)))
        };
        add_text(
            "of the other alphabet",
            text.replace(['+', '/'], "-").replacen('A', "_", 1),
        );
        add_text(
            "with a newline",
            format!("{}\n{}", &text[..64], &text[64..]),
        );
        add_text("with a space", format!("{text} "));
        add_text(
            "with padding inside",
            format!("{}={}", &text[..63], &text[64..]),
        );
        for (name, at) in [
            ("first", 0),
            ("middle", honest.len() / 2),
            ("last", honest.len() - 1),
        ] {
            let mut changed = honest.clone();
            changed[at] ^= 1;
            add_text(&format!("with another {name} byte"), b64::encode(changed));
        }
        add_text("cut", b64::encode(&honest[..honest.len() - 1]));
        add_text("longer", b64::encode([&honest[..], &[0]].concat()));
        add_text("huge", "A".repeat(16 * 1024));
    }
    let signature = bytes("/tpm_quote/signature");
    for (name, head) in [
        ("RSAPSS", [0, 0x16, 0, 0x0b, 1, 0]),
        ("ECDSA", [0, 0x18, 0, 0x0b, 1, 0]),
        ("HMAC", [0, 5, 0, 0x0b, 1, 0]),
        ("no scheme", [0, 0x10, 0, 0x0b, 1, 0]),
        ("SHA-1", [0, 0x14, 0, 4, 1, 0]),
        ("SHA-384", [0, 0x14, 0, 0x0c, 1, 0]),
        ("too long", [0, 0x14, 0, 0x0b, 1, 1]),
        ("too short", [0, 0x14, 0, 0x0b, 0, 0xff]),
    ] {
        let changed = b64::encode([&head[..], &signature[6..]].concat());
        add(
            &format!("signature of {name}"),
            &with("/tpm_quote/signature", json!(changed)),
        );
    }
    let raw = json!(b64::encode(&signature[6..]));
    add(
        "signature without its head",
        &with("/tpm_quote/signature", raw),
    );
    add(
        "signature of zeros",
        &with(
            "/tpm_quote/signature",
            json!(b64::encode([&signature[..6], &[0; 256]].concat())),
        ),
    );
    // Somebody else's key and signature, and the two halves of each mixed.
    let theirs = serde_json::to_value(signed(corpus::QUOTE)).unwrap();
    for pointer in ["/ak_public", "/tpm_quote/signature"] {
        add(
            &format!("{pointer} of another key"),
            &with(pointer, theirs.pointer(pointer).unwrap().clone()),
        );
    }
    for (name, other) in [
        (
            "part of the bank",
            &include_bytes!("../vectors/part.tpms_attest")[..],
        ),
        ("two banks", include_bytes!("../vectors/banks.tpms_attest")),
    ] {
        add(
            &format!("message over {name}"),
            &with("/tpm_quote/message", json!(b64::encode(other))),
        );
    }
    let text = good.to_string();
    let deep = "[".repeat(10_000);
    for (name, text) in [
        ("empty", String::new()),
        ("null", "null".to_owned()),
        ("a list", format!("[{text}]")),
        ("cut", text[..text.len() - 1].to_owned()),
        ("twice", text.clone() + &text),
        ("with a byte order mark", format!("\u{feff}{text}")),
        (
            "with a member twice",
            text.replacen('{', r#"{"ak_public":"","#, 1),
        ),
        ("deep", deep),
        ("in single quotes", text.replace('"', "'")),
    ] {
        made.push((format!("evidence {name}"), text.into_bytes()));
    }
    made
}

/// What a node says of its volumes: another text under a good signature, and a text that says nothing, well signed.
fn volume_records() -> Vec<(String, Vec<u8>)> {
    let good = serde_json::to_value(&*RECORDED_VOLUMES).unwrap();
    let text: Value = serde_json::from_str(&RECORDED_VOLUMES.record).unwrap();
    // A key of our own is as good as any here, so that each case below is refused for what it says.
    assert!(signed_volumes(&text.to_string()).verify().is_ok());
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: String, value: &Value| {
        made.push((
            format!("record of volumes {name}"),
            value.to_string().into_bytes(),
        ));
    };
    for pointer in [
        "/record",
        "/evidence",
        "/evidence/ak_public",
        "/evidence/tpm_quote/pcrs",
    ] {
        for value in [json!(null), json!(1), json!({}), json!([]), json!("")] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value.clone();
            add(format!("whose {pointer} is {value}"), &bad);
        }
    }
    let mut of_a_session = good.clone();
    of_a_session["evidence"] = serde_json::to_value(&*RECORDED).unwrap();
    add("under a quote for a KBS".to_owned(), &of_a_session);
    let mut spaced = good.clone();
    spaced["record"] = json!(format!("{} ", RECORDED_VOLUMES.record));
    add("with a space behind it".to_owned(), &spaced);
    let volume = &text["volumes"][0];
    let many = |count: usize| {
        let volume = |n| {
            let mut volume = volume.clone();
            volume["path"] = json!(format!("default/n/{n}"));
            volume
        };
        (0..count).map(volume).collect::<Value>()
    };
    for (pointer, value) in [
        ("/version", json!(0)),
        ("/version", json!(2)),
        ("/version", json!("1")),
        ("/node", json!(null)),
        ("/volumes", json!(null)),
        ("/volumes", json!([])),
        ("/volumes", json!([volume, volume])),
        ("/volumes", many(17)),
        ("/volumes/0", json!({})),
        ("/volumes/0/name", json!("")),
        ("/volumes/0/name", json!("a b")),
        ("/volumes/0/name", json!("\u{1b}[2J")),
        ("/volumes/0/name", json!("x".repeat(129))),
        ("/volumes/0/path", json!("default/n")),
        ("/volumes/0/path", json!("default/../root")),
        ("/volumes/1/path", volume["path"].clone()),
        ("/volumes/0/luks_uuid", json!("")),
        ("/volumes/0/luks_uuid", json!("é".repeat(18))),
        ("/volumes/0/vk_id", json!("")),
        ("/volumes/0/vk_id", json!("0".repeat(63))),
        ("/volumes/0/vk_id", json!("0".repeat(65))),
        ("/volumes/0/vk_id", json!("A".repeat(64))),
        ("/volumes/0/vk_id", json!("g".repeat(64))),
    ] {
        let mut bad = text.clone();
        *bad.pointer_mut(pointer).unwrap() = value.clone();
        let mut forged = good.clone();
        forged["record"] = json!(bad.to_string());
        add(format!("forged, whose {pointer} is {value}"), &forged);
        let signed = serde_json::to_value(signed_volumes(&bad.to_string())).unwrap();
        add(format!("signed, whose {pointer} is {value}"), &signed);
    }
    for (name, bad) in [
        ("empty", String::new()),
        ("is a list", "[]".to_owned()),
        ("is cut", RECORDED_VOLUMES.record.replace("]}", "]")),
        (
            "says something twice",
            RECORDED_VOLUMES.record.replacen('{', r#"{"version":1,"#, 1),
        ),
        (
            "says more",
            RECORDED_VOLUMES.record.replacen('{', r#"{"more":1,"#, 1),
        ),
        (
            "is long",
            format!("{}{}", RECORDED_VOLUMES.record, " ".repeat(16 * 1024)),
        ),
    ] {
        let signed = serde_json::to_value(signed_volumes(&bad)).unwrap();
        add(format!("signed, that {name}"), &signed);
    }
    made
}

/// AMD SEV-SNP Firmware ABI, ATTESTATION_REPORT.
fn snp_reports() -> Vec<(String, Vec<u8>)> {
    let mut report = Base::new("report", &corpus::snp_report(3, 0x19, 0x01));
    report.put("version", 0, &[[0], [1], [6], [0xff]]);
    report.put("high bytes of the version", 2, &[[0, 1], [1, 0]]);
    report.put("family", 0x188, &[[0], [0x06], [0x17], [0xff]]);
    // Reserved, and what the wire form has no member for.
    for place in [0x4c, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x1f8, 0x208, 0x29f] {
        report.put(&format!("reserved byte {place:#x}"), place, &[[1], [0xff]]);
    }
    report.cut(&[0, 1, 4, 0x50, 0x1a0, 0x2a0, 1183]);
    report.then("one byte", &[0]);
    report.then("itself", &corpus::snp_report(3, 0x19, 0x01));
    report.made
}

/// GHCB specification, the table of the SNP extended guest request.
fn cert_tables() -> Vec<(String, Vec<u8>)> {
    let mut table = Base::new("table", &corpus::cert_table());
    table.put(
        "offset",
        16,
        &[[100, 0, 0, 0], [0xff; 4], [0, 0, 0, 0x80], [81, 0, 0, 0]],
    );
    table.put("length", 20, &[[29, 0, 0, 0], [0xff; 4], [0, 0, 1, 0]]);
    table.put("the last entry", 48, &[[1], [0xff]]);
    table.cut(&[1, 23, 24, 47, 48, 71]);
    // Entries that all name the same bytes: a small table that becomes a large list.
    let entry = [
        &[7; 16][..],
        &0_u32.to_le_bytes(),
        &60_000_u32.to_le_bytes(),
    ]
    .concat();
    let mut many = entry.repeat(2000);
    many.resize(60_000, 0);
    table.other("of 2000 entries for the same 60000 bytes", many);
    table.made
}

/// Intel TDX DCAP Quoting Library, TD quotes of version 4 and 5.
fn tdx_quotes() -> Vec<(String, Vec<u8>)> {
    let mut quote = Base::new("TD quote", &corpus::tdx_quote(4, &[]));
    quote.put(
        "version",
        0,
        &[[0, 0], [1, 0], [2, 0], [3, 0], [6, 0], [0, 4], [0xff, 0xff]],
    );
    quote.put(
        "TEE type",
        4,
        &[[0; 4], [0x80, 0, 0, 0], [0, 0, 0, 0x81], [0xff; 4]],
    );
    quote.cut(&[0, 1, 2, 7, 8, 47, 48, 232, 376, 568, 631]);
    let mut v5 = Base::new(
        "TD quote of version 5",
        &corpus::tdx_quote(5, &[3, 0, 0x88, 2, 0, 0]),
    );
    v5.put(
        "body type",
        48,
        &[[0, 0], [1, 0], [5, 0], [0, 3], [0xff, 0xff]],
    );
    v5.cut(&[48, 49, 54, 600, 637]);
    [quote.made, v5.made].concat()
}

/// The report that Azure keeps in NV memory.
fn hcl_reports() -> Vec<(String, Vec<u8>)> {
    let good = corpus::hcl_report();
    let mut report = Base::new("HCL report", &good);
    report.put(
        "type",
        1224,
        &[
            [0; 4],
            [1, 0, 0, 0],
            [3, 0, 0, 0],
            [5, 0, 0, 0],
            [0, 0, 0, 2],
        ],
    );
    report.put(
        "hash",
        1228,
        &[[0; 4], [2, 0, 0, 0], [3, 0, 0, 0], [0xff; 4]],
    );
    report.put(
        "length of the JSON",
        1232,
        &[[0; 4], [1, 0, 0, 0], [0xff; 4], [0, 0, 1, 0]],
    );
    report.cut(&[0, 31, 32, 1216, 1224, 1235, 1236, 1300]);
    let length = u32::from_le_bytes(good[1232..1236].try_into().unwrap());
    let end = 1236 + usize::try_from(length).unwrap();
    let text = String::from_utf8(good[1236..end].to_vec()).unwrap();
    for (name, json) in [
        ("is a list", "[]".to_owned()),
        ("has no keys", "{}".to_owned()),
        ("has another key only", text.replace("HCLAkPub", "HCLEkPub")),
        ("has a key without modulus", text.replace("\"n\"", "\"m\"")),
        ("has a key without exponent", text.replace("AQAB", "A+A/")),
        (
            "has user data of another form",
            text.replace("ABAB", "XYZW"),
        ),
        (
            "has user data of odd length",
            text.replacen("ABAB", "BAB", 1),
        ),
        (
            "has two lists of keys",
            text.replacen('{', r#"{"keys":[],"#, 1),
        ),
    ] {
        let length = u32::try_from(json.len()).unwrap().to_le_bytes();
        let bytes = [&good[..1232], &length, json.as_bytes(), &[0; 32]].concat();
        report.other(&format!("whose JSON {name}"), bytes);
    }
    report.made
}
