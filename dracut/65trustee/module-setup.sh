#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dracut module `trustee`: what a node needs in its initramfs to ask its KBS for the key of its disk.
# Called by dracut (059 and later) while it builds an image; nothing here runs at boot.
# The number 65 means nothing: modules are found by name, because their numbers have moved.

# Opt-in: an image gets this if it names `trustee`, or if the machine that builds it has a configuration.
check() {
    local need
    for need in trustee-agent cryptsetup; do
        find_binary "$need" > /dev/null && continue
        # Said aloud: without this module the image builds well and then waits for a passphrase for ever.
        [[ -e $dracutsysrootdir$agent_toml ]] && derror "trustee: $agent_toml is there, but $need is not installed"
        return 1
    done
    [[ -e $dracutsysrootdir$agent_toml ]] && return 0
    return 255
}

depends() {
    local module modules="bash systemd network crypt"
    # clevis opens the volume; systemd-cryptsetup was split from `crypt` in dracut 103 and asks clevis to.
    # The function answers with a pattern where nothing matches, hence the -d.
    for module in clevis systemd-cryptsetup; do
        [[ -d $(dracut_module_path "$module") ]] && modules+=" $module"
    done
    # NetworkManager writes /etc/resolv.conf itself. systemd-networkd, which dracut takes in its absence,
    # leaves names to systemd-resolved.
    if ! nm_here && [[ -x $dracutsysrootdir$systemdutildir/systemd-resolved ]]; then
        modules+=" systemd-resolved"
    fi
    # Not tpm2-tss: it wants the tpm2 command, which nothing here runs.
    echo "$modules"
}

installkernel() {
    # hostonly='': the machine that builds is not the machine that boots.
    # instmods without -c passes over what this kernel calls otherwise or has built in: `tsm` became
    # `tsm_report`, SEV-SNP and TDX moved between directories.
    hostonly='' instmods '=drivers/char/tpm' '=drivers/virt/coco'
    hostonly='' instmods sev-guest tdx-guest tsm tsm_report configfs
    # Where [unlock] has sectors authenticated: what keeps the tags, and what the kernel looks for by the name of a cipher, so
    # that it is no module's dependency.
    if grep -Eq '^[[:space:]]*(unlock\.)?"?integrity\b' "$dracutsysrootdir$agent_toml"; then
        hostonly='' instmods dm-integrity authenc gcm ghash-generic aegis128 \
            aesni-intel ghash-clmulni-intel aegis128-aesni sha256-ssse3
    fi
}

