// SPDX-License-Identifier: Apache-2.0

//! The desk before a software TPM: many programs come over TCP, one command at a time goes through.
//!
//! It speaks the two channels of the `swtpm` TCTI: commands on a port, control on the next one. The
//! harness's own few commands are spelled out as bytes, so that they do not share a library, and its
//! mistakes, with the programs under test.

use std::fmt;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::swtpm::wire::{TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS, name, read_message, tagged, word};

/// Sees each response before the program that asked does.
pub type Hook = Box<dyn FnMut(&mut Exchange, &str, &mut Vec<u8>) + Send>;

/// Two listening ports and the line to the TPM behind them.
#[derive(Debug)]
pub(super) struct Front {
    port: u16,
    exchange: Arc<Mutex<Exchange>>,
    closing: Arc<AtomicBool>,
}

impl Front {
    /// Listens before the TPM at the other end of `line`.
    pub(super) fn start(line: UnixStream) -> Result<Self> {
        let (port, data, control) = two_ports()?;
        let exchange = Arc::new(Mutex::new(Exchange {
            line,
            commands: Vec::new(),
            counting: true,
            hook: None,
        }));
        let closing = Arc::new(AtomicBool::new(false));
        let desk = Arc::clone(&exchange);
        serve(data, &closing, move |client| serve_commands(client, &desk));
        serve(control, &closing, serve_control);
        Ok(Self {
            port,
            exchange,
            closing,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The line to the TPM, while nobody else uses it.
    pub(super) fn exchange(&self) -> MutexGuard<'_, Exchange> {
        lock(&self.exchange)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        for port in [self.port, self.port + 1] {
            // Wakes the listener, which then sees that it is over.
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
        }
    }
}

/// The line to the TPM: forwards, counts, and sends the harness's own commands.
pub struct Exchange {
    line: UnixStream,
    commands: Vec<u32>,
    counting: bool,
    hook: Option<Hook>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// Sends one command that is not counted and returns the response, whatever its code.
    ///
    /// # Errors
    /// The TPM is gone.
    pub fn send(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        self.line.write_all(command)?;
        read_message(&mut self.line)?.context("the software TPM hung up")
    }

    /// TPM2_PCR_Extend of a SHA-256 PCR.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn extend(&mut self, pcr: u8, digest: &[u8; 32]) -> Result<()> {
        // TPML_DIGEST_VALUES: one, of TPM_ALG_SHA256.
        let one_sha256 = [0, 0, 0, 1, 0, 0x0b];
        let body = [&[0, 0, 0, pcr][..], &EMPTY_PASSWORD, &one_sha256, digest].concat();
        self.succeed(TPM_ST_SESSIONS, 0x182, &body).map(drop)
    }

    /// TPM2_PCR_Read of all 24 SHA-256 PCRs.
    ///
    /// # Errors
    /// The TPM refuses, or leaves some out.
    pub fn read_pcrs(&mut self) -> Result<Vec<[u8; 32]>> {
        let mut values = Vec::new();
        for bitmap in [[0xff, 0, 0], [0, 0xff, 0], [0, 0, 0xff]] {
            let selection = [&[0, 0, 0, 1, 0, 0x0b, 3][..], &bitmap].concat();
            let response = self.succeed(TPM_ST_NO_SESSIONS, 0x17e, &selection)?;
            // Header 10, update counter 4, the selection 10, count 4; then eight times size 2, value 32.
            let digests = response.get(28..).unwrap_or_default();
            values.extend(
                digests
                    .chunks_exact(34)
                    .filter_map(|d| <[u8; 32]>::try_from(d.get(2..)?).ok()),
            );
        }
        if values.len() != 24 {
            bail!("the software TPM shows {} SHA-256 PCRs", values.len());
        }
        Ok(values)
    }

    /// TPM2_EvictControl by the owner: keeps the transient key `transient` at `persistent`.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn evict_control(&mut self, transient: [u8; 4], persistent: u32) -> Result<()> {
        let body = [
            &OWNER[..],
            &transient,
            &EMPTY_PASSWORD,
            &persistent.to_be_bytes(),
        ]
        .concat();
        self.succeed(TPM_ST_SESSIONS, 0x120, &body).map(drop)
    }

