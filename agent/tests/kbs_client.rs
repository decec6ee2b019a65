// SPDX-License-Identifier: Apache-2.0

//! The KBS client against servers that play scenarios: every call is expected, every refusal is read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "helpers of tests"
)]
#![allow(unreachable_pub, reason = "a test crate exports nothing")]

mod scenario;

use kbs_protocol::message::{Attestation, CompositeEvidence, RuntimeData};
use kbs_protocol::resource::Volume;
use kbs_protocol::{Blame as _, NodeId, Owner, Persistence, Tee};
use scenario::certificate::Certificate;
use scenario::{
    ATTEST, AUTH, COOKIE, RESOURCE, Reply, Scenario, TOKEN, challenge, good, html, refusal, token,
};
use serde_json::json;
use std::time::Duration;
use trustee_agent::config::Config;
use trustee_agent::kbs::{
    Attest, Client, EvidenceFailure, Fetched, KbsError, Patience, TlsProblem,
};
use trustee_agent::trust::{self, Target};

const SECRET: &[u8] = b"a secret that belongs to this node";

#[test]
fn a_handshake_takes_one_connection() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, good(SECRET));
    let fetched = fetch(&config(&[&server.url()], &with_ca(&certificate))).unwrap();

    assert_eq!(fetched.secret.expose(), SECRET);
    assert_eq!(fetched.token.as_str(), TOKEN);
    assert_eq!(fetched.server.as_str(), server.url());
    assert!(
        fetched.clock_skew.unwrap() < -86_400,
        "the server's Date header is from the year 2000"
    );
    assert_eq!(server.connections(), 1);
    let calls = server.finish();
    assert_eq!(calls[0].header("cookie"), None);
    assert_eq!(
        String::from_utf8_lossy(&calls[0].body),
        r#"{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}"#
    );
    for call in &calls[1..] {
        assert_eq!(call.header("cookie"), Some(COOKIE), "{}", call.line);
        assert_eq!(call.header("authorization"), None, "{}", call.line);
    }
    for call in &calls {
        assert_eq!(
            call.header("accept-encoding"),
            None,
            "no compression is asked for"
        );
        assert_eq!(call.header("referer"), None);
    }
    let attestation = Attestation::parse(&calls[1].body).unwrap();
    assert!(attestation.init_data.is_none());
    assert_eq!(
        attestation.tee_evidence.primary_evidence["nonce"],
        attestation.runtime_data.nonce
    );
}

#[test]
fn a_server_that_closes_between_two_steps_is_connected_to_again() {
    let certificate = Certificate::good();
    let Reply::Answer(status, headers, body) = challenge() else {
        panic!("a challenge is an answer")
    };
    let closing = Reply::Answer(status, headers + "connection: close\r\n", body);
    let server = Scenario::tls(
        &certificate,
        [
            (AUTH, closing),
            (ATTEST, token()),
            (RESOURCE, Reply::Secret(SECRET)),
        ],
    );
    assert!(fetch(&config(&[&server.url()], &with_ca(&certificate))).is_ok());
    assert_eq!(server.connections(), 2);
    assert_eq!(server.finish()[1].header("cookie"), Some(COOKIE));
}

#[test]
fn a_lost_session_is_served_by_token() {
    let certificate = Certificate::good();
    let plan = vec![
        (AUTH, challenge()),
        (ATTEST, token()),
        (
            RESOURCE,
            refusal("TokenNotFound", "Attestation Token not found"),
        ),
        (RESOURCE, Reply::Secret(SECRET)),
    ];
    let server = Scenario::tls(&certificate, plan);
    let fetched = fetch(&config(&[&server.url()], &with_ca(&certificate))).unwrap();

    assert_eq!(fetched.secret.expose(), SECRET);
    let calls = server.finish();
    assert_eq!(calls[2].header("cookie"), Some(COOKIE));
    assert_eq!(calls[3].header("cookie"), None);
    assert_eq!(
        calls[3].header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
}

#[test]
fn a_token_nobody_knows_is_worth_one_new_handshake() {
    let certificate = Certificate::good();
    let lost = || refusal("TokenNotFound", "Attestation Token not found");
    let once = || {
        vec![
            (AUTH, challenge()),
            (ATTEST, token()),
            (RESOURCE, lost()),
            (RESOURCE, lost()),
        ]
    };
    let server = Scenario::tls(&certificate, [once(), good(SECRET)].into_iter().flatten());
    let fetched = fetch(&config(&[&server.url()], &with_ca(&certificate))).unwrap();
    assert_eq!(fetched.secret.expose(), SECRET);
    let calls = server.finish();
    let keys: Vec<_> = calls
        .iter()
        .filter_map(|call| Attestation::parse(&call.body).ok())
        .map(|attestation| attestation.runtime_data.tee_pubkey)
        .collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1], "each handshake has its own key");

    let server = Scenario::tls(&certificate, [once(), once()].into_iter().flatten());
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Server, Persistence::Temporary)
    );
    server.finish();
}

