// SPDX-License-Identifier: Apache-2.0

//! A server that plays a scenario: exactly these calls, in this order, each with its reply.
//!
//! A call that nobody asked for, and a call that never came, fail the test in [`Scenario::finish`]. It
//! speaks HTTP/1.1 over rustls or plain TCP on `std::net`, so that every way of being broken is at hand.

pub(crate) mod certificate;

use certificate::Certificate;
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::Attestation;
use kbs_protocol::tee_key::TeePubKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) const AUTH: &str = "POST /kbs/v0/auth";
pub(crate) const ATTEST: &str = "POST /kbs/v0/attest";
pub(crate) const RESOURCE: &str = "GET /kbs/v0/resource/default/n1/root";
pub(crate) const COOKIE: &str = "kbs-session-id=0123456789abcdef0123456789abcdef";
pub(crate) const TOKEN: &str = "aaaa.bbbb.cccc";

/// What the server does with one call.
pub(crate) enum Reply {
    /// Status, extra header lines, body.
    Answer(u16, String, Vec<u8>),
    /// The resource, encrypted to the key of the last attestation.
    Secret(&'static [u8]),
    /// Closes the connection without a word.
    Close,
    /// Announces more than it sends, then closes.
    Cut,
    /// Sends a body without end.
    Endless,
    /// Sends a byte now and then, for ever.
    Drip,
    /// Says nothing until the client goes away.
    Silence,
}

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Method and path.
    pub(crate) line: String,
    /// Header lines, lower-case names.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    plan: VecDeque<(&'static str, Reply)>,
    calls: Vec<Call>,
    unasked: Vec<String>,
    connections: usize,
    handshakes: usize,
    failed_handshakes: usize,
    tee_key: Option<TeePubKey>,
}

/// The state, and a bell for those who wait for it to change.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// The state once it is so; the client may be faster than our threads. The limit ends a test that
    /// fails anyway.
    fn once(&self, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let guard = self.state.lock().unwrap();
        let wait = self
            .changed
            .wait_timeout_while(guard, Duration::from_secs(10), |state| !is_so(state));
        wait.unwrap().0
    }
}

pub(crate) struct Scenario {
    port: u16,
    scheme: &'static str,
    state: Arc<Shared>,
    // Ends with the process: a listener that closes early would turn "unasked" into "refused".
    _listener: JoinHandle<()>,
}

impl Scenario {
    /// Over TLS with this certificate.
    pub(crate) fn tls(
        certificate: &Certificate,
        plan: impl IntoIterator<Item = (&'static str, Reply)>,
    ) -> Self {
        Self::start(
            Some(certificate.server_config(&[&rustls::version::TLS13])),
            plan,
        )
    }

    /// With a TLS configuration of one's own, or none.
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        plan: impl IntoIterator<Item = (&'static str, Reply)>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Shared::default());
        state.change(|state| state.plan = plan.into_iter().collect());
        let shared = Arc::clone(&state);
        let listening = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                state.change(|state| state.connections += 1);
                std::thread::spawn(move || serve(stream.unwrap(), tls, &state));
            }
        });
        Self {
            port,
            scheme,
            state,
            _listener: listening,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub(crate) fn url_of(&self, host: &str) -> String {
        format!("{}://{host}:{}", self.scheme, self.port)
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.once(|_| true).connections
    }

    pub(crate) fn failed_handshakes(&self) -> usize {
        self.state
            .once(|state| state.handshakes == state.connections)
            .failed_handshakes
    }

    /// The calls, after checking that they are the planned ones.
    pub(crate) fn finish(self) -> Vec<Call> {
        let state = self.state.once(|state| state.plan.is_empty());
        assert!(
            state.unasked.is_empty(),
            "calls nobody asked for: {:?}",
            state.unasked
        );
        let missing: Vec<_> = state.plan.iter().map(|(line, _)| line).collect();
        assert!(missing.is_empty(), "calls that never came: {missing:?}");
        state.calls.clone()
    }
}

/// The whole good handshake.
pub(crate) fn good(secret: &'static [u8]) -> Vec<(&'static str, Reply)> {
    vec![
        (AUTH, challenge()),
        (ATTEST, token()),
        (RESOURCE, Reply::Secret(secret)),
    ]
}

