// SPDX-License-Identifier: Apache-2.0

//! The keys and certificates of a laboratory: made once by `lab-kbs init`, read by the server and by the
//! admin client.
//!
//! The CA's private key is thrown away after it has signed the server's certificate: whoever trusts
//! `ca.pem` trusts this one server and nothing else, for ever.

use anyhow::Context as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    KeypairBytes,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What `init` can vary.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Names and addresses in the server's certificate.
    pub hosts: Vec<String>,
    /// Days until the server's certificate expires; negative makes one that has expired already.
    pub tls_not_after_days: i64,
}

impl Default for InitOptions {
    /// Loopback, ten years.
    fn default() -> Self {
        let hosts = ["localhost", "127.0.0.1", "::1"]
            .map(str::to_owned)
            .to_vec();
        Self {
            hosts,
            tls_not_after_days: TEN_YEARS_IN_DAYS,
        }
    }
}

/// Makes what is missing in `dir`. A second call changes nothing; a group of files that is incomplete is
/// made again as a whole.
///
/// # Errors
/// When the directory cannot be written, or a host is neither a name nor an address.
pub fn init(dir: &Path, options: &InitOptions) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    if !all_exist(dir, &[CA, TLS_CERTIFICATE, TLS_KEY]) {
        make_tls(dir, options)?;
    }
    if !all_exist(dir, &[ADMIN_KEY, ADMIN_PUBLIC]) {
        make_admin(dir)?;
    }
    if !all_exist(dir, &[TOKEN_KEY, TOKEN_CERTIFICATE]) {
        make_token_signer(dir)?;
    }
    Ok(())
}

fn make_tls(dir: &Path, options: &InitOptions) -> anyhow::Result<()> {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut ca = named("lab-kbs CA", Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut server = named("lab-kbs", options.hosts.clone())?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    server.not_after = days_from_now(options.tls_not_after_days)?.into();
    let certificate = server.signed_by(&key, &Issuer::from_params(&ca, &ca_key))?;

    write(dir, CA, &ca_certificate.pem(), PUBLIC)?;
    write(dir, TLS_CERTIFICATE, &certificate.pem(), PUBLIC)?;
    write(dir, TLS_KEY, &key.serialize_pem(), PRIVATE)
}

fn make_admin(dir: &Path) -> anyhow::Result<()> {
    let key = ed25519_dalek::SigningKey::generate(&mut rand_core::OsRng);
    // Without the public half: the first version of PKCS #8, which every tool reads.
    let bytes = KeypairBytes {
        secret_key: key.to_bytes(),
        public_key: None,
    };
    write(
        dir,
        ADMIN_KEY,
        &bytes.to_pkcs8_pem(LineEnding::LF)?,
        PRIVATE,
    )?;
    write(
        dir,
        ADMIN_PUBLIC,
        &key.verifying_key().to_public_key_pem(LineEnding::LF)?,
        PUBLIC,
    )
}

fn make_token_signer(dir: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut signer = named("lab-kbs token signer", Vec::new())?;
    signer.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = signer.self_signed(&key)?;
    write(dir, TOKEN_CERTIFICATE, &certificate.pem(), PUBLIC)?;
    write(dir, TOKEN_KEY, &key.serialize_pem(), PRIVATE)
}

fn named(name: &str, hosts: Vec<String>) -> anyhow::Result<CertificateParams> {
    let mut params =
        CertificateParams::new(hosts).context("a host is neither a name nor an address")?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn days_from_now(days: i64) -> anyhow::Result<SystemTime> {
    let distance = Duration::from_secs(days.unsigned_abs().saturating_mul(SECONDS_PER_DAY));
    let now = SystemTime::now();
    let time = if days < 0 {
        now.checked_sub(distance)
    } else {
        now.checked_add(distance)
    };
    time.filter(|_| days.unsigned_abs() <= THOUSAND_YEARS_IN_DAYS)
        .context("the certificate's lifetime is out of range")
}

/// The server's certificate and key for TLS.
pub(crate) fn tls(
    dir: &Path,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(&read(dir, TLS_CERTIFICATE)?)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| damaged(dir, TLS_CERTIFICATE, "PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(&read(dir, TLS_KEY)?)
        .with_context(|| damaged(dir, TLS_KEY, "a private key in PEM"))?;
    Ok((chain, key))
}

/// The CA that clients of this laboratory trust.
pub(crate) fn ca(dir: &Path) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(&read(dir, CA)?).with_context(|| damaged(dir, CA, "PEM"))
}

/// The token signer's key and the DER of its certificate.
pub(crate) fn token_signer(dir: &Path) -> anyhow::Result<(p256::ecdsa::SigningKey, Vec<u8>)> {
    let key = p256::ecdsa::SigningKey::from_pkcs8_pem(&read_text(dir, TOKEN_KEY)?)
        .with_context(|| damaged(dir, TOKEN_KEY, "an EC P-256 key"))?;
    let certificate = CertificateDer::from_pem_slice(&read(dir, TOKEN_CERTIFICATE)?)
        .with_context(|| damaged(dir, TOKEN_CERTIFICATE, "PEM"))?;
    Ok((key, certificate.to_vec()))
}

/// The administrator's private key.
pub(crate) fn admin(dir: &Path) -> anyhow::Result<ed25519_dalek::SigningKey> {
    ed25519_dalek::SigningKey::from_pkcs8_pem(&read_text(dir, ADMIN_KEY)?)
        .with_context(|| damaged(dir, ADMIN_KEY, "an Ed25519 key"))
}

/// The administrator's public key: all that the server needs.
pub(crate) fn admin_public(dir: &Path) -> anyhow::Result<ed25519_dalek::VerifyingKey> {
    ed25519_dalek::VerifyingKey::from_public_key_pem(&read_text(dir, ADMIN_PUBLIC)?)
        .with_context(|| damaged(dir, ADMIN_PUBLIC, "an Ed25519 key"))
}

fn all_exist(dir: &Path, names: &[&str]) -> bool {
    names.iter().all(|name| dir.join(name).exists())
}

fn read(dir: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let path = dir.join(name);
    std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {}; make it with `lab-kbs init`",
            path.display()
        )
    })
}