#[test]
fn an_untrusted_token_is_worth_one_new_handshake() {
    let certificate = Certificate::good();
    let refused = || refusal("TokenVerifierError", "Token Verifier error");
    let plan = [
        (AUTH, challenge()),
        (ATTEST, token()),
        (RESOURCE, refused()),
    ];
    let server = Scenario::tls(&certificate, plan.into_iter().chain(good(SECRET)));
    assert!(fetch(&config(&[&server.url()], &with_ca(&certificate))).is_ok());
    server.finish();
}

#[test]
fn a_policy_refusal_ends_the_fetch_and_carries_the_token() {
    let certificate = Certificate::good();
    let denied = || refusal("PolicyDeny", "Access denied by policy");
    let plan = [(AUTH, challenge()), (ATTEST, token()), (RESOURCE, denied())];
    let server = Scenario::tls(&certificate, plan);
    // Even a caller with time left gets its answer at once.
    let error = fetch_for(
        &config(&[&server.url()], &with_ca(&certificate)),
        Patience::For(Duration::from_secs(3600)),
    )
    .err()
    .unwrap();

    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Policy, Persistence::UntilApproved)
    );
    assert_eq!(error.token().unwrap().as_str(), TOKEN);
    assert_eq!(error.server().unwrap().as_str(), server.url());
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("does not give this secret to this node"),
        "{text}"
    );
    assert!(!text.contains(TOKEN), "the token is not printed: {text}");
    server.finish();
}

#[test]
fn other_servers_are_not_asked_after_a_policy_refusal() {
    let certificate = Certificate::good();
    let plan = [
        (AUTH, challenge()),
        (ATTEST, token()),
        (RESOURCE, refusal("PolicyDeny", "Access denied by policy")),
    ];
    let first = Scenario::tls(&certificate, plan);
    let second = Scenario::tls(&certificate, []);
    let error = fetch_err(&config(
        &[&first.url(), &second.url()],
        &with_ca(&certificate),
    ));
    assert_eq!(error.owner(), Owner::Policy);
    first.finish();
    assert_eq!(second.connections(), 0);
}

/// Each refusal with the server's whole part: one call or three, never one more.
#[test]
fn refusals() {
    use Owner::{Configuration, Policy, Server};
    use Persistence::{Permanent, Temporary, UntilApproved};
    let certificate = Certificate::good();
    let mismatch = "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: \
                    expect =0.2.0 while the request is 0.4.0";
    let opaque = "Attestation error: RCAR handshake Attest failed";
    let at_auth = |reply| vec![(AUTH, reply)];
    let at_attest = |reply| vec![(AUTH, challenge()), (ATTEST, reply)];
    let at_resource = |reply| vec![(AUTH, challenge()), (ATTEST, token()), (RESOURCE, reply)];
    for (plan, owner, persistence, words) in [
        (
            at_auth(refusal("AttestationError", mismatch)),
            Server,
            Permanent,
            "expect =0.2.0",
        ),
        (
            at_auth(html(404)),
            Configuration,
            Permanent,
            "no KBS at this address",
        ),
        (at_auth(html(413)), Server, Permanent, "status 413"),
        (at_auth(html(500)), Server, Temporary, "status 500"),
        (at_auth(html(503)), Server, Temporary, "patience"),
        (at_auth(html(200)), Server, Permanent, "not JSON"),
        (
            at_attest(refusal("AttestationError", opaque)),
            Server,
            UntilApproved,
            "does not say why",
        ),
        (
            at_attest(html(413)),
            Server,
            Permanent,
            "larger than it accepts",
        ),
        (
            at_attest(Reply::Answer(200, String::new(), b"{}".to_vec())),
            Server,
            Permanent,
            "the answer to the attestation is malformed",
        ),
        (
            at_resource(refusal("PolicyEngineError", "x")),
            Policy,
            UntilApproved,
            "does not evaluate",
        ),
        (
            at_resource(refusal("PluginInternalError", "x")),
            Server,
            UntilApproved,
            "does not exist",
        ),
        (
            at_resource(refusal("JweError", "JWE failed")),
            Server,
            Permanent,
            "cannot encrypt",
        ),
        (
            at_resource(refusal("PluginNotFound", "x")),
            Configuration,
            Permanent,
            "no KBS",
        ),
        (at_resource(html(502)), Server, Temporary, "status 502"),
        (
            at_resource(Reply::Answer(200, String::new(), b"[]".to_vec())),
            Server,
            Permanent,
            "member",
        ),
    ] {
        let server = Scenario::tls(&certificate, plan);
        let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
        let text = error.to_string();
        assert_eq!(
            (error.owner(), error.persistence()),
            (owner, persistence),
            "{text}"
        );
        assert!(
            text.contains(words) && text.starts_with(&server.url()),
            "{words:?} in {text}"
        );
        assert!(!text.contains("<html>\n") && !error.advice().is_empty());
        server.finish();
    }
}

