// SPDX-License-Identifier: Apache-2.0

//! Writes the seeds below `corpus/`.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::path::Path;

fn main() {
    for seed in sheepfold_fuzz::corpus::seeds() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(seed.target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(seed.name), seed.bytes).unwrap();
    }
}
