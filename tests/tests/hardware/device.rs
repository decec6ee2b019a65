// SPDX-License-Identifier: Apache-2.0

//! SEV-SNP on a kernel without configfs-tsm: the built agent asks `/dev/sev-guest` by the kernel's own ioctl, whose other
//! side is a file that reads the caller's memory as the driver does. Only the processor behind it is made of software.

use crate::{now, policies};
use serde_json::json;
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;
use sheepfold_tests::world::World;
use soft_tee::guest_device::{Failure, GuestDevice};
use soft_tee::snp::{Authority, Generation};

/// Runs the program where the file stands at `/dev/sev-guest`, in a mount namespace of its own.
fn with_device(device: &GuestDevice, run: Run) -> Run {
    let script = "mount -t tmpfs none /dev && : >/dev/sev-guest && \
                  mount --bind \"$0\" /dev/sev-guest && exec \"$@\"";
    let file = device.path().into_os_string();
    let wrapper = ["unshare", "--mount", "sh", "-c", script].map(Into::into);
    run.wrapped(&[&wrapper[..], &[file]].concat()).unwrap()
}

#[test]
fn the_older_device_is_asked_as_its_interface_wants_it() {
    if !rustix::process::geteuid().is_root() {
        paths::skipped("only root can put a device where the agent looks for it");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (authority, pem) = (Authority::new(now()), root.path().join("amd.pem"));
    std::fs::write(&pem, authority.pem()).unwrap();
    let chip = authority.chip(Generation::Milan);
    let (mut world, _, stored) =
        World::enrolled_with_lab(&["--amd-root", pem.to_str().unwrap()]).unwrap();
    // The device brings no certificates: the KBS has the chip's in its own store.
    let id: String = chip
        .template
        .chip_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let store = world.lab.dir().join("kds-store/vcek").join(id);
    std::fs::create_dir_all(&store).unwrap();
    std::fs::write(store.join("vcek.der"), &chip.vek_der).unwrap();
    policies(
        &world,
        "snp",
        &[
            ("snp_measurements", json!(["ab".repeat(48)])),
            (
                "snp_tcb_floors",
                json!([{"bootloader": 4, "microcode": 200, "snp": 20, "tee": 0}]),
            ),
        ],
    );
    let directory = tempfile::tempdir().unwrap();
    let device =
        GuestDevice::serve(directory.path(), Box::new(move |data| chip.report(data))).unwrap();
    // Where the agent looks before it asks; the library knows one path only.
    std::fs::create_dir(root.path().join("dev")).unwrap();
    std::fs::write(root.path().join("dev/sev-guest"), "").unwrap();
    world.settings.evidence = format!(
        "primary = \"snp\"\nadditional = [\"tpm\"]\nroot = {:?}",
        root.path()
    );
    world.configure().unwrap();
    let fetch = |world: &World| {
        let run = with_device(&device, world.agent(["fetch"]));
        world.run(run).unwrap()
    };

    let fetched = fetch(&world);
    assert_eq!(fetched.code, Some(0), "{fetched}\n{}", world.lab.log());
    assert_eq!(fetched.stdout, stored.content.expose());
    let asked = device.take_asked();
    assert_eq!(asked.len(), 1, "one handshake, one report");
    assert_eq!((asked[0].version, asked[0].vmpl), (1, 0));
    assert_eq!(asked[0].reserved, [0; 28]);
    assert_ne!(asked[0].data[..48], [0; 48], "the digest of the handshake");
    assert_eq!(asked[0].data[48..], [0; 16], "SHA-384, padded");

    // What the firmware or the host says no with comes to the person who has to act.
    for (failure, says) in [
        (Failure::Exit(1 << 32), "vmm error"),
        (Failure::Exit(1), "cannot ask /dev/sev-guest"),
        (Failure::Status(0x16), "cannot ask /dev/sev-guest"),
    ] {
        device.fail(Some(failure));
        let refused = fetch(&world);
        assert_eq!(refused.code, Some(11), "{failure:?}: {refused}");
        assert!(
            refused.err().to_lowercase().contains(says),
            "{failure:?}: {refused}"
        );
        assert!(refused.stdout.is_empty(), "{refused}");
        assert!(refused.err().contains("stays until"), "{refused}");
        assert_eq!(device.take_asked().len(), 1, "{failure:?}");
    }
    // "Not now" is no no: asked again a few times, and then it is for whoever waits.
    for (failure, says) in [
        (Failure::Exit(2 << 32), "vmm error"),
        (Failure::Busy, "busy"),
    ] {
        device.fail(Some(failure));
        // Over after the first round.
        world.settings.overall = "3s";
        world.configure().unwrap();
        let busy = fetch(&world);
        assert_eq!(busy.code, Some(11), "{failure:?}: {busy}");
        assert!(busy.err().to_lowercase().contains(says), "{busy}");
        assert!(busy.err().contains("may pass by itself"), "{busy}");
        assert!(busy.err().contains("whoever runs the host"), "{busy}");
        assert_eq!(device.take_asked().len(), 3, "{failure:?}");
        world.settings.overall = "60s";
        world.configure().unwrap();
        let fetched = std::thread::scope(|scope| {
            let fetched = scope.spawn(|| fetch(&world));
            while device.take_asked().is_empty() && !fetched.is_finished() {
                std::thread::yield_now();
            }
            device.fail(None);
            fetched.join().unwrap()
        });
        assert_eq!(fetched.code, Some(0), "{failure:?}: {fetched}");
        assert_eq!(device.take_asked().len(), 1, "{failure:?}: once more");
    }
    for command in ["status", "doctor"] {
        let shown = world
            .run(with_device(&device, world.agent([command])))
            .unwrap();
        assert_eq!(shown.code, Some(0), "{shown}");
        assert!(shown.err().contains("through /dev/sev-guest"), "{shown}");
    }
    assert_eq!(device.take_asked(), []);
}