#[test]
fn a_secret_for_another_key_is_not_accepted() {
    let certificate = Certificate::good();
    let other = kbs_protocol::tee_key::TeeKey::generate().unwrap().public();
    let jwe = kbs_protocol::jwe::ResourceJwe::seal(&other, SECRET).unwrap();
    let body = serde_json::to_vec(&jwe).unwrap();
    let plan = [
        (AUTH, challenge()),
        (ATTEST, token()),
        (RESOURCE, Reply::Answer(200, String::new(), body)),
    ];
    let server = Scenario::tls(&certificate, plan);
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert!(error.to_string().contains("not authentic"), "{error}");
    assert_eq!(error.persistence(), Persistence::Permanent);
    assert_eq!(error.token().unwrap().as_str(), TOKEN);
    server.finish();
}

#[test]
fn a_challenge_without_cookie_is_refused() {
    let certificate = Certificate::good();
    let body = br#"{"nonce":"AAEC","extra-params":""}"#.to_vec();
    let headers = "set-cookie: other=1\r\nset-cookie: kbs-session-id=\r\n".to_owned();
    let server = Scenario::tls(&certificate, [(AUTH, Reply::Answer(200, headers, body))]);
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert!(matches!(error, KbsError::NoCookie { .. }), "{error}");
    server.finish();
}

#[test]
fn redirections_are_not_followed() {
    let certificate = Certificate::good();
    let elsewhere = Scenario::tls(&certificate, []);
    let headers = format!("location: {}/kbs/v0/auth\r\n", elsewhere.url());
    let server = Scenario::tls(
        &certificate,
        [(AUTH, Reply::Answer(307, headers, Vec::new()))],
    );
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert!(matches!(error, KbsError::Redirect { .. }), "{error}");
    assert!(error.to_string().contains(&elsewhere.url()), "{error}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Configuration, Persistence::Permanent)
    );
    server.finish();
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn answers_that_break_off_are_network_errors() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, [(AUTH, challenge()), (ATTEST, Reply::Cut)]);
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert!(matches!(error, KbsError::Cut { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("the answer to the evidence broke off"),
        "{error}"
    );
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Network, Persistence::Temporary)
    );
    server.finish();
}

/// A load balancer whose servers restart does that, longer than any count of ours.
#[test]
fn a_server_that_closes_without_a_word_is_asked_again_however_often() {
    let certificate = Certificate::good();
    let at_once = || vec![(AUTH, Reply::Close)];
    let over_evidence = || vec![(AUTH, challenge()), (ATTEST, Reply::Close)];
    let plan = [at_once(), at_once(), at_once(), at_once()]
        .into_iter()
        .chain([
            over_evidence(),
            over_evidence(),
            over_evidence(),
            over_evidence(),
        ])
        .chain([good(SECRET)]);
    let server = Scenario::tls(&certificate, plan.flatten());
    let config = config(&[&server.url()], &with_ca(&certificate));
    let (target, client) = client(&config);
    let round = || {
        client.fetch(&mut Fake, &target.path, Patience::Once, &mut |_| {
            panic!("nobody waits")
        })
    };
    for step in ["the request for a challenge", "the evidence"] {
        for _ in 0..4 {
            let error = round().err().unwrap();
            let said = error.to_string();
            assert!(
                said.contains("closed the connection instead of answering"),
                "{said}"
            );
            assert!(said.contains(step), "{said}");
            assert_eq!(
                (error.owner(), error.persistence()),
                (Owner::Server, Persistence::Temporary)
            );
            assert!(error.advice().contains("load balancer"), "{error}");
        }
    }
    assert_eq!(round().unwrap().secret.expose(), SECRET);
    server.finish();
}

