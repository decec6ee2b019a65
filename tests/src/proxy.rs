// SPDX-License-Identifier: Apache-2.0
//! A TCP proxy in front of a server: it counts connections, makes the network as far away as a test asks,
//! breaks it on demand, and keeps what passed by. It stands where a kernel's traffic control would, which
//! needs root and is missing on many machines.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::sockopt;

/// What a proxy does to its connections. Every member may change while it runs.
#[derive(Debug, Default)]
struct Knobs {
    one_way_micros: AtomicU64,
    connections: AtomicU64,
    /// Resets a connection once this many bytes came from the server; zero is never.
    reset_after: AtomicU64,
    /// Takes connections and bytes, passes nothing on.
    stalled: AtomicBool,
    stopped: AtomicBool,
    seen: Mutex<Vec<u8>>,
}

/// A running proxy; it stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    knobs: Arc<Knobs>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes everything on to `upstream`.
    ///
    /// # Errors
    /// No port can be opened.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot open a proxy port")?;
        let address = listener.local_addr()?;
        let knobs = Arc::new(Knobs::default());
        let shared = Arc::clone(&knobs);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                thread::spawn(move || drop(relay(client, upstream, &shared)));
            }
        });
        Ok(Self { address, knobs })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far.
    pub fn connections(&self) -> u64 {
        self.knobs.connections.load(Ordering::SeqCst)
    }

    /// Makes a round trip take `rtt` from now on, opening a connection included.
    pub fn set_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros() / 2).unwrap_or(u64::MAX);
        self.knobs.one_way_micros.store(micros, Ordering::SeqCst);
    }

    /// Resets each connection once `bytes` came back from the server on it. Zero ends this.
    pub fn reset_after(&self, bytes: u64) {
        self.knobs.reset_after.store(bytes, Ordering::SeqCst);
    }

    /// From now on takes everything and answers nothing, as a dead host behind a live router.
    pub fn stall(&self) {
        self.knobs.stalled.store(true, Ordering::SeqCst);
    }

    /// Every byte that passed so far, in both directions: what an eavesdropper has.
    pub fn seen(&self) -> Vec<u8> {
        self.knobs
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.knobs.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it should end.
        drop(TcpStream::connect(self.address));
    }
}

/// Serves one client until either side is done.
fn relay(client: TcpStream, upstream: SocketAddr, knobs: &Arc<Knobs>) -> Result<()> {
    let server = Arc::new(TcpStream::connect(upstream).context("the server is not there")?);
    let client = Arc::new(client);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // The kernel answered the client's SYN at once. That round trip is made up for here: to the network
    // behind the proxy, the client is connected, and speaks, one later.
    let open_from = Instant::now() + one_way(knobs) * 2;
    let up = pump(&client, &server, open_from, knobs, Direction::ToServer);
    let down = pump(&server, &client, open_from, knobs, Direction::ToClient);
    for thread in up.into_iter().chain(down) {
        drop(thread.join());
    }
    // Whoever asked for a reset set the socket to close hard: the last owner goes here.
    Ok(())
}

/// Copies one direction in two threads: one notes when each piece arrived, one lets it go when it is due.
/// So a delay moves pieces in time without throttling the stream.
fn pump(
    from: &Arc<TcpStream>,
    to: &Arc<TcpStream>,
    open_from: Instant,
    knobs: &Arc<Knobs>,
    direction: Direction,
) -> [thread::JoinHandle<()>; 2] {
    let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
    let (source, sink, shared) = (Arc::clone(from), Arc::clone(to), Arc::clone(knobs));
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0_u64;
        while let Ok(n @ 1..) = source.as_ref().read(&mut buffer) {
            let piece = buffer.get(..n).unwrap_or_default().to_vec();
            shared
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&piece);
            total += u64::try_from(n).unwrap_or(u64::MAX);
            let limit = shared.reset_after.load(Ordering::SeqCst);
            if direction == Direction::ToClient && limit != 0 && total > limit {
                close_hard(&sink);
                break;
            }
            let due = due(Instant::now(), open_from, one_way(&shared));
            if sender.send((due, piece)).is_err() {
                break;
            }
        }
    });
    let (sink, shared) = (Arc::clone(to), Arc::clone(knobs));
    let writer = thread::spawn(move || {
        for (due, piece) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if shared.stalled.load(Ordering::SeqCst) {
                continue;
            }
            if sink.as_ref().write_all(&piece).is_err() {
                break;
            }
        }
        let hard = sockopt::socket_linger(sink.as_ref()).is_ok_and(|linger| linger.is_some());
        if !hard {
            drop(sink.shutdown(Shutdown::Write));
        }
    });
    [reader, writer]
}

/// Makes the last close of `client` a reset, and wakes whoever still reads from it.
fn close_hard(client: &TcpStream) {
    let _ = sockopt::set_socket_linger(client, Some(Duration::ZERO));
    drop(client.shutdown(Shutdown::Read));
}

/// When a piece that arrives now comes out at the other end.
fn due(now: Instant, open_from: Instant, one_way: Duration) -> Instant {
    now.max(open_from) + one_way
}

fn one_way(knobs: &Knobs) -> Duration {
    Duration::from_micros(knobs.one_way_micros.load(Ordering::SeqCst))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// Answers each byte with `answer`, on one connection after the other.
    fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut byte = [0];
                while (&stream).read_exact(&mut byte).is_ok() {
                    (&stream).write_all(answer).unwrap();
                }
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, answer: &mut [u8]) -> std::io::Result<()> {
        stream.write_all(b"?")?;
        stream.read_exact(answer)
    }

    #[test]
    fn passes_bytes_on_and_counts_connections() {
        let proxy = Proxy::start(server(b"yes")).unwrap();
        for _ in 0..3 {
            let mut answer = [0; 3];
            ask(
                &mut TcpStream::connect(proxy.address()).unwrap(),
                &mut answer,
            )
            .unwrap();
            assert_eq!(&answer, b"yes");
        }
        assert_eq!(proxy.connections(), 3);
        assert!(contains(&proxy.seen(), b"yes") && contains(&proxy.seen(), b"?"));
    }

    #[test]
    fn a_round_trip_takes_what_was_asked_for() {
        let proxy = Proxy::start(server(b"y")).unwrap();
        proxy.set_rtt(Duration::from_millis(60));
        let started = Instant::now();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        ask(&mut stream, &mut [0]).unwrap();
        // One round trip to open the connection, one to ask. Never less; how much more is the machine's.
        assert!(started.elapsed() >= Duration::from_millis(120));
        let again = Instant::now();
        ask(&mut stream, &mut [0]).unwrap();
        assert!(again.elapsed() >= Duration::from_millis(60));
    }

    #[test]
    fn opening_delays_the_first_piece_only() {
        let start = Instant::now();
        let (one_way, millis) = (Duration::from_millis(30), Duration::from_millis);
        let open_from = start + one_way * 2;
        assert_eq!(due(start, open_from, one_way), start + millis(90));
        assert_eq!(
            due(start + millis(5), open_from, one_way),
            start + millis(90)
        );
        assert_eq!(
            due(start + millis(150), open_from, one_way),
            start + millis(180)
        );
    }

    #[test]
    fn resets_in_the_middle_of_an_answer() {
        let proxy = Proxy::start(server(&[7; 100_000])).unwrap();
        proxy.reset_after(50_000);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let error = ask(&mut stream, &mut vec![0; 100_000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn stalls() {
        let proxy = Proxy::start(server(b"y")).unwrap();
        proxy.stall();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let error = ask(&mut stream, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack
            .windows(needle.len())
            .any(|window| window == needle)
    }
}
