// SPDX-License-Identifier: Apache-2.0

//! A key source with a fixed key, and the fixed bytes that the vectors were made with. Test only.

use std::convert::Infallible;

use clevis_pin::{
    Binding, Cek, Config, Error, Fault, Fetched, SecretRequest, SecretSource, Server,
};

/// The text `key` of the test secret in the KBS: 32 ASCII characters, used as they are.
pub(crate) const TEST_KEY: &[u8; 32] = b"test-only-key-0123456789-abcdef!";

/// What every token among the vectors carries: 64 bytes like a share of an `sss` secret, NUL and non-UTF-8
/// bytes among them.
pub(crate) const TEST_PLAINTEXT: &[u8; 64] =
    b"test-only plaintext \x00 with NUL and \xff\xfe bytes, as long as a share.";

/// Answers the first requests with the last of [`FixedSource::next`], all others with [`FixedSource::key`], and keeps what it was asked.
pub(crate) struct FixedSource {
    pub(crate) key: [u8; 32],
    pub(crate) next: Vec<[u8; 32]>,
    pub(crate) path: String,
    pub(crate) asked: Vec<String>,
}

impl FixedSource {
    pub(crate) fn new() -> Self {
        Self {
            key: *TEST_KEY,
            next: Vec::new(),
            path: "default/00000000-0000-8000-8000-000000000001/root".into(),
            asked: Vec::new(),
        }
    }
}

impl SecretSource for FixedSource {
    type Error = Infallible;

    fn fetch(&mut self, request: &SecretRequest<'_>) -> Result<Fetched, Infallible> {
        self.asked.push(format!("{request:?}"));
        Ok(Fetched {
            cek: Cek::new(&self.next.pop().unwrap_or(self.key)),
            binding: Binding {
                servers: vec![Server {
                    url: "https://kbs.example:8080".into(),
                    cert: String::new(),
                }],
                path: self.path.clone(),
                init_data: request.init_data.map(str::to_owned),
                cfg: [0xcf; 32],
            },
        })
    }
}

pub(crate) fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

pub(crate) fn fault<T>(result: Result<T, Error<Infallible>>) -> Fault {
    match result.err().unwrap() {
        Error::Fault(fault) => fault,
    }
}
