// SPDX-License-Identifier: Apache-2.0
//! A node that waits says so on Plymouth's splash too. What listens here is no Plymouth, and reads its requests as strictly
//! as one does.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use sheepfold_tests::lab::Lab;
use sheepfold_tests::paths;
use sheepfold_tests::world::World;

/// What is asked of it, in order: the letter, and the text. `None` where a Plymouth or another such test listens already.
fn plymouth() -> Option<Receiver<(u8, String)>> {
    let Ok(listener) = UnixListener::bind_addr(&address_of_plymouth()) else {
        paths::skipped("somebody listens as Plymouth already");
        return None;
    };
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut request = Vec::new();
            stream.unwrap().read_to_end(&mut request).unwrap();
            let [what, 2, length, text @ .., 0] = request.as_slice() else {
                panic!("not a request: {request:?}");
            };
            assert_eq!(usize::from(*length), text.len() + 1);
            let text = std::str::from_utf8(text).unwrap().to_owned();
            if tell.send((*what, text)).is_err() {
                return;
            }
        }
    });
    Some(told)
}

fn address_of_plymouth() -> SocketAddr {
    SocketAddr::from_abstract_name("/org/freedesktop/plymouthd").unwrap()
}

#[test]
fn whoever_waits_is_on_the_splash_until_it_waits_no_longer() {
    let Some(asked) = plymouth() else {
        return;
    };
    let (mut world, _, _) = World::enrolled().unwrap();
    world.settings.overall = "0s";
    world.configure().unwrap();
    let (address, url) = (
        world.lab.address().unwrap().to_string(),
        world.lab.url().to_owned(),
    );
    world.lab.stop().unwrap();
    let fetching = world.agent(["fetch"]);
    let fetching = thread::spawn(move || fetching.capture().unwrap());
    // Agents of other tests may wait as well.
    let next = || asked.iter().find(|(_, text)| text.contains(&url)).unwrap();
    let (what, shown) = next();
    assert_eq!(what, b'M', "{shown}");
    let who_and_since_when = shown.starts_with("trustee-agent: waiting for 0 s: ");
    assert!(who_and_since_when, "{shown}");
    assert!(shown.contains(": no connection: "), "{shown}");
    assert!(shown.contains("; trying again in "), "{shown}");

    let dir = world.lab.dir().to_path_buf();
    world.lab = Lab::serve(&dir, &address, &[]).unwrap();
    let fetched = fetching.join().unwrap();
    assert_eq!(fetched.code, Some(0), "{fetched}");
    // Each sentence is taken away when the next one comes, and the last one at the end.
    let end = format!("the end of {url}");
    let mut plymouth = UnixStream::connect_addr(&address_of_plymouth()).unwrap();
    let length = u8::try_from(end.len() + 1).unwrap();
    let request = [b"M\x02", [length].as_slice(), end.as_bytes(), b"\0"].concat();
    plymouth.write_all(&request).unwrap();
    drop(plymouth);
    let mut on_screen = Some(shown);
    loop {
        match next() {
            (b'M', text) if text == end => break,
            (b'M', text) if on_screen.is_none() => on_screen = Some(text),
            (b'm', text) if on_screen.as_ref() == Some(&text) => on_screen = None,
            (what, text) => panic!("{what} {text}, with {on_screen:?} on the screen"),
        }
    }
    assert_eq!(on_screen, None);
}
