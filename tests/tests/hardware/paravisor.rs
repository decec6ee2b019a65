// SPDX-License-Identifier: Apache-2.0

//! What a guest on Azure meets instead of its processor, made of software around a real `swtpm`: the key and the
//! report in the vTPM, which follows what the guest writes beside it, and the metadata service.

use kbs_protocol::encoding::b64u;
use serde_json::{Value, json};
use sheepfold_tests::swtpm::SoftTpm;
use sheepfold_tests::swtpm::front::Exchange;
use soft_tee::hcl;
use soft_tee::snp::Chip;
use soft_tee::tdx::{Platform, Td};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The processor below.
pub(crate) enum Processor {
    Amd(Chip),
    Intel(Platform, Td),
}

pub(crate) type Broken = Option<(&'static str, &'static str)>;

/// A paravisor around one TPM. Its threads end with the test.
pub(crate) struct Paravisor {
    /// For `evidence.metadata`.
    pub(crate) metadata: String,
    reports: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// Status and body that the metadata service answers to everything, if it does not do its work.
    pub(crate) broken: Arc<Mutex<Broken>>,
    /// Whether its reports name another key than the one in the TPM.
    pub(crate) other_key: Arc<AtomicBool>,
}

impl Paravisor {
    /// Takes over a TPM and the processor below it.
    pub(crate) fn around(tpm: &SoftTpm, processor: Processor) -> Self {
        let processor = Arc::new(processor);
        let (n, e) = make_key(tpm);
        let size = SIZE.to_string();
        tpm.tool(&["nvdefine", REPORT, "-C", "o", "-s", &size, "-a", ATTRIBUTES])
            .unwrap();
        // As the firmware leaves it: about nobody's data.
        let first = processor.report(hcl::variable_data(&n, &e, None));
        tpm.write_file("report.bin", &first).unwrap();
        tpm.tool(&["nvwrite", REPORT, "-C", "o", "-i", "report.bin"])
            .unwrap();

        let reports = Arc::new(AtomicUsize::new(0));
        let (counter, signer) = (Arc::clone(&reports), Arc::clone(&processor));
        let other_key = Arc::<AtomicBool>::default();
        let is_other = Arc::clone(&other_key);
        tpm.on_response(move |tpm: &mut Exchange, command, _| {
            if command == "NV_Write"
                && let Ok(user_data) = tpm.nv_read(USER_DATA, 64)
            {
                counter.fetch_add(1, Ordering::SeqCst);
                let mut n = n.clone();
                n[0] ^= u8::from(is_other.load(Ordering::SeqCst));
                let variable_data = hcl::variable_data(&n, &e, Some(&user_data));
                tpm.nv_write(REPORT_INDEX, &signer.report(variable_data))
                    .unwrap();
            }
        });
        let requests = Arc::new(AtomicUsize::new(0));
        let broken = Arc::<Mutex<Broken>>::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let metadata = format!("http://{}", listener.local_addr().unwrap());
        let (counter, mood) = (Arc::clone(&requests), Arc::clone(&broken));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let broken = *mood.lock().unwrap();
                // A client that hangs up notices itself.
                drop(serve(client, &processor, broken));
            }
        });
        Self {
            metadata,
            reports,
            requests,
            broken,
            other_key,
        }
    }

    /// How many reports the processor signed because the guest asked.
    pub(crate) fn reports(&self) -> usize {
        self.reports.load(Ordering::SeqCst)
    }

    /// How often the metadata service was asked.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Processor {
    fn report(&self, variable_data: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Amd(chip) => hcl::snp(chip, variable_data, |_| {}),
            Self::Intel(..) => hcl::tdx(variable_data),
        }
    }
}

/// The paravisor's key: of the owner hierarchy, so that it is not the agent's. Modulus and exponent.
fn make_key(tpm: &SoftTpm) -> (Vec<u8>, Vec<u8>) {
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda";
    let primary = [
        "createprimary",
        "-Q",
        "-C",
        "o",
        "-g",
        "sha256",
        "-G",
        "rsa2048:rsassa-sha256:null",
    ];
    tpm.tool(&[&primary[..], &["-a", attributes, "-c", "hcl.ctx"]].concat())
        .unwrap();
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "hcl.ctx", AK])
        .unwrap();
    tpm.tool(&["readpublic", "-Q", "-c", AK, "-f", "tss", "-o", "hcl.pub"])
        .unwrap();
    // TPM2B_PUBLIC ends with the modulus, 256 bytes.
    let public = tpm.read_file("hcl.pub").unwrap();
    (public[public.len() - 256..].to_vec(), vec![1, 0, 1])
}

/// One request of the metadata service.
fn serve(client: TcpStream, processor: &Processor, broken: Broken) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let head = head.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    let asked = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let (status, answer) = match (
        broken,
        head.contains("metadata: true\r\n"),
        asked.as_str(),
        processor,
    ) {
        (Some((status, answer)), ..) => (status, answer.to_owned()),
        (_, true, "get /metadata/thim/amd/certification", Processor::Amd(chip)) => (
            "200 OK",
            json!({"vcekCert": chip.vek_pem(), "tcbm": "DB18000000000004"}).to_string(),
        ),
        (_, true, "post /acc/tdquote", Processor::Intel(platform, td)) => {
            let request: Value = serde_json::from_slice(&body).unwrap();
            let report = b64u::decode(request["report"].as_str().unwrap()).unwrap();
            let quote = hcl::td_quote(platform, &report, td);
            ("200 OK", json!({"quote": b64u::encode(quote)}).to_string())
        }
        _ => ("400 Bad Request", String::new()),
    };
    let mut client = reader.into_inner();
    write!(
        client,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    )
}

const AK: &str = "0x81000003";
pub(crate) const REPORT: &str = "0x1400001";
const REPORT_INDEX: u32 = 0x0140_0001;
const USER_DATA: u32 = 0x0140_0002;
const ATTRIBUTES: &str = "ownerread|ownerwrite|authread|no_da";
/// As much as `swtpm` allows.
const SIZE: usize = 2048;
