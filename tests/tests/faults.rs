// SPDX-License-Identifier: Apache-2.0
//! Everything that goes wrong between a node and its KBS, each with the sentence a person reads, the party
//! it names, and the exit code a script sees. Real processes, real TLS, a fault switched on in the server,
//! on the way, or in the configuration.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use std::fs;

use kbs_protocol::Owner;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use sheepfold_tests::lab;
use sheepfold_tests::process::Captured;
use sheepfold_tests::proxy::Proxy;
use sheepfold_tests::world::World;

/// An enrolled node in a world that works.
fn world() -> World {
    World::enrolled().unwrap().0
}

/// The same, with a fault in the server.
fn world_with(fault: &str) -> World {
    let mut world = world();
    world.restart_lab(&["--fault", fault]).unwrap();
    world
}

/// What may pass by itself is waited for, here for ever: `trustee-agent fetch` must say this sentence while it waits,
/// blame this party, and give no secret.
#[track_caller]
fn waits(world: &mut World, owner: Owner, sentence: &str) {
    world.settings.overall = "0s";
    world.configure().unwrap();
    let said = world.agent(["fetch"]).until_it_says(sentence).unwrap();
    let line = said.err().lines().last().unwrap_or_default().to_owned();
    assert!(line.contains("waiting for "), "{said}");
    assert!(said.stdout.is_empty(), "{said}");
    let state = fs::read(world.run_dir().join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let reason = &state["waiting"][world.path().unwrap().as_str()]["reason"];
    assert!(
        reason["why"].as_str().unwrap().contains(sentence),
        "{reason}"
    );
    assert_eq!(reason["owner"], owner.as_str(), "{reason}");
    assert_eq!(reason["exit_code"], code(owner), "{reason}");
}

/// `trustee-agent fetch` must fail with this sentence, blame this party, and give no secret.
#[track_caller]
fn refused(world: &World, owner: Owner, sentence: &str) -> Captured {
    let refused = world.agent(["fetch"]).capture().unwrap();
    assert_eq!(refused.code, Some(code(owner)), "{refused}");
    assert!(
        refused.err().contains(sentence),
        "expected {sentence:?}: {refused}"
    );
    assert!(
        refused.err().contains(owner.as_str()),
        "expected {:?}: {refused}",
        owner.as_str()
    );
    assert!(
        refused.stdout.is_empty(),
        "a failed fetch prints nothing on standard output"
    );
    assert!(!refused.err().contains("panicked"), "{refused}");
    refused
}

/// The exit codes that scripts rely on, written down a second time on purpose.
fn code(owner: Owner) -> i32 {
    match owner {
        Owner::Configuration => 10,
        Owner::Machine => 11,
        Owner::Network => 12,
        Owner::Server => 13,
        Owner::Policy => 14,
        Owner::Data => 15,
    }
}

/// What every test here starts from; otherwise a broken world would pass for a refusal.
#[test]
fn without_a_fault_the_secret_comes() {
    let (world, _, stored) = World::enrolled().unwrap();
    let fetched = world.agent(["fetch"]).success().unwrap();
    assert_eq!(fetched.stdout, stored.content.expose());
}

#[test]
fn kbs_down() {
    let mut world = world();
    world.settings.overall = "4s";
    world.configure().unwrap();
    world.lab.stop().unwrap();
    let refused = refused(&world, Owner::Network, "no connection: ");
    assert!(refused.err().contains("gave up after"), "{refused}");
}

#[test]
fn name_does_not_resolve() {
    let mut world = world();
    world.settings.servers = vec!["https://kbs.invalid:8080".to_owned()];
    waits(
        &mut world,
        Owner::Network,
        "https://kbs.invalid:8080: its name does not resolve",
    );
}

#[test]
fn kbs_too_slow() {
    let mut world = world_with("delay=attest:20s");
    world.settings.request = "1s";
    waits(
        &mut world,
        Owner::Network,
        "no complete answer to the evidence within 1 s",
    );
}

#[test]
fn network_swallows_everything() {
    let mut world = world();
    let proxy = Proxy::start(world.lab.address().unwrap()).unwrap();
    proxy.stall();
    world.settings.servers = vec![format!("https://{}", proxy.address())];
    world.settings.connect = "500ms";
    world.settings.request = "1s";
    waits(&mut world, Owner::Network, "no ");
}

#[test]
fn connection_reset_in_the_middle_of_an_answer() {
    let mut world = world();
    let proxy = Proxy::start(world.lab.address().unwrap()).unwrap();
    world.settings.servers = vec![format!("https://{}", proxy.address())];
    world.configure().unwrap();
    // The whole handshake fits into the first hundred thousand bytes; the resource does not.
    world
        .lab
        .admin(
            &["set-resource", world.path().unwrap().as_str()],
            &vec![b'x'; 300_000],
        )
        .unwrap();
    proxy.reset_after(150_000);
    waits(
        &mut world,
        Owner::Network,
        "the answer to the request for the resource broke off",
    );
}

#[test]
fn kbs_closes_in_the_middle_of_an_answer() {
    let mut world = world_with("drop-mid-body=attest");
    waits(
        &mut world,
        Owner::Network,
        "the answer to the evidence broke off",
    );
}

#[test]
fn kbs_crashes_on_the_request() {
    let mut world = world_with("drop-before=attest");
    waits(
        &mut world,
        Owner::Server,
        "it closed the connection instead of answering the evidence",
    );
}

#[test]
fn certificate_of_another_authority() {
    let mut world = world();
    let other = world.dir().join("another-kbs");
    lab::init(&other).unwrap();
    world.settings.ca_file = Some(other.join("ca.pem"));
    world.configure().unwrap();
    refused(
        &world,
        Owner::Configuration,
        "its certificate is not issued by a configured authority",
    );
}

#[test]
fn certificate_expired() {
    let mut world = world();
    certify(&world, "127.0.0.1", (2020, 2021));
    world.restart_lab(&[]).unwrap();
    refused(
        &world,
        Owner::Server,
        "its certificate expired at Fri, 01 Jan 2021",
    );
}

#[test]
fn certificate_for_another_name() {
    let mut world = world();
    certify(&world, "kbs.example", (2020, 4000));
    world.restart_lab(&[]).unwrap();
    refused(&world, Owner::Configuration, "its certificate is for ");
}

#[test]
fn certificate_without_a_fault() {
    // The certificates of the two tests above are fine but for the one thing they are about.
    let mut world = world();
    certify(&world, "127.0.0.1", (2020, 4000));
    world.restart_lab(&[]).unwrap();
    world.agent(["fetch"]).success().unwrap();
}

#[test]
fn no_tls_at_the_other_end() {
    let mut world = world();
    world.restart_lab(&["--insecure-http"]).unwrap();
    world.settings.servers = vec![world.lab.url().replace("http://", "https://")];
    world.configure().unwrap();
    refused(&world, Owner::Configuration, "TLS");
}

#[test]
fn plain_http_needs_a_word_in_the_configuration() {
    let mut world = world();
    world.restart_lab(&["--insecure-http"]).unwrap();
    refused(&world, Owner::Configuration, "insecure_http");
    world.settings.insecure_http = true;
    world.configure().unwrap();
    world.agent(["fetch"]).success().unwrap();
}

#[test]
fn another_protocol_version() {
    let world = world_with("protocol-version=0.5.0");
    refused(&world, Owner::Server, "it speaks another protocol version");
}

#[test]
fn another_boot() {
    let world = world();
    world.tamper(4).unwrap();
    refused(
        &world,
        Owner::Policy,
        "the resource policy does not give this secret to this node (status 401",
    );
}

#[test]
fn an_unknown_node() {
    let (world, node, _) = World::enrolled().unwrap();
    let shard = World::shard(&node).unwrap();
    world
        .set_reference_value(&shard, &serde_json::json!({}))
        .unwrap();
    refused(
        &world,
        Owner::Policy,
        "the resource policy does not give this secret to this node",
    );
}

#[test]
fn another_nodes_secret() {
    let mut world = world();
    let other = "default/00000000-0000-8000-8000-000000000000/root";
    world
        .lab
        .admin(&["set-resource", other], b"not yours")
        .unwrap();
    world.settings.path = other.to_owned();
    world.configure().unwrap();
    refused(
        &world,
        Owner::Policy,
        "the resource policy does not give this secret to this node",
    );
}

#[test]
fn no_such_resource() {
    let world = world();
    world
        .lab
        .admin(&["delete-resource", world.path().unwrap().as_str()], b"")
        .unwrap();
    refused(
        &world,
        Owner::Server,
        "the resource does not exist or cannot be read",
    );
}

#[test]
fn session_expired_before_the_evidence() {
    let world = world_with("expire-session=attest");
    refused(
        &world,
        Owner::Server,
        "it did not accept the evidence and does not say why",
    );
}

#[test]
fn no_session_and_no_token_at_the_resource() {
    let mut world = world_with("error=resource:token-not-found");
    waits(&mut world, Owner::Server, "it knows no attested session");
}

#[test]
fn a_session_that_expired_before_the_resource_is_replaced_by_the_token() {
    let world = world_with("expire-session=resource");
    world.agent(["fetch"]).success().unwrap();
}

#[test]
fn a_session_that_is_lost_is_made_anew() {
    let world = world_with("error=resource:token-not-found*2");
    world.agent(["fetch"]).success().unwrap();
}

#[test]
fn a_nonce_that_the_server_did_not_give() {
    let world = world_with("wrong-nonce");
    refused(
        &world,
        Owner::Server,
        "it did not accept the evidence and does not say why",
    );
}

#[test]
fn status_401_from_something_else() {
    let world = world_with("status=auth:401");
    refused(
        &world,
        Owner::Server,
        "its answer is none that a KBS gives (status 401",
    );
}

#[test]
fn status_404() {
    let world = world_with("status=auth:404");
    refused(
        &world,
        Owner::Configuration,
        "there is no KBS at this address (status 404",
    );
}

#[test]
fn status_413() {
    let world = world_with("status=attest:413");
    refused(
        &world,
        Owner::Server,
        "the evidence is larger than it accepts (status 413",
    );
}

#[test]
fn status_500() {
    let mut world = world_with("status=resource:500");
    waits(&mut world, Owner::Server, "it failed (status 500");
}

#[test]
fn a_status_500_that_passes_is_survived() {
    let world = world_with("status=resource:500*1");
    world.agent(["fetch"]).success().unwrap();
}

#[test]
fn huge_challenge() {
    let world = world_with("huge-body=auth:100000000");
    refused(
        &world,
        Owner::Server,
        "the answer to the request for a challenge is larger than",
    );
}

#[test]
fn huge_resource() {
    let world = world_with("huge-body=resource:100000000");
    refused(
        &world,
        Owner::Server,
        "the answer to the request for the resource is larger than",
    );
}

#[test]
fn altered_resource() {
    let world = world_with("corrupt-tag");
    refused(&world, Owner::Server, "is not authentic");
}

#[test]
fn a_secret_of_another_node_given_as_ours() {
    let (mut world, _, stored) = World::enrolled().unwrap();
    // Sealed to our key and released to us, but it names its owner.
    let other = "default/other/root";
    let content = String::from_utf8(stored.content.expose().to_vec()).unwrap();
    let foreign = content.replace(stored.path.as_str(), other);
    assert_ne!(content, foreign);
    world
        .lab
        .admin(&["set-resource", other], foreign.as_bytes())
        .unwrap();
    world
        .restart_lab(&["--fault", &format!("swap-resource={other}")])
        .unwrap();
    let token = world.encrypt(["{}"]).stdin("12345678").capture().unwrap();
    assert_eq!(token.code, Some(1), "{token}");
    assert!(
        token.err().contains("the secret belongs to path"),
        "{token}"
    );
    assert!(token.stdout.is_empty());
}

#[test]
fn a_dead_server_in_front_of_a_live_one() {
    let mut world = world();
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    world.settings.servers.insert(0, format!("https://{dead}"));
    world.configure().unwrap();
    passed_by(&world, &format!("https://{dead}: no connection: "));
}

/// The fetch succeeds, and a warning says past whom and why.
fn passed_by(world: &World, why: &str) {
    let fetched = world.agent(["fetch"]).success().unwrap();
    let using = format!("; using {}\n", world.lab.url());
    let said = fetched.err();
    let told = said.lines().find(|line| line.contains(why));
    assert!(told.is_some(), "{said}");
    assert!(said.contains(&using), "{said}");
}

#[test]
fn a_silent_server_in_front_of_a_live_one() {
    let mut world = world();
    let silent = Proxy::start(world.lab.address().unwrap()).unwrap();
    silent.stall();
    world
        .settings
        .servers
        .insert(0, format!("https://{}", silent.address()));
    world.configure().unwrap();
    passed_by(
        &world,
        &format!("https://{}: no answer yet", silent.address()),
    );
    assert_eq!(silent.connections(), 1, "the first server was asked first");
}

#[test]
fn two_dead_servers_are_both_named() {
    let mut world = world();
    world.lab.stop().unwrap();
    world
        .settings
        .servers
        .push("https://kbs.invalid:8080".to_owned());
    waits(&mut world, Owner::Network, "none of 2 servers helped");
}

#[test]
fn the_pin_says_the_same_sentence() {
    let (world, _, _) = World::enrolled().unwrap();
    let token = world
        .encrypt(["{}"])
        .stdin("12345678")
        .success()
        .unwrap()
        .stdout;
    world.tamper(4).unwrap();
    let refused = world.decrypt([]).stdin(token).capture().unwrap();
    assert_eq!(refused.code, Some(1), "Clevis knows 0, 1 and 2");
    assert!(
        refused
            .err()
            .contains("the resource policy does not give this secret to this node"),
        "{refused}"
    );
    assert!(refused.stdout.is_empty());
}

#[test]
fn a_replaced_secret_is_named_as_such() {
    let (world, node, _) = World::enrolled().unwrap();
    let token = world
        .encrypt(["{}"])
        .stdin("12345678")
        .success()
        .unwrap()
        .stdout;
    world.store_secret(&node).unwrap();
    let refused = world.decrypt([]).stdin(token).capture().unwrap();
    assert_eq!(refused.code, Some(1));
    let sentence = "the key from the KBS is not the one that the token was made with";
    assert!(refused.err().contains(sentence), "{refused}");
}

/// Gives the server a certificate for `name` from a new authority, valid from and to the first of January
/// of these years.
fn certify(world: &World, name: &str, (from, to): (i32, i32)) {
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, "an authority for one test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();

    let mut server = CertificateParams::new(vec![name.to_owned()]).unwrap();
    server.not_before = date_time_ymd(from, 1, 1);
    server.not_after = date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = server.signed_by(&key, &authority).unwrap();

    let dir = world.lab.dir();
    fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
    fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
}