#[test]
fn bodies_have_a_size_limit_and_a_time_limit() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, [(AUTH, Reply::Endless)]);
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert!(matches!(error, KbsError::TooLarge { .. }), "{error}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Server, Persistence::Permanent)
    );
    server.finish();

    for reply in [Reply::Silence, Reply::Drip] {
        let server = Scenario::tls(&certificate, [(AUTH, reply)]);
        let mut config = config(&[&server.url()], &with_ca(&certificate));
        config.timeouts.request = Duration::from_secs(1);
        let error = fetch_err(&config);
        assert!(matches!(error, KbsError::Timeout { .. }), "{error}");
        assert_eq!(
            (error.owner(), error.persistence()),
            (Owner::Network, Persistence::Temporary)
        );
        server.finish();
    }
}

#[test]
fn names_and_ports_nobody_serves() {
    // RFC 6761 section 6.4: this name never resolves.
    let name = "https://kbs.invalid:1";
    let anchor = with_ca(&Certificate::good());
    // Where no resolver answers, finding that out takes it a while.
    let mut patient = config(&[name], &anchor);
    patient.timeouts.connect = Duration::from_secs(120);
    patient.timeouts.request = Duration::from_secs(120);
    let error = fetch_err(&patient);
    assert!(matches!(error, KbsError::Dns { .. }), "{error:?}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Network, Persistence::Temporary)
    );

    let error = fetch_err(&config(&[DEAD_SERVER], &anchor));
    assert!(matches!(error, KbsError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Network, Persistence::Temporary)
    );
}

