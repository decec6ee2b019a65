// SPDX-License-Identifier: Apache-2.0

//! Writes a `kbs-config.toml` that [`inspect`](super::inspect) finds nothing wrong with. The three releases
//! disagree about names, ignore some unknown ones and refuse others, so each gets its own text.

use super::NAME;
use std::fmt;

/// The release that will read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.20.
    V0_20,
    /// 0.21.
    V0_21,
    /// The branch after 0.21.
    Main,
}

/// What differs from one KBS to another. Paths are the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KbsConfig {
    /// Address and port.
    pub listen: String,
    /// The private key of its TLS certificate.
    pub tls_key: String,
    /// Its TLS certificate.
    pub tls_certificate: String,
    /// Our public key, Ed25519, PEM.
    pub admin_public_key: String,
    /// The private key of its token signer, EC P-256, PEM.
    pub token_key: String,
    /// The certificate chain of its token signer.
    pub token_chain: String,
    /// The authority that the chain leads to; for a self-signed signer the same file.
    pub token_authority: String,
    /// Where it keeps policies, reference values, sessions and, in clear text, secrets.
    pub storage: Storage,
}

/// A storage that replaces what it has stored, in every supported release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A directory; for one replica.
    LocalFs {
        /// Its path.
        dir: String,
    },
    /// A database; for several replicas. User and password come from `POSTGRES_URL` in the environment of
    /// the KBS, not from this file.
    Postgres,
    /// A database; for several replicas. Its address comes from `REDIS_URL` in the environment of the KBS, which
    /// releases up to 0.21 do not read (KBS protocol, other configuration keys).
    Redis,
}

impl Default for KbsConfig {
    fn default() -> Self {
        let at = |name: &str| format!("/etc/kbs/{name}");
        Self {
            listen: "0.0.0.0:8080".to_owned(),
            tls_key: at("tls/tls.key"),
            tls_certificate: at("tls/tls.crt"),
            admin_public_key: at("admin/public.pem"),
            token_key: at("token/token.key"),
            token_chain: at("token/token.crt"),
            token_authority: at("token/token.crt"),
            storage: Storage::LocalFs {
                dir: "/var/lib/kbs".to_owned(),
            },
        }
    }
}

/// The text of the file.
pub fn kbs_config(version: Version, config: &KbsConfig) -> String {
    let mut file = File(String::new());
    file.comment(&format!(
        "Written by {NAME} for Trustee {version}. Restart the KBS after a change."
    ));
    file.table("http_server");
    file.list("sockets", &config.listen);
    file.text("private_key", &config.tls_key);
    file.text("certificate", &config.tls_certificate);
    administration(&mut file, version, config);

    // Without this, a token signed by anybody is a token: never set insecure_key or insecure_header_jwk.
    file.table("attestation_token");
    file.list("trusted_certs_paths", &config.token_authority);

    file.table("attestation_service");
    file.text("type", "coco_as_builtin");
    file.line("timeout = 5");
    file.table("attestation_service.attestation_token_broker");
    file.line("duration_min = 5");
    file.table("attestation_service.attestation_token_broker.signer");
    file.text("key_path", &config.token_key);
    file.text("cert_path", &config.token_chain);
    file.table("attestation_service.rvps_config");
    file.text("type", "BuiltIn");

    file.table("storage_backend");
    match &config.storage {
        Storage::LocalFs { dir } => {
            file.text("storage_type", "LocalFs");
            file.table("storage_backend.backends.local_fs");
            file.text("dir_path", dir);
        }
        Storage::Postgres => file.text("storage_type", "Postgres"),
        Storage::Redis => file.text("storage_type", "Redis"),
    }
    file.line("");
    file.line("[[plugins]]");
    file.text("name", "resource");
    file.text("storage_backend_type", "kvstorage");
    file.0
}

fn administration(file: &mut File, version: Version, config: &KbsConfig) {
    file.table("admin");
    if version == Version::V0_20 {
        file.text("type", "Simple");
        file.line("");
        file.line("[[admin.personas]]");
        file.text("id", NAME);
        file.text("public_key_path", &config.admin_public_key);
        file.line("");
        file.line("[[admin.roles]]");
        file.text("id", NAME);
        file.text("allowed_endpoints", ENDPOINTS);
        return;
    }
    file.text("authorization_mode", "AuthenticatedAuthorization");
    // No audience: our tokens name none, because 0.20 refuses those that do.
    file.table("admin.authentication.bearer_jwt");
    let provider = format!(
        "issuer = {}, public_key_uri = {}",
        quote(NAME),
        quote(&config.admin_public_key)
    );
    file.line(&format!("identity_providers = [{{ {provider} }}]"));
    file.table("admin.authorization.regex_acl");
    let acl = format!(
        "role = {}, allowed_endpoints = {}",
        quote(NAME),
        quote(ENDPOINTS)
    );
    file.line(&format!("acls = [{{ {acl} }}]"));
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_20 => "0.20",
            Self::V0_21 => "0.21",
            Self::Main => "after 0.21",
        })
    }
}

/// TOML in the order in which it is written.
struct File(String);

impl File {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.line(&format!("# {text}"));
    }

    fn table(&mut self, name: &str) {
        self.line("");
        self.line(&format!("[{name}]"));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {}", quote(value)));
    }

    fn list(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = [{}]", quote(value)));
    }
}

