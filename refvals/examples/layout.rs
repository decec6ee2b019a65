// SPDX-License-Identifier: Apache-2.0

//! Makes an OCI image layout to measure scanners with: `layout DIR MIB`. A bootable system in eight layers, half of them
//! compressed with gzip and half with zstd, MIB mebibytes as it lies on the disk. Files are as many, as large and as
//! compressible as those of a system: programs, texts, and what is compressed already. The same layout each time.
//!
//! `make bench` calls it. A layout that is there already is left alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stdout,
    reason = "a tool for the benchmark: a panic is the report"
)]
#![allow(dead_code, unreachable_pub, reason = "a part of what tests share")]

#[path = "../../measured-boot/tests/common/pe_file.rs"]
mod pe_file;

use pe_file::PeFile;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::rc::Rc;
use tar::{Builder, EntryType, Header};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, mebibytes] = arguments.as_slice() else {
        eprintln!("Usage: layout DIR MIB");
        std::process::exit(2);
    };
    let size = mebibytes.parse::<u64>().expect("MIB is a number") * MEBIBYTE;
    let directory = Path::new(directory);
    if directory.join("oci-layout").is_file() {
        return;
    }
    let mut image = Image::in_directory(directory);
    let mut random = Random(0x5eed_0000_0000_0001);
    let pools = Pools::new(&mut random);
    for number in 0..LAYERS {
        image.layer(number, size / LAYERS, &pools, &mut random);
    }
    image.finish();
    println!(
        "layout: {mebibytes} MiB in {LAYERS} layers, {} files, {} MiB unpacked",
        image.files,
        image.unpacked / MEBIBYTE
    );
}

/// What has been written so far.
struct Image<'a> {
    directory: &'a Path,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
    files: u64,
    unpacked: u64,
}

impl<'a> Image<'a> {
    fn in_directory(directory: &'a Path) -> Self {
        let _ = std::fs::remove_dir_all(directory);
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        Self {
            directory,
            layers: Vec::new(),
            diff_ids: Vec::new(),
            files: 0,
            unpacked: 0,
        }
    }

    /// One layer: what boots is in the first and in the last one, as after an update of the kernel.
    fn layer(&mut self, number: u64, size: u64, pools: &Pools, random: &mut Random) {
        let part = self.directory.join("part");
        let blob = Hashed::new(BufWriter::new(File::create(&part).unwrap()));
        let written = blob.count.clone();
        let is_gzip = number.is_multiple_of(2);
        let compressed: Compressed = match is_gzip {
            true => Compressed::Gzip(flate2::write::GzEncoder::new(
                blob,
                flate2::Compression::new(6),
            )),
            false => Compressed::Zstd(zstd::stream::write::Encoder::new(blob, 3).unwrap()),
        };
        let mut archive = Builder::new(Hashed::new(compressed));
        match number {
            0 => {
                file(&mut archive, "usr/lib/os-release", OS_RELEASE);
                for (path, content) in boot_loaders(random) {
                    file(&mut archive, &path, &content);
                }
                file(
                    &mut archive,
                    "usr/lib/modules/6.1.0/vmlinuz",
                    &kernel(random),
                );
            }
            LAST => {
                file(&mut archive, "usr/lib/modules/.wh.6.1.0", b"");
                file(
                    &mut archive,
                    "usr/lib/modules/6.2.0/vmlinuz",
                    &kernel(random),
                );
            }
            _ => {}
        }
        let mut in_directory = 0;
        while written.get() + COMPRESSORS_KEEP < size {
            let content = pools.content(random);
            let path = format!(
                "usr/share/layer{number}/{}/{in_directory}",
                in_directory / 64
            );
            file(&mut archive, &path, content);
            self.files += 1;
            if in_directory % 16 == 0 {
                let target = in_directory.to_string();
                link(&mut archive, &format!("{path}.so"), &target);
            }
            in_directory += 1;
        }
        let (compressed, diff_id, unpacked) = archive.into_inner().unwrap().finish();
        let (mut file, digest, size) = compressed.finish().finish();
        file.flush().unwrap();
        std::fs::rename(&part, self.blob(&digest)).unwrap();
        let kind = if is_gzip { "gzip" } else { "zstd" };
        self.layers.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar+{kind}"),
            "digest": digest,
            "size": size,
        }));
        self.diff_ids.push(diff_id);
        self.unpacked += unpacked;
    }

    fn finish(&self) {
        let config = self.put(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            }),
        );
        let manifest = self.put(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": self.layers,
            }),
        );
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        std::fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
        // Last: from now on the layout is whole.
        let version = json!({"imageLayoutVersion": "1.0.0"});
        std::fs::write(self.directory.join("oci-layout"), version.to_string()).unwrap();
    }

    fn put(&self, kind: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = format!("sha256:{:x}", Sha256::digest(&bytes));
        std::fs::write(self.blob(&digest), &bytes).unwrap();
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }

    fn blob(&self, digest: &str) -> std::path::PathBuf {
        self.directory.join("blobs").join(digest.replace(':', "/"))
    }
}

// ---- What is in the files.