#[test]
fn the_machines_certificates_and_proxies_play_no_part() {
    // Variables are of the process, so the test runs itself in another one.
    let name = "the_machines_certificates_and_proxies_play_no_part";
    if std::env::var_os("SSL_CERT_FILE").as_deref() != Some("/nonexistent".as_ref()) {
        let directory = tempfile::tempdir().unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("SSL_CERT_FILE", "/nonexistent")
            .env("SSL_CERT_DIR", directory.path())
            .envs(
                ["http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|v| (v, DEAD_SERVER)),
            )
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, good(SECRET));
    assert!(fetch(&config(&[&server.url()], &with_ca(&certificate))).is_ok());
    server.finish();
    let server = Scenario::start(None, good(SECRET));
    assert!(fetch(&config(&[&server.url()], "insecure_http = true\n")).is_ok());
    server.finish();
}

#[test]
fn certificates_that_are_not_trusted() {
    use Owner::{Configuration, Machine, Server};
    let other = Certificate::good();
    let stranger = Certificate::of_a_stranger();
    let good = Certificate::good();
    let expired = Certificate::expired();
    let early = Certificate::not_yet_valid();
    let misnamed = Certificate::for_another_name();
    let both = |ca: &Certificate, pin: &Certificate| with_ca(ca) + &with_pin(pin);
    for (certificate, anchors, owner, words) in [
        (
            &good,
            with_ca(&other),
            Configuration,
            "not issued by a configured authority",
        ),
        (
            &good,
            with_ca(&stranger),
            Configuration,
            "not issued by a configured authority",
        ),
        (&good, with_pin(&other), Configuration, good.spki.as_str()),
        (
            &good,
            both(&good, &other),
            Configuration,
            good.spki.as_str(),
        ),
        (
            &good,
            both(&other, &good),
            Configuration,
            "not issued by a configured authority",
        ),
        (
            &expired,
            with_ca(&expired),
            Server,
            "expired at Mon, 01 Jan 2001 00:00:00 GMT, our clock says",
        ),
        (
            &early,
            with_ca(&early),
            Machine,
            "begins at Wed, 01 Jan 2098 00:00:00 GMT, our clock says",
        ),
        (&misnamed, with_ca(&misnamed), Configuration, "kbs.example"),
        (
            &misnamed,
            both(&misnamed, &misnamed),
            Configuration,
            "kbs.example",
        ),
    ] {
        let server = Scenario::tls(certificate, []);
        let error = fetch_err(&config(&[&server.url()], &anchors));
        assert!(matches!(error, KbsError::Tls { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(words), "{words:?} in {text}");
        assert_eq!(
            (error.owner(), error.persistence()),
            (owner, Persistence::Permanent),
            "{text}"
        );
        assert_eq!(
            server.failed_handshakes(),
            1,
            "no byte of HTTP was sent: {text}"
        );
        server.finish();
    }
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let certificate = Certificate::good();
    for anchors in [with_ca(&certificate), with_pin(&certificate)] {
        let server = Scenario::start(Some(certificate.stolen()), []);
        let error = fetch_err(&config(&[&server.url()], &anchors));
        assert!(
            matches!(problem(&error), TlsProblem::Certificate(_)),
            "{error}"
        );
        assert_eq!(error.persistence(), Persistence::Permanent);
        server.finish();
    }
}

#[test]
fn without_any_anchor_nobody_is_trusted() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, []);
    // Parsed and not loaded: the file is named and its certificates are not there.
    let error = fetch_err(&config(&[&server.url()], "ca_file = \"ca.pem\"\n"));
    assert_eq!(problem(&error), &TlsProblem::UnknownIssuer);
    server.finish();
}

#[test]
fn certificates_that_are_trusted() {
    let good_one = Certificate::good();
    let expired = Certificate::expired();
    let early = Certificate::not_yet_valid();
    let misnamed = Certificate::for_another_name();
    for (certificate, anchors) in [
        (&good_one, with_pin(&good_one)),
        (&good_one, with_ca(&good_one) + &with_pin(&good_one)),
        // The key is the identity, whatever the clock and the names say.
        (&expired, with_pin(&expired)),
        (&misnamed, with_pin(&misnamed)),
        // With both, the pinned key makes up for the clock, not for the name.
        (&expired, with_ca(&expired) + &with_pin(&expired)),
        (&early, with_ca(&early) + &with_pin(&early)),
    ] {
        let server = Scenario::tls(certificate, good(SECRET));
        fetch(&config(&[&server.url()], &anchors)).unwrap();
        server.finish();
    }
    let server = Scenario::tls(&good_one, good(SECRET));
    fetch(&config(&[&server.url_of("localhost")], &with_ca(&good_one))).unwrap();
    server.finish();
}

#[test]
fn old_tls_and_no_tls() {
    let certificate = Certificate::good();
    let old = certificate.server_config(&[&rustls::version::TLS12]);
    let server = Scenario::start(Some(old), []);
    let error = fetch_err(&config(&[&server.url()], &with_ca(&certificate)));
    assert_eq!(problem(&error), &TlsProblem::Version);
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Server, Persistence::Permanent)
    );
    server.finish();

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 16]).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = fetch_err(&config(&[&url], &with_ca(&certificate)));
    assert_eq!(problem(&error), &TlsProblem::NotTls);
    assert_eq!(error.owner(), Owner::Configuration);
}

#[test]
fn a_dead_first_server_is_overtaken() {
    let certificate = Certificate::good();
    // Refused: the second server is asked at once, although the hedge delay is an hour.
    let second = Scenario::tls(&certificate, good(SECRET));
    let mut slow_hedge = config(&[DEAD_SERVER, &second.url()], &with_ca(&certificate));
    slow_hedge.timeouts.hedge = Duration::from_secs(3600);
    assert_eq!(fetch(&slow_hedge).unwrap().server.as_str(), second.url());
    second.finish();

    // Silent: after the hedge delay, although the request may take an hour.
    let first = Scenario::tls(&certificate, [(AUTH, Reply::Silence)]);
    let second = Scenario::tls(&certificate, good(SECRET));
    let mut slow_request = config(&[&first.url(), &second.url()], &with_ca(&certificate));
    slow_request.timeouts.request = Duration::from_secs(3600);
    slow_request.timeouts.hedge = Duration::from_millis(200);
    assert_eq!(fetch(&slow_request).unwrap().server.as_str(), second.url());
    assert_eq!(second.connections(), 1);
    first.finish();
    second.finish();

    // An impostor in front: the true server is asked, and the impostor hears nothing but a hello.
    let impostor = Scenario::tls(&Certificate::good(), []);
    let second = Scenario::tls(&certificate, good(SECRET));
    let servers = config(&[&impostor.url(), &second.url()], &with_ca(&certificate));
    assert_eq!(fetch(&servers).unwrap().server.as_str(), second.url());
    impostor.finish();
    second.finish();
}