install() {
    local unit

    # The agent, and itself again under the two names by which Clevis finds a pin.
    inst_multiple trustee-agent clevis-encrypt-trustee clevis-decrypt-trustee || broken "the agent is not complete"

    # Whom the node trusts. Part of the image, so part of what is measured.
    inst_multiple "$agent_toml" || broken "$agent_toml is missing: without it no server is trusted"
    inst_named_files

    # The way to /dev/tpmrm0 is opened by name at run time, so following links does not find it.
    inst_libdir_file "libtss2-tcti-device.so*" || broken "libtss2-tcti-device is missing (part of tpm2-tss)"
    inst_libdir_file "libtss2-esys.so*" "libtss2-sys.so*" "libtss2-mu.so*" "libtss2-tctildr.so*"
    # Its tag makes /dev/tpmrm0 a unit that others can wait for.
    inst_rules 60-tpm-udev.rules

    # Name resolution of glibc: opened by name as well; part of glibc itself since 2.34.
    inst_libdir_file "libnss_dns.so*" "libnss_files.so*"
    inst_multiple -o /etc/nsswitch.conf

    # For `clevis luks bind` on first boot: the clevis module brings only what unlocking takes. Version 19
    # makes its passphrase with pwmake, later ones with jose. sss is how Ignition before 2.26 names our pin.
    inst_multiple -o \
        clevis clevis-encrypt clevis-decrypt clevis-encrypt-sss clevis-decrypt-sss \
        clevis-luks-bind clevis-luks-common-functions clevis-luks-list clevis-luks-pass clevis-luks-unlock \
        jose luksmeta pwmake \
        awk basename cat cut grep mktemp rm sed sort tail touch tr
    # pwmake looks every passphrase up in a dictionary, and gives up where there is none. What it makes here
    # has 256 random bits and is in no dictionary.
    mkdir -p "$initdir/etc/security/pwquality.conf.d"
    echo 'dictcheck = 0' > "$initdir/etc/security/pwquality.conf.d/60-trustee.conf"

    # Reports of SEV-SNP and TDX are read through configfs, which dracut does not mount.
    inst_multiple -o "$systemdsystemunitdir/sys-kernel-config.mount"
    [[ -e $initdir$systemdsystemunitdir/sys-kernel-config.mount ]] \
        && $SYSTEMCTL -q --root "$initdir" add-wants sysinit.target sys-kernel-config.mount

    # The agent says in one sentence what tpm2-tss says in three lines of its own.
    for unit in clevis-luks-askpass ignition-disks ignition-ostree-growfs; do
        inst_simple "$moddir/quiet-tss.conf" "$systemdsystemunitdir/$unit.service.d/60-trustee.conf"
    done

    # With [ignition] in agent.toml, Ignition waits for the attested config, takes it and says nothing about it.
    if grep -Eq '^[[:space:]]*(\[[[:space:]]*)?"?ignition\b' "$dracutsysrootdir$agent_toml"; then
        for unit in fetch-offline fetch kargs disks mount files; do
            inst_simple "$moddir/attested-config.conf" "$systemdsystemunitdir/ignition-$unit.service.d/65-trustee.conf"
        done
        inst_simple "$moddir/trustee-config.service" "$systemdsystemunitdir/trustee-config.service"
        inst_simple "$moddir/after-attestation.conf" "$systemdsystemunitdir/ignition-fetch.service.d/66-trustee.conf"
        inst_simple "$moddir/left-out.conf" "$systemdsystemunitdir/ignition-fetch-offline.service.d/66-trustee.conf"
    fi
    # The units, and the agent once more under the name by which systemd finds a generator. Guard and seal are links
    # of the image, so that no failure of the generator takes them away.
    inst_multiple "$systemdsystemunitdir"/trustee-{unlock@,key@,verify,guard,record,seal}.service \
        "$systemdsystemunitdir/trustee-key@.socket" "$generator" \
        || broken "the agent's units are not complete"
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-root-fs.target trustee-guard.service
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-switch-root.service trustee-seal.service
    for unit in emergency rescue dracut-emergency debug-shell; do
        inst_simple "$moddir/seal-first.conf" "$systemdsystemunitdir/$unit.service.d/60-trustee.conf"
    done

    # The network must be up before the root is. No ip= beside it: NetworkManager, network-legacy and
    # systemd-networkd of dracut 106 take every wired interface by themselves, an ip= on the kernel command
    # line still wins, and the value that suits one of them stops another.
    mkdir -p "$initdir/etc/cmdline.d"
    echo 'rd.neednet=1' > "$initdir/etc/cmdline.d/60-trustee.conf"
    # systemd-networkd of dracut 059 has no such default. Sorted last: anything more exact wins.
    if dracut_module_included systemd-networkd && [[ ! -e $initdir/etc/systemd/network/zzzz-dracut-default.network ]]; then
        inst_simple "$moddir/default.network" /etc/systemd/network/zzzz-trustee-default.network
    fi

    [[ -d $(dracut_module_path clevis) ]] \
        || dwarn "trustee: there is no dracut module clevis: this image can bind a volume, but not open it at boot"
    dracut_need_initqueue
}

# The files that agent.toml names. An image without them is built by nobody on purpose, so a line that this
# cannot read stops the build as well.
inst_named_files() {
    local toml=$dracutsysrootdir$agent_toml key='(ca_file|init_data_file)' mentioned file
    local -a files
    mentioned=$(sed 's/#.*//' "$toml" | grep -cE "\\b$key\\b")
    mapfile -t files < <(sed -nE "s/^[[:space:]]*([a-z]+\\.)?$key[[:space:]]*=[[:space:]]*[\"']([^\"']+)[\"'][[:space:]]*(#.*)?\$/\\3/p" "$toml")
    ((mentioned == ${#files[@]})) \
        || broken "$agent_toml: cannot tell which file is meant; write each ca_file and init_data_file on a line of its own"
    for file in "${files[@]}"; do
        [[ $file == /* ]] || broken "$agent_toml names $file, which is not an absolute path"
        [[ -e $dracutsysrootdir$file ]] || broken "$agent_toml names $file, which does not exist"
        inst_multiple "$file" || broken "$file cannot be copied"
    done
}

# By the paths at which dracut's own `network` module looks.
nm_here() {
    local dir
    for dir in libexec lib lib/NetworkManager; do
        [[ -x $dracutsysrootdir/usr/$dir/nm-initrd-generator ]] && return 0
    done
    return 1
}

# As dracut does for a hook that is missing: no image is better than one that cannot open its disk.
broken() {
    dfatal "trustee: $*"
    exit 1
}

agent_toml=/etc/trustee/agent.toml
generator=/usr/lib/systemd/system-generators/trustee-generator