/// shim and GRUB, where bootupd keeps them.
fn boot_loaders(random: &mut Random) -> [(String, Vec<u8>); 4] {
    let vendor: Vec<u8> = [3_u32, 0, 16, 19]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .chain(*b"abc")
        .collect();
    let shim = PeFile::new(vec![
        (".text", random.bytes(MEBIBYTE)),
        (".vendor_cert", vendor),
        (".data.ident", b"UEFI SHIM\n$Version: 16.1 $\n".to_vec()),
    ]);
    let shim = shim.build().0;
    let grub = PeFile::new(vec![
        (".text", random.bytes(3 * MEBIBYTE)),
        (".sbat", b"sbat,1,x\ngrub,5,FSF,grub,2.12,url\n".to_vec()),
    ]);
    let at = |name: &str| format!("usr/lib/bootupd/updates/EFI/{name}");
    [
        (at("BOOT/BOOTX64.EFI"), shim.clone()),
        (at("bench/shimx64.efi"), shim),
        (at("bench/grubx64.efi"), grub.build().0),
        (at("bench/grub.cfg"), b"configfile $prefix/x\n".to_vec()),
    ]
}

/// As large as those of distributions, and compressed in itself as they are.
fn kernel(random: &mut Random) -> Vec<u8> {
    let sections = vec![(".text", random.bytes(15 * MEBIBYTE))];
    PeFile::new(sections).build().0
}

/// Material for files, of three kinds.
struct Pools {
    texts: Vec<u8>,
    programs: Vec<u8>,
    compressed: Vec<u8>,
}

impl Pools {
    fn new(random: &mut Random) -> Self {
        Self {
            texts: texts(random),
            programs: programs(random),
            compressed: random.bytes(POOL),
        }
    }

    /// A file: three of five are small, one in twenty is large.
    fn content(&self, random: &mut Random) -> &[u8] {
        let size = match random.below(20) {
            0..12 => 256 + random.below(16 * 1024),
            12..19 => 16 * 1024 + random.below(256 * 1024),
            _ => 256 * 1024 + random.below(8 * MEBIBYTE),
        };
        let pool = match random.below(10) {
            0..4 => &self.texts,
            4..8 => &self.programs,
            _ => &self.compressed,
        };
        let start = random.below(POOL - size) as usize;
        &pool[start..start + size as usize]
    }
}

/// Words in no order: a third of their size with gzip.
fn texts(random: &mut Random) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let length = 2 + random.below(9);
            (0..length).map(|_| b'a' + random.below(26) as u8).collect()
        })
        .collect();
    let mut pool = Vec::with_capacity(POOL as usize + 16);
    while (pool.len() as u64) < POOL {
        // Frequent words are frequent.
        let most = 1 + random.below(words.len() as u64);
        pool.extend(&words[random.below(most) as usize]);
        pool.push(if random.below(12) == 0 { b'\n' } else { b' ' });
    }
    pool.truncate(POOL as usize);
    pool
}

/// Instructions: short pieces that come again with other operands, about half of their size with gzip.
fn programs(random: &mut Random) -> Vec<u8> {
    let pieces: Vec<Vec<u8>> = (0..2048)
        .map(|_| {
            let length = 3 + random.below(9);
            random.bytes(length)
        })
        .collect();
    let mut pool = Vec::with_capacity(POOL as usize + 16);
    while (pool.len() as u64) < POOL {
        pool.extend(&pieces[random.below(pieces.len() as u64) as usize]);
        let operand = random.below(4);
        pool.extend(random.bytes(operand));
    }
    pool.truncate(POOL as usize);
    pool
}

/// xorshift64* (Vigna, 2016): the same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count as usize + 8);
        while (bytes.len() as u64) < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count as usize);
        bytes
    }
}

// ---- How it is written.

fn file(archive: &mut Builder<impl Write>, path: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).unwrap();
}

fn link(archive: &mut Builder<impl Write>, path: &str, target: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    archive.append_link(&mut header, path, target).unwrap();
}

type Blob = Hashed<BufWriter<File>>;

enum Compressed {
    Gzip(flate2::write::GzEncoder<Blob>),
    Zstd(zstd::stream::write::Encoder<'static, Blob>),
}

impl Compressed {
    fn finish(self) -> Blob {
        match self {
            Self::Gzip(encoder) => encoder.finish().unwrap(),
            Self::Zstd(encoder) => encoder.finish().unwrap(),
        }
    }
}

impl Write for Compressed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Hashes and counts what passes.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    count: Rc<Cell<u64>>,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            count: Rc::default(),
        }
    }

    fn finish(self) -> (W, String, u64) {
        let digest = format!("sha256:{:x}", self.hasher.finalize());
        (self.inner, digest, self.count.get())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hasher.update(bytes);
        self.count.set(self.count.get() + bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

const MEBIBYTE: u64 = 1024 * 1024;
const LAYERS: u64 = 8;
const LAST: u64 = LAYERS - 1;
const POOL: u64 = 32 * MEBIBYTE;
/// Bytes that the compressors have taken in and not given out yet, roughly.
const COMPRESSORS_KEEP: u64 = 256 * 1024;
const OS_RELEASE: &[u8] = b"NAME=Bench\nID=bench\nVERSION_ID=1\n";