fn read_text(dir: &Path, name: &str) -> anyhow::Result<String> {
    String::from_utf8(read(dir, name)?).with_context(|| damaged(dir, name, "PEM"))
}

/// What to do about a file that is there and is not what it should be.
fn damaged(dir: &Path, name: &str, what: &str) -> String {
    let path = dir.join(name);
    let path = path.display();
    format!(
        "{path} is not {what}: remove it, and `lab-kbs init` makes it anew, with what belongs to it"
    )
}

fn write(dir: &Path, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
    let path = dir.join(name);
    // A file that exists would keep its old mode.
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

const CA: &str = "ca.pem";
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const ADMIN_KEY: &str = "admin.key";
const ADMIN_PUBLIC: &str = "admin.pub";
const TOKEN_KEY: &str = "token.key";
const TOKEN_CERTIFICATE: &str = "token.crt";
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const SECONDS_PER_DAY: u64 = 86_400;
const TEN_YEARS_IN_DAYS: i64 = 3650;
const THOUSAND_YEARS_IN_DAYS: u64 = 365_000;

#[cfg(test)]
mod tests {
    use super::{InitOptions, admin, admin_public, ca, init, tls, token_signer};
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn files(dir: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                let name = entry.file_name().into_string().unwrap();
                (name, (mode, std::fs::read(entry.path()).unwrap()))
            })
            .collect()
    }

    #[test]
    fn a_second_init_changes_nothing_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &InitOptions::default()).unwrap();
        let first = files(dir.path());
        assert_eq!(
            first.keys().collect::<Vec<_>>(),
            [
                "admin.key",
                "admin.pub",
                "ca.pem",
                "tls.crt",
                "tls.key",
                "token.crt",
                "token.key"
            ]
        );
        for (name, (mode, _)) in &first {
            assert_eq!(
                *mode,
                if name.ends_with(".key") { 0o600 } else { 0o644 },
                "{name}"
            );
        }
        init(dir.path(), &InitOptions::default()).unwrap();
        assert_eq!(files(dir.path()), first);
    }

    #[test]
    fn an_incomplete_group_is_made_again_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &InitOptions::default()).unwrap();
        let first = files(dir.path());
        std::fs::remove_file(dir.path().join("admin.pub")).unwrap();
        init(dir.path(), &InitOptions::default()).unwrap();
        let second = files(dir.path());
        assert_ne!(first["admin.key"], second["admin.key"]);
        assert_eq!(first["tls.crt"], second["tls.crt"]);
    }

    #[test]
    fn what_was_written_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &InitOptions::default()).unwrap();
        assert_eq!(
            admin(dir.path()).unwrap().verifying_key(),
            admin_public(dir.path()).unwrap()
        );
        assert_eq!(tls(dir.path()).unwrap().0.len(), 1);
        assert!(!ca(dir.path()).unwrap().is_empty());
        assert!(token_signer(dir.path()).is_ok());
    }

    #[test]
    fn wrong_wishes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let with = |hosts: &[&str], tls_not_after_days| InitOptions {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            tls_not_after_days,
        };
        assert!(init(dir.path(), &with(&["é"], 1)).is_err());
        assert!(init(dir.path(), &with(&[], i64::MAX)).is_err());
        assert!(
            tls(dir.path())
                .unwrap_err()
                .to_string()
                .contains("lab-kbs init")
        );
    }
}
