// SPDX-License-Identifier: Apache-2.0
//! A real header in memory, to be changed.

use luks_header::{HEAD_SIZE, Refusal, Rules, Volume, examine};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The beginning of a device as cryptsetup formatted it.
#[derive(Clone)]
pub(crate) struct Head(pub(crate) Vec<u8>);

/// A file that cryptsetup has formatted, with these further arguments of `luksFormat`.
pub(crate) fn format(dir: &Path, args: &[&str]) -> PathBuf {
    let path = dir.join("volume");
    fs::File::create(&path).unwrap().set_len(20 << 20).unwrap();
    cryptsetup(&[
        "luksFormat",
        "--type",
        "luks2",
        "--batch-mode",
        "--key-file",
        "-",
    ])
    .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
    .args(args)
    .arg(&path)
    .stdin("first")
    .success()
    .unwrap();
    path
}

pub(crate) fn cryptsetup(args: &[&str]) -> Run {
    let program = paths::tool("cryptsetup").unwrap();
    Run::new(program).args(args)
}

/// As `clevis luks bind` does it: a token for slot 0.
pub(crate) fn import_token(path: &Path, token: &Value) {
    cryptsetup(&["token", "import", "--json-file", "-"])
        .arg(path)
        .stdin(token.to_string())
        .success()
        .unwrap();
}

/// A token for this slot, with a JWE that nobody opens here.
pub(crate) fn token(keyslot: u32) -> Value {
    json!({"type": "clevis", "keyslots": [keyslot.to_string()],
           "jwe": {"protected": "a", "encrypted_key": "", "iv": "b", "ciphertext": "c", "tag": "d"}})
}

/// A bound volume of the usual kind. Formatted once.
pub(crate) fn bound() -> Head {
    static BOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let made = BOUND.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = format(dir.path(), &["--label", "root-of-a-node"]);
        import_token(&path, &token(0));
        Head::of(&path).0
    });
    Head(made.clone())
}

impl Head {
    pub(crate) fn of(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let most = u64::try_from(HEAD_SIZE).unwrap();
        fs::File::open(path)
            .unwrap()
            .take(most)
            .read_to_end(&mut bytes)
            .unwrap();
        Self(bytes)
    }

    pub(crate) fn size(&self) -> usize {
        u64::from_be_bytes(self.0[8..16].try_into().unwrap())
            .try_into()
            .unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        let area = &self.0[4096..self.size()];
        let end = area.iter().position(|&byte| byte == 0).unwrap();
        serde_json::from_slice(&area[..end]).unwrap()
    }

    /// With another text as metadata, in both copies.
    pub(crate) fn with_text(mut self, text: &str) -> Self {
        for copy in [0, 1] {
            self.set_text(copy, text);
        }
        self
    }

    /// With another text in one copy, and the checksum that fits.
    pub(crate) fn set_text(&mut self, copy: usize, text: &str) {
        let size = self.size();
        let area = &mut self.0[copy * size + 4096..(copy + 1) * size];
        area.fill(0);
        area[..text.len()].copy_from_slice(text.as_bytes());
        self.sum(copy);
    }

    /// Makes the checksum of a copy good.
    pub(crate) fn sum(&mut self, copy: usize) {
        let size = self.size();
        let whole = &mut self.0[copy * size..(copy + 1) * size];
        whole[448..512].fill(0);
        let sum = Sha256::digest(&*whole);
        whole[448..480].copy_from_slice(&sum);
    }

    /// With this change of the metadata.
    pub(crate) fn with(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut json = self.json();
        change(&mut json);
        self.with_text(&json.to_string())
    }

    pub(crate) fn examine(&self, rules: &Rules) -> Result<Volume, Refusal> {
        examine(&self.0, rules)
    }

    /// What the rules that everybody starts with say.
    pub(crate) fn refusal(&self) -> String {
        match self.examine(&Rules::default()) {
            Ok(_) => panic!("accepted"),
            Err(refusal) => refusal.to_string(),
        }
    }
}
