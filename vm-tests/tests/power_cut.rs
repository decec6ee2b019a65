// SPDX-License-Identifier: Apache-2.0
//! The power goes four times in a row: before the node has asked for anything, while it attests, right after the root was
//! opened, and while the system writes. The TPM counts none of them against the node, and the fifth boot is one like any other.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots machines: make vm-test STORY=power_cut"]
fn four_cuts_in_a_row_lock_nobody_out() {
    let site = Site::open("power_cut").unwrap();
    let recipe = Recipe::native(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.power_cut().unwrap();

    let before = stage.site.answers(ATTEST);
    let machine = Machine::power_on(&node, &stage.chain, "2").unwrap();
    stage
        .site
        .wait_for_answer(&machine, ATTEST, before)
        .unwrap();
    machine.power_cut().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "3").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.probe.wait_until("dmsetup info root").unwrap();
    machine.power_cut().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "4").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.reach(Place::System).unwrap();
    machine.probe.ask(WRITES).unwrap();
    machine.power_cut().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "5").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&node, &stage.chain, "5").unwrap();
    let written = machine.probe.ask("cat /var/lib/before-the-cut").unwrap();
    assert_eq!(written.trim(), "written");
    let (_, errors) = machine.probe.run(DISK_ERRORS).unwrap();
    assert_eq!(errors.trim(), "", "the file system has suffered");
    // The TPM does count such cuts: the one after the story's own key, and none after ours.
    let counted = machine.probe.ask(FAILURES).unwrap();
    assert_eq!(counted.trim(), "0x1", "of which the TPM locks itself at 3");
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

const ATTEST: &str = "/kbs/v0/attest";
/// A file that is safe on the disk, a key of the TPM that is protected against dictionary attacks and has been used, and a
/// program that writes while the power goes.
const WRITES: &str = r"
set -e
mount -o remount,rw /
echo written >/var/lib/before-the-cut
sync
export TPM2TOOLS_TCTI=device:/dev/tpmrm0
tpm2_createprimary -Q -c /run/primary
tpm2_create -Q -C /run/primary -u /run/public -r /run/private
(while :; do dd if=/dev/urandom of=/var/lib/noise bs=64k count=32; done) >/dev/null 2>&1 &
sleep 2
";
const DISK_ERRORS: &str =
    "journalctl -b -k --no-pager | grep -E 'EXT4-fs (error|warning)|I/O error'";
const FAILURES: &str = "tpm2_getcap -T device:/dev/tpmrm0 properties-variable | sed -n 's/^TPM2_PT_LOCKOUT_COUNTER: *//p'";
