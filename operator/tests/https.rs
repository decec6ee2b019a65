// SPDX-License-Identifier: Apache-2.0

//! The registrar behind HTTPS, met by the agent's own client and by strangers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "in a test a panic is the report"
)]

mod enrolment;

use enrolment::{World, by_certificate, can_run, enroller, maker};
use kbs_protocol::enroll::{BEGIN_PATH, FINISH_PATH, REQUEST_LIMIT, Refusal, RefusalKind, State};
use kbs_protocol::{Blame as _, Owner, Persistence};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use sheepfold_operator::register::config::{Limits, Tls};
use sheepfold_operator::register::identity::Identity;
use sheepfold_operator::register::server::Server;
use sheepfold_tests::swtpm::SoftTpm;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use trustee_agent::config::Config;
use trustee_agent::kbs::{KbsError, Patience, Registrar};

/// A registrar on a port of this machine; it ends with its runtime.
struct Service {
    _runtime: tokio::runtime::Runtime,
    port: u16,
    ca: String,
}

impl Service {
    fn start(world: &World, limits: &Limits) -> Self {
        Self::with(world, limits, |server| server)
    }

    fn with(world: &World, limits: &Limits, change: fn(Server) -> Server) -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let ca = certified.cert.pem();
        let tls = Tls {
            chain: ca.clone(),
            key: certified.signing_key.serialize_pem(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let bound = Server::bind(address, &tls, Arc::clone(&world.registrar), None, limits);
        let server = runtime.block_on(bound).unwrap();
        let port = server.address().unwrap().port();
        runtime.spawn(change(server).serve());
        Self {
            _runtime: runtime,
            port,
            ca,
        }
    }

    /// The agent's client, which knows the registrar by this certificate.
    fn client(&self, ca: &str) -> Registrar {
        let text = format!(
            "[kbs]\nservers = [\"https://kbs.example\"]\nspki_sha256 = [\"{}\"]\n\
             [enroll]\nregistrar = \"https://127.0.0.1:{}\"\nca_pem = \"\"\"{ca}\"\"\"\n",
            "00".repeat(32),
            self.port
        );
        let config = Config::parse(&text).unwrap();
        Registrar::new(&config.enroll.unwrap(), &config.timeouts).unwrap()
    }

    /// A connection to speak on.
    fn connect(&self) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // Longer than the server waits for anything here.
        tcp.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        rustls::StreamOwned::new(tls, tcp)
    }

    /// One request written by hand: the answer's head, and the refusal in its body.
    fn ask(&self, head: &str, body: &[u8]) -> (String, Refusal) {
        let mut stream = self.connect();
        let head = format!(
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has heard enough may close first.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), serde_json::from_str(body).unwrap())
    }
}

#[test]
fn the_agent_enrols_over_https() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::certified(maker()).unwrap();
    let world = World::new(by_certificate(maker()));
    let service = Service::start(&world, &Limits::default());
    let mut node = enroller(&tpm);
    for _ in 0..2 {
        let outcome = service
            .client(&service.ca)
            .enrol(&mut node, Patience::Once, &mut |_| {})
            .unwrap();
        assert_eq!(
            (outcome.node_id, outcome.state),
            (node.node_id(), State::Approved)
        );
    }
    assert_eq!(world.audit().last().unwrap()["source"], "127.0.0.1");
}

#[test]
fn the_agent_speaks_to_no_impostor() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let world = World::new(Identity::TrustOnFirstUse);
    let service = Service::start(&world, &Limits::default());
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let error = service
        .client(&other.cert.pem())
        .enrol(&mut enroller(&tpm), Patience::Once, &mut |_| {})
        .unwrap_err();
    assert!(matches!(error, KbsError::Tls { .. }), "{error}");
    assert_eq!(world.audit().len(), 0, "nothing was said");
}

#[test]
fn refusals_reach_the_node_with_owner_and_advice() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let world = World::new(by_certificate(maker()));
    let service = Service::start(&world, &Limits::default());
    let mut node = enroller(&tpm);
    let error = service
        .client(&service.ca)
        .enrol(&mut node, Patience::Once, &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("wants a certificate"), "{error}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Machine, Persistence::UntilApproved)
    );
    assert!(error.advice().contains("ek_sha256"), "{}", error.advice());
}

#[test]
fn strangers_get_short_answers() {
    let limits = Limits {
        requests_per_minute: 3,
        ..Limits::default()
    };
    let world = World::with_limits(Identity::TrustOnFirstUse, &limits);
    let service = Service::start(&world, &limits);
    for head in ["GET /", "POST /v1/enroll", &format!("GET {BEGIN_PATH}")] {
        let (answer, refusal) = service.ask(head, b"");
        assert!(answer.starts_with("http/1.1 404"), "{head}: {answer}");
        assert_eq!(refusal.error, RefusalKind::NotFound);
    }
    // One byte more than the limit does not reach the parser, nor the audit log.
    let (answer, refusal) = service.ask(
        &format!("POST {BEGIN_PATH}"),
        &vec![b' '; REQUEST_LIMIT + 1],
    );
    assert!(answer.starts_with("http/1.1 400"), "{answer}");
    assert!(
        refusal.detail.contains("length limit"),
        "{}",
        refusal.detail
    );
    assert_eq!(world.audit().len(), 0);

    for path in [BEGIN_PATH, FINISH_PATH, BEGIN_PATH] {
        let (_, refusal) = service.ask(&format!("POST {path}"), b"{}");
        assert_eq!(refusal.error, RefusalKind::Request);
    }
    let (answer, refusal) = service.ask(&format!("POST {BEGIN_PATH}"), b"{}");
    assert!(answer.starts_with("http/1.1 429"), "{answer}");
    assert!(answer.contains("retry-after: 5"), "{answer}");
    assert_eq!(refusal.error, RefusalKind::TooManyRequests);
    assert_eq!(world.audit().len(), 4, "a line for each decision");
}

#[test]
fn strangers_who_say_too_much_or_nothing_are_let_go() {
    let world = World::new(Identity::TrustOnFirstUse);
    let service = Service::start(&world, &Limits::default());
    // Until the server closes: without an answer, or with one that is no refusal of ours.
    let rest = |mut stream: rustls::StreamOwned<_, TcpStream>| {
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
        }
        String::from_utf8(answer).unwrap()
    };
    let mut long = service.connect();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let _ = long.write_all(head.as_bytes());
    let answer = rest(long);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    // Half a head, and not even TLS: both are waited for at the same time.
    let mut half = service.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHost").unwrap();
    let mut silent = service.connect().sock;
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "closed");
    assert_eq!(rest(half), "");
    assert_eq!(world.audit().len(), 0);
}

#[test]
fn strangers_who_ask_for_ever_are_let_go() {
    let world = World::new(Identity::TrustOnFirstUse);
    let short = |server: Server| server.within(Duration::from_millis(500));
    let service = Service::with(&world, &Limits::default(), short);
    let mut stream = service.connect();
    // Each head comes in time, so nothing else ends this.
    let answered = (0..1000).take_while(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        asked.is_ok() && stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0)
    });
    let answered = answered.count();
    assert!((1..1000).contains(&answered), "{answered} answers");
}