#[test]
fn a_healthy_first_server_is_the_only_one_asked() {
    let certificate = Certificate::good();
    let first = Scenario::tls(&certificate, good(SECRET));
    let second = Scenario::tls(&certificate, []);
    let servers = config(&[&first.url(), &second.url()], &with_ca(&certificate));
    assert_eq!(fetch(&servers).unwrap().server.as_str(), first.url());
    assert_eq!((first.connections(), second.connections()), (1, 0));
    first.finish();
}

#[test]
fn a_winner_that_fails_later_is_left_for_the_others() {
    let certificate = Certificate::good();
    let first = Scenario::tls(&certificate, [(AUTH, challenge()), (ATTEST, html(502))]);
    let second = Scenario::tls(&certificate, good(SECRET));
    let servers = config(&[&first.url(), &second.url()], &with_ca(&certificate));
    assert_eq!(fetch(&servers).unwrap().server.as_str(), second.url());
    first.finish();
    second.finish();
}

#[test]
fn when_all_servers_fail_each_is_named_and_the_hopeful_error_leads() {
    let certificate = Certificate::good();
    let impostor = Scenario::tls(&Certificate::good(), []);
    let error = fetch_err(&config(
        &[&impostor.url(), DEAD_SERVER],
        &with_ca(&certificate),
    ));
    let text = error.to_string();
    assert!(
        text.contains("none of 2 servers") && text.contains(&impostor.url()),
        "{text}"
    );
    assert!(text.contains(DEAD_SERVER), "{text}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Network, Persistence::Temporary)
    );
    impostor.finish();
}

#[test]
fn temporary_errors_are_retried_and_the_waiting_is_told() {
    let certificate = Certificate::good();
    let plan = [(AUTH, html(503))].into_iter().chain(good(SECRET));
    let server = Scenario::tls(&certificate, plan);
    let config = config(&[&server.url()], &with_ca(&certificate));
    let (target, client) = client(&config);
    let mut waits = Vec::new();
    let fetched = client
        .fetch(
            &mut Fake,
            &target.path,
            Patience::For(Duration::from_secs(3600)),
            &mut |wait| {
                assert!(
                    wait.next <= Duration::from_secs(1),
                    "the first pause is at most a second"
                );
                waits.push((wait.tries, wait.error.to_string()));
            },
        )
        .unwrap();
    assert_eq!(fetched.secret.expose(), SECRET);
    assert_eq!(waits.len(), 1);
    assert!(
        waits[0].0 == 1 && waits[0].1.contains("status 503"),
        "{waits:?}"
    );
    server.finish();
}

#[test]
fn permanent_errors_stop_at_once() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, [(AUTH, html(404))]);
    let config = config(&[&server.url()], &with_ca(&certificate));
    let error = fetch_for(&config, Patience::Forever).err().unwrap();
    assert_eq!(error.persistence(), Persistence::Permanent);
    assert_eq!(server.finish().len(), 1);
}

#[test]
fn an_attester_that_fails_is_this_machines_error() {
    struct Broken;
    impl Attest for Broken {
        fn tee(&self) -> Tee {
            Tee::Tpm
        }
        fn evidence(&mut self, _: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
            Err(Box::new(kbs_protocol::Error::Quote {
                why: "PCR 4 moved".to_owned(),
            }))
        }
    }
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, [(AUTH, challenge())]);
    let config = config(&[&server.url()], &with_ca(&certificate));
    let (target, client) = client(&config);
    let error = client
        .fetch(&mut Broken, &target.path, Patience::Forever, &mut |_| ())
        .err()
        .unwrap();
    assert_eq!(error.owner(), Owner::Machine);
    assert!(error.to_string().contains("PCR 4 moved"), "{error}");
    assert!(String::from_utf8_lossy(&server.finish()[0].body).contains(r#""tee":"tpm""#));
}

#[test]
fn attest_alone_asks_for_no_resource() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, [(AUTH, challenge()), (ATTEST, token())]);
    let config = config(&[&server.url()], &with_ca(&certificate));
    let (_, client) = client(&config);
    let attestation = client
        .attest(&mut Fake, Patience::Once, &mut |_| ())
        .unwrap();
    assert_eq!(attestation.token.as_str(), TOKEN);
    server.finish();
}

