// SPDX-License-Identifier: Apache-2.0

//! The host makes the two copies of the header differ, so that two readers see two headers.

use super::scene::Scene;

/// Both whole, of one age, and with different texts.
#[test]
fn copies_of_one_age_say_the_same() {
    let scene = Scene::new();
    let hostile = scene.changed(|bytes, size| {
        let at = bytes[size..]
            .windows(4)
            .position(|word| word == b"1000")
            .unwrap();
        bytes[size + at..][..4].copy_from_slice(b"1001");
    });
    scene.refused_unasked(&hostile, "say different things");
}

/// The second in the place of the first.
#[test]
fn each_copy_lies_in_its_own_place() {
    let scene = Scene::new();
    let hostile = scene.changed(|bytes, size| {
        let (first, second) = bytes.split_at_mut(size);
        first.swap_with_slice(&mut second[..size]);
    });
    scene.refused_unasked(&hostile, "no LUKS2 header");
}
