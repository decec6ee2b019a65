#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dracut module `seed`, for virtual machines only: what CoreOS does around Ignition and Debian's Ignition lacks.
# Ignition makes an empty file system in the encrypted root; this puts the system into it.
check() { return 255; }

depends() { echo ignition; }

install() {
    inst_multiple dd udevadm
    inst_script "$moddir/seed" /usr/bin/vm-seed
    # Debian's Ignition relabels for SELinux at its end, on systems without it too.
    inst_script "$moddir/setfiles" /usr/sbin/setfiles
    inst_simple "$moddir/vm-seed.service" "$systemdsystemunitdir/vm-seed.service"
    $SYSTEMCTL -q --root "$initdir" add-requires ignition-complete.target vm-seed.service
}