#[test]
fn a_probe_asks_every_server_for_a_challenge() {
    let certificate = Certificate::good();
    let first = Scenario::tls(&certificate, [(AUTH, challenge())]);
    let second = Scenario::tls(&certificate, [(AUTH, html(404))]);
    let config = config(&[&first.url(), &second.url()], &with_ca(&certificate));
    let probes = client(&config).1.probe(Tee::Tpm);
    assert!(probes[0].as_ref().unwrap().clock_skew.unwrap() < -86_400);
    assert_eq!(
        probes[1].as_ref().unwrap_err().owner(),
        Owner::Configuration
    );
    first.finish();
    second.finish();
}

#[test]
fn init_data_and_a_prefix_reach_the_server_verbatim() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        "algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"b\" = \"1\"\n\"a\" = \"2\"\n";
    std::fs::write(directory.path().join("init.toml"), text).unwrap();
    let certificate = Certificate::good();
    std::fs::write(directory.path().join("ca.pem"), &certificate.ca_pem).unwrap();
    let server = Scenario::tls(
        &certificate,
        [
            ("POST /cluster-a/kbs/v0/auth", challenge()),
            ("POST /cluster-a/kbs/v0/attest", token()),
            (
                "GET /cluster-a/kbs/v0/resource/default/n1/root",
                Reply::Secret(SECRET),
            ),
        ],
    );
    let file = directory.path().join("agent.toml");
    let url = format!("{}/cluster-a/", server.url());
    std::fs::write(
        &file,
        format!(
            "[kbs]\nservers = [{url:?}]\nca_file = \"ca.pem\"\ninit_data_file = \"init.toml\"\n\
             path = \"default/n1/root\"\n"
        ),
    )
    .unwrap();
    fetch(&Config::load(&file).unwrap()).unwrap();
    let calls = server.finish();
    let init_data = Attestation::parse(&calls[1].body)
        .unwrap()
        .init_data
        .unwrap();
    assert_eq!(
        (init_data.format.as_str(), init_data.body.as_str()),
        ("toml", text)
    );
}

/// `[kbs]` for these servers, with short limits; `more` is appended to the table.
fn config(servers: &[&str], more: &str) -> Config {
    let text = format!(
        "[kbs]\nservers = {servers:?}\npath = \"default/n1/root\"\n{more}\n\
         [timeouts]\nconnect = \"20s\"\nrequest = \"20s\"\nhedge = \"20s\"\n"
    );
    Config::parse(&text).unwrap()
}

fn with_ca(certificate: &Certificate) -> String {
    format!("ca_pem = '''\n{}'''\n", certificate.ca_pem)
}

fn with_pin(certificate: &Certificate) -> String {
    format!("spki_sha256 = [\"{}\"]\n", certificate.spki)
}

fn fetch(config: &Config) -> Result<Fetched, KbsError> {
    fetch_for(config, Patience::Once)
}

fn fetch_err(config: &Config) -> KbsError {
    fetch(config).err().expect("the fetch must fail")
}

fn fetch_for(config: &Config, patience: Patience) -> Result<Fetched, KbsError> {
    let (target, client) = client(config);
    client.fetch(&mut Fake, &target.path, patience, &mut |wait| {
        panic!("waits: {}", wait.error)
    })
}

fn client(config: &Config) -> (Target, Client) {
    let target =
        trust::configured(config, &NodeId::from_spki_der(b"node"), &Volume::default()).unwrap();
    let client = Client::new(&target, &config.timeouts).unwrap();
    (target, client)
}

/// A port of this machine that nobody serves (tcpmux, RFC 1078, is history).
const DEAD_SERVER: &str = "https://127.0.0.1:1";

fn problem(error: &KbsError) -> &TlsProblem {
    match error {
        KbsError::Tls { problem, .. } => problem,
        other => panic!("not about TLS: {other}"),
    }
}

/// An attester whose evidence shows what it was asked over.
struct Fake;

impl Attest for Fake {
    fn tee(&self) -> Tee {
        Tee::Sample
    }

    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
        Ok(CompositeEvidence {
            primary_evidence: json!({ "nonce": data.nonce }),
            additional_evidence: String::new(),
        })
    }
}