/// A TOML basic string. JSON escapes the same characters in the same way, but for DEL.
fn quote(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

/// Everything that [`AdminClient`](super::AdminClient) asks for. Both releases want these anchors.
const ENDPOINTS: &str =
    "^/kbs/v0/(resource/.+|reference-value|reference-value/.+|resource-policy|attestation-policy)$";

#[cfg(test)]
mod tests {
    use super::{KbsConfig, NAME, Storage, Version, kbs_config};
    use toml::{Table, Value};

    const ALL: [Version; 3] = [Version::V0_20, Version::V0_21, Version::Main];

    fn parsed(version: Version, config: &KbsConfig) -> Table {
        kbs_config(version, config).parse().unwrap()
    }

    fn at<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
        let mut names = path.split('.');
        let first = table.get(names.next()?);
        names.try_fold(first?, |value, name| match name.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(name),
        })
    }

    fn text(table: &Table, path: &str) -> String {
        at(table, path)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("{path}"))
            .to_owned()
    }

    #[test]
    fn tokens_of_strangers_are_not_believed() {
        for version in ALL {
            let written = kbs_config(version, &KbsConfig::default());
            assert!(!written.contains("insecure"), "{written}");
            let table = parsed(version, &KbsConfig::default());
            assert_eq!(
                text(&table, "attestation_token.trusted_certs_paths.0"),
                "/etc/kbs/token/token.crt"
            );
            let signer = "attestation_service.attestation_token_broker.signer";
            assert_eq!(
                text(&table, &format!("{signer}.key_path")),
                "/etc/kbs/token/token.key"
            );
            assert_eq!(
                text(&table, &format!("{signer}.cert_path")),
                "/etc/kbs/token/token.crt"
            );
        }
    }

    #[test]
    fn each_release_gets_its_own_administration_and_nothing_of_the_other() {
        let old = parsed(Version::V0_20, &KbsConfig::default());
        assert_eq!(text(&old, "admin.type"), "Simple");
        assert_eq!(
            text(&old, "admin.personas.0.id"),
            text(&old, "admin.roles.0.id")
        );
        assert_eq!(
            text(&old, "admin.personas.0.public_key_path"),
            "/etc/kbs/admin/public.pem"
        );
        for foreign in ["authorization_mode", "authentication", "authorization"] {
            assert!(at(&old, &format!("admin.{foreign}")).is_none(), "{foreign}");
        }
        for version in [Version::V0_21, Version::Main] {
            let new = parsed(version, &KbsConfig::default());
            assert_eq!(
                text(&new, "admin.authorization_mode"),
                "AuthenticatedAuthorization"
            );
            let provider = "admin.authentication.bearer_jwt.identity_providers.0";
            assert_eq!(text(&new, &format!("{provider}.issuer")), NAME);
            assert_eq!(
                text(&new, &format!("{provider}.public_key_uri")),
                "/etc/kbs/admin/public.pem"
            );
            assert!(
                at(&new, &format!("{provider}.audience")).is_none(),
                "our tokens have no aud"
            );
            assert_eq!(
                text(&new, "admin.authorization.regex_acl.acls.0.role"),
                NAME
            );
            for foreign in ["type", "personas", "roles"] {
                assert!(at(&new, &format!("admin.{foreign}")).is_none(), "{foreign}");
            }
        }
    }

    #[test]
    fn storage_replaces_and_plugins_have_the_name_of_today() {
        for version in ALL {
            let table = parsed(version, &KbsConfig::default());
            assert_eq!(text(&table, "storage_backend.storage_type"), "LocalFs");
            assert_eq!(
                text(&table, "storage_backend.backends.local_fs.dir_path"),
                "/var/lib/kbs"
            );
            assert_eq!(text(&table, "plugins.0.name"), "resource");
            assert_eq!(text(&table, "plugins.0.storage_backend_type"), "kvstorage");
            assert!(at(&table, "plugins.0.type").is_none());
            for (storage, name) in [(Storage::Postgres, "Postgres"), (Storage::Redis, "Redis")] {
                let config = KbsConfig {
                    storage,
                    ..KbsConfig::default()
                };
                let table = parsed(version, &config);
                assert_eq!(text(&table, "storage_backend.storage_type"), name);
                assert!(at(&table, "storage_backend.backends").is_none());
            }
        }
    }

    #[test]
    fn the_access_list_lets_in_what_we_ask_for_and_no_more() {
        for (version, path) in [
            (Version::V0_20, "admin.roles.0.allowed_endpoints"),
            (
                Version::V0_21,
                "admin.authorization.regex_acl.acls.0.allowed_endpoints",
            ),
        ] {
            let pattern = text(&parsed(version, &KbsConfig::default()), path);
            assert!(
                pattern.starts_with("^/kbs") && pattern.ends_with('$'),
                "{pattern}"
            );
            let allowed = |url: &str| {
                let rego = format!("package policy\nallow := regex.match(`{pattern}`, \"{url}\")");
                let policy = crate::policy::engine::ResourcePolicy::compile(&rego).unwrap();
                policy.allows(&serde_json::json!({}), "", &[]).unwrap()
            };
            for good in [
                "resource/default/n/root",
                "reference-value",
                "reference-value/boot_tuples",
                "resource-policy",
                "attestation-policy",
            ] {
                assert!(allowed(&format!("/kbs/v0/{good}")), "{good}");
            }
            for bad in [
                "resource",
                "provisioner/provision",
                "resource-policy/x",
                "auth",
            ] {
                assert!(!allowed(&format!("/kbs/v0/{bad}")), "{bad}");
            }
        }
    }

    #[test]
    fn odd_paths_stay_in_their_strings() {
        let odd = "/a \"b\"\n[admin]\ntype = \u{7f}\\é";
        let config = KbsConfig {
            admin_public_key: odd.to_owned(),
            ..KbsConfig::default()
        };
        for version in ALL {
            let table = parsed(version, &config);
            let path = match version {
                Version::V0_20 => "admin.personas.0.public_key_path",
                _ => "admin.authentication.bearer_jwt.identity_providers.0.public_key_uri",
            };
            assert_eq!(text(&table, path), odd);
        }
    }
}