    /// TPM2_NV_Read by the owner, up to 512 bytes.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn nv_read(&mut self, index: u32, size: u16) -> Result<Vec<u8>> {
        let body = [&nv(index)[..], &size.to_be_bytes(), &[0, 0]].concat();
        let response = self.succeed(TPM_ST_SESSIONS, 0x14e, &body)?;
        // Header 10, size of the parameters 4, size of the buffer 2.
        let content = response.get(16..).unwrap_or_default();
        Ok(content
            .get(..size.into())
            .context("a short index")?
            .to_vec())
    }

    /// TPM2_NV_Write by the owner, from the beginning.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn nv_write(&mut self, index: u32, content: &[u8]) -> Result<()> {
        for (number, piece) in content.chunks(512).enumerate() {
            let length = u16::try_from(piece.len())?.to_be_bytes();
            let offset = u16::try_from(number * 512)?.to_be_bytes();
            let body = [&nv(index)[..], &length, piece, &offset].concat();
            self.succeed(TPM_ST_SESSIONS, 0x137, &body)?;
        }
        Ok(())
    }

    /// TPM2_Shutdown(CLEAR).
    pub(super) fn shutdown(&mut self) -> Result<()> {
        self.succeed(TPM_ST_NO_SESSIONS, 0x145, &[0, 0]).map(drop)
    }

    /// TPM2_FlushContext of the three transient handles that `swtpm` has; absent ones do not matter.
    pub(super) fn flush_transient(&mut self) -> Result<()> {
        for handle in [[0x80, 0, 0, 0], [0x80, 0, 0, 1], [0x80, 0, 0, 2]] {
            self.send(&tagged(TPM_ST_NO_SESSIONS, 0x165, &handle))?;
        }
        Ok(())
    }

    pub(super) fn set_hook(&mut self, hook: Hook) {
        self.hook = Some(hook);
    }

    pub(super) fn take_commands(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands)
            .into_iter()
            .map(name)
            .collect()
    }

    pub(super) fn count(&mut self, counting: bool) {
        self.counting = counting;
    }

    /// After a power cut: the next command goes to the TPM at the other end of `line`.
    pub(super) fn reconnect(&mut self, line: UnixStream) {
        self.line = line;
    }

    /// A program's command: counted, forwarded, shown to the hook.
    fn forward(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        let code = word(command, 6).context("a command without a code")?;
        if self.counting {
            self.commands.push(code);
        }
        let mut response = self.send(command)?;
        if let Some(mut hook) = self.hook.take() {
            hook(self, &name(code), &mut response);
            self.hook = Some(hook);
        }
        Ok(response)
    }

    /// Sends one command, which must succeed.
    fn succeed(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>> {
        let response = self.send(&tagged(tag, code, body))?;
        match word(&response, 6) {
            Some(0) => Ok(response),
            rc => bail!("the software TPM refused {}: {rc:#x?}", name(code)),
        }
    }
}

/// Connects as soon as somebody listens.
pub(super) fn connect(socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + COMES_UP_WITHIN;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("no TPM at {}", socket.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn serve(
    listener: TcpListener,
    closing: &Arc<AtomicBool>,
    client: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
) {
    let closing = Arc::clone(closing);
    thread::spawn(move || {
        for stream in listener.incoming() {
            if closing.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let client = client.clone();
            // A failure here is a program that hung up or a TPM without power; both notice themselves.
            thread::spawn(move || drop(client(stream)));
        }
    });
}

fn serve_commands(mut client: TcpStream, exchange: &Mutex<Exchange>) -> Result<()> {
    client.set_nodelay(true)?;
    while let Some(command) = read_message(&mut client)? {
        let response = lock(exchange).forward(&command)?;
        client.write_all(&response)?;
    }
    Ok(())
}

/// The TCTI asks for a locality before each session, and all our programs ask for locality 0, which is
/// where a TPM starts. Not passed on: `swtpm` serves one control connection until it closes, and one that
/// a child process inherited closes late.
fn serve_control(mut client: TcpStream) -> Result<()> {
    let mut request = [0; 5];
    loop {
        match client.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        if request != SET_LOCALITY_0 {
            bail!("an unexpected control request {request:02x?}");
        }
        client.write_all(&[0; 4])?;
    }
}

/// A free loopback port whose successor is free too, as the TCTI takes them.
fn two_ports() -> Result<(u16, TcpListener, TcpListener)> {
    for _ in 0..100 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = first.local_addr()?.port();
        let next = port
            .checked_add(1)
            .map(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next)));
        if let Some(Ok(second)) = next {
            return Ok((port, first, second));
        }
    }
    bail!("no two neighbouring ports are free")
}

fn lock(exchange: &Mutex<Exchange>) -> MutexGuard<'_, Exchange> {
    exchange.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The owner, an NV index, and the owner's password.
fn nv(index: u32) -> Vec<u8> {
    [&OWNER[..], &index.to_be_bytes(), &EMPTY_PASSWORD].concat()
}

/// TPM_RH_OWNER.
const OWNER: [u8; 4] = [0x40, 0, 0, 1];
/// One authorization of nine bytes: TPM_RS_PW, no nonce, no attributes, empty password.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// CMD_SET_LOCALITY and the locality, of swtpm's control channel.
const SET_LOCALITY_0: [u8; 5] = [0, 0, 0, 5, 0];
const COMES_UP_WITHIN: Duration = Duration::from_secs(10);