pub(crate) fn challenge() -> Reply {
    let headers =
        format!("set-cookie: {COOKIE}; Expires=Wed, 21 Oct 2099 07:28:00 GMT\r\ndate: {DATE}\r\n");
    let body = br#"{"nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","extra-params":""}"#;
    Reply::Answer(200, headers, body.to_vec())
}

pub(crate) fn token() -> Reply {
    Reply::Answer(
        200,
        String::new(),
        format!(r#"{{"token":"{TOKEN}"}}"#).into_bytes(),
    )
}

/// A refusal as a KBS writes it: 401 and no content type.
pub(crate) fn refusal(kind: &str, detail: &str) -> Reply {
    let body = format!(
        r#"{{"type":"https://github.com/confidential-containers/kbs/errors/{kind}","detail":"{detail}"}}"#
    );
    Reply::Answer(401, String::new(), body.into_bytes())
}

pub(crate) fn html(status: u16) -> Reply {
    let body = b"<html><head><title>nginx</title></head><body>nginx</body></html>".to_vec();
    Reply::Answer(status, "content-type: text/html\r\n".to_owned(), body)
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn serve(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, shared: &Shared) {
    tcp.set_nodelay(true).unwrap();
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(config) => {
            let mut tcp = tcp;
            let mut connection = ServerConnection::new(config).unwrap();
            let mut good = true;
            while good && connection.is_handshaking() {
                good = connection.complete_io(&mut tcp).is_ok();
            }
            shared.change(|state| {
                state.handshakes += 1;
                state.failed_handshakes += usize::from(!good);
            });
            if !good {
                return;
            }
            Box::new(StreamOwned::new(connection, tcp))
        }
    };
    while let Some(call) = read_call(&mut *stream) {
        let (reply, key) = shared.change(|state| (state.take(call), state.tee_key.clone()));
        let Some(reply) = reply else { return };
        if !perform(&mut *stream, reply, key.as_ref()) {
            return;
        }
    }
}

impl State {
    /// Files a call, and gives its reply if it is the next one planned.
    fn take(&mut self, call: Call) -> Option<Reply> {
        if let Ok(attestation) = Attestation::parse(&call.body) {
            self.tee_key = Some(attestation.runtime_data.tee_pubkey);
        }
        self.calls.push(call.clone());
        if self
            .plan
            .front()
            .is_some_and(|(line, _)| *line == call.line)
        {
            return self.plan.pop_front().map(|(_, reply)| reply);
        }
        self.unasked.push(call.line);
        None
    }
}

/// Whether the connection goes on.
fn perform(stream: &mut dyn Stream, reply: Reply, key: Option<&TeePubKey>) -> bool {
    let mut send = |bytes: &[u8]| {
        stream
            .write_all(bytes)
            .and_then(|()| stream.flush())
            .is_ok()
    };
    match reply {
        Reply::Answer(status, headers, body) => send(&answer(status, &headers, &body)),
        Reply::Secret(secret) => {
            let jwe = ResourceJwe::seal(key.expect("a key was attested"), secret).unwrap();
            send(&answer(
                200,
                "content-type: application/json\r\n",
                &serde_json::to_vec(&jwe).unwrap(),
            ))
        }
        Reply::Close => false,
        Reply::Cut => {
            send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"nonce\":");
            false
        }
        Reply::Endless => {
            let mut open = send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
            while open {
                open = send(&[b' '; 8192]);
            }
            false
        }
        Reply::Drip => {
            let mut open = send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
            while open {
                std::thread::sleep(Duration::from_millis(20));
                open = send(b" ");
            }
            false
        }
        Reply::Silence => {
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) {}
            false
        }
    }
}

fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn read_call(stream: &mut dyn Stream) -> Option<Call> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut call = Call {
        line,
        headers,
        body: Vec::new(),
    };
    let length = call
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    call.body = vec![0; length];
    stream.read_exact(&mut call.body).ok()?;
    Some(call)
}

/// Long ago, so that a test can tell it from now.
const DATE: &str = "Sat, 01 Jan 2000 00:00:00 GMT";
