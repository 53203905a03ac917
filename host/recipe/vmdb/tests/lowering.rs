//! Plans of specs, one for each family of steps.

#![expect(clippy::too_many_lines, reason = "a spec and its plan stand together")]

mod common;

use common::{show, try_prepare};
use expect_test::{Expect, expect};
use vmdb::Options;

/// The first steps of every spec with a root filesystem.
const HEAD: &str = "steps:
  - mkimg: \"{{ output }}\"
    size: 1G
  - mklabel: msdos
    device: \"{{ output }}\"
  - mkpart: primary
    device: \"{{ output }}\"
    start: 0%
    end: 100%
    tag: root
  - kpartx: \"{{ output }}\"
  - mkfs: ext4
    partition: root
  - mount: root
";

fn check_with(
    text: &str,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut Options),
    expected: Expect,
) {
    let shown = match try_prepare(text, files, change) {
        Ok(prepared) => show(&prepared),
        Err(error) => error,
    };
    expected.assert_eq(&shown);
}

/// Checks the stages after those of [`HEAD`].
fn check_tail(tail: &str, files: &[(&str, &str)], expected: Expect) {
    let shown = match try_prepare(&format!("{HEAD}{tail}"), files, |_| ()) {
        Ok(prepared) => {
            let shown = show(&prepared);
            let mut rest = false;
            let kept: Vec<&str> = shown
                .lines()
                .filter(|line| {
                    let head = |n: &str| line.starts_with(n) && !line.starts_with("  ");
                    rest |= !line.starts_with(' ')
                        && !["disk", "01-", "02-", "05-", "06-"].iter().any(|n| head(n));
                    rest
                })
                .collect();
            kept.join("\n") + "\n"
        }
        Err(error) => error,
    };
    expected.assert_eq(&shown);
}

#[test]
fn partitions_filesystems_and_mounts() {
    let text = "steps:
  - mkimg: \"{{ output }}\"
    size: 4G
  - mklabel: gpt
    device: \"{{ output }}\"
  - mkpart: primary
    device: \"{{ output }}\"
    start: 0%
    end: 512M
    fs-type: fat32
    part-tag: efi
  - mkpart: primary
    device: \"{{ output }}\"
    start: 512M
    end: 100%
    tag: /
  - set_part_flag: \"{{ output }}\"
    tag: efi
    flag: esp
  - kpartx: \"{{ output }}\"
  - mkfs: vfat
    partition: efi
    label: EFI
    options: -F 32
  - mkfs: ext4
    partition: /
    label: root
    target_old: true
  - mount: /
  - mount: efi
    mount-on: /
    dirname: /boot/efi
  - fstab: /
";
    check_with(
        text,
        &[],
        |_| (),
        expect![[r#"
            disk scratch Scratch Bytes(68719476736)
            disk image Target Bytes(4294967296)
            01-mkimg in -
            02-mklabel in -
              make table-image Gpt
                efi Some(1048576) EndAt(511705088) type EF00 boot false primary true
                root Some(511705088) EndAt(4293918720) type 8300 boot false primary true
            07-mkfs in -
              make fs-efi Filesystem(Filesystem { base: "efi", fstype: "vfat", label: Some("EFI"), uuid: None, options: ["-F", "32"] })
            08-mkfs in -
              make fs-root Filesystem(Filesystem { base: "root", fstype: "ext4", label: Some("root"), uuid: None, options: ["-O", "^large_dir,^metadata_csum_seed", "-O", "^orphan_file"] })
            09-mount in -
              make mount-root Mount(Mount { base: "fs-root", mount_point: "/root", fstab: None })
            10-mount in /build/image/root
              mkdir /build/image/root/boot/efi 755
              make mount-efi Mount(Mount { base: "fs-efi", mount_point: "/root/boot/efi", fstab: None })
            11-fstab in /build/image/root
              run [step 11 (fstab): write fstab] sh -c SCRIPT "write fstab" /build/image/root fs <uuid.fs-root> / ext4 - fs <uuid.fs-efi> /boot/efi vfat -
            finish in -
              trim
            output image raw out.img
        "#]],
    );
}

#[test]
fn lvm_luks_and_other_filesystems() {
    let text = "steps:
  - mkimg: disk.qcow2
    size: 2G
  - mklabel: gpt
    device: disk.qcow2
  - mkpart: a
    device: disk.qcow2
    start: 1MiB
    end: 100%
    tag: pv
  - set_part_flag: disk.qcow2
    tag: pv
    flag: lvm
  - kpartx: disk.qcow2
  - cryptsetup: pv
    name: crypt
    password: secret
  - vgcreate: vg
    physical: [crypt]
  - lvcreate: vg
    name: root
    size: 1G
  - lvcreate: vg
    name: data
    size: fill
  - lvscan: vg
    tags: [root, data]
  - mkfs: f2fs
    partition: data
    label: data
  - mkfs: xfs
    partition: root
  - mount: root
  - mount: data
    mount-on: root
    dirname: srv
  - fstab: root
";
    check_with(
        text,
        &[],
        |options| options.output = Some("disk.qcow2".into()),
        expect![[r#"
            disk scratch Scratch Bytes(68719476736)
            disk image Target Bytes(2147483648)
            01-mkimg in -
            02-mklabel in -
              make table-image Gpt
                pv Some(1048576) EndAt(2146435072) type 8E00 boot false primary true
            06-cryptsetup in -
              make crypt Luks(Luks { base: "pv", passphrase: "secret", options: ["--pbkdf", "argon2id"] })
            07-vgcreate in -
              make pv-crypt PhysicalVolume { base: "crypt", options: [] }
              make vg VolumeGroup { bases: ["pv-crypt"], options: [] }
            08-lvcreate in -
              make root LogicalVolume(LogicalVolume { group: "vg", size: Bytes(1073741824), thin_pool: None, is_thin_pool: false, options: [] })
            09-lvcreate in -
              make data LogicalVolume(LogicalVolume { group: "vg", size: Extents("100%FREE"), thin_pool: None, is_thin_pool: false, options: [] })
            11-mkfs in -
              make fs-data Filesystem(Filesystem { base: "data", fstype: "f2fs", label: None, uuid: None, options: ["-l", "data"] })
              run [step 11 (mkfs): look for the UUID] blkid -c /dev/null -o value -s UUID <device.data> > <uuid.fs-data>
            12-mkfs in -
              make fs-root Filesystem(Filesystem { base: "root", fstype: "xfs", label: None, uuid: None, options: [] })
            13-mount in -
              make mount-root Mount(Mount { base: "fs-root", mount_point: "/root", fstab: None })
            14-mount in /build/image/root
              mkdir /build/image/root/srv 755
              make mount-data Mount(Mount { base: "fs-data", mount_point: "/root/srv", fstab: None })
            15-fstab in /build/image/root
              run [step 15 (fstab): write fstab] sh -c SCRIPT "write fstab" /build/image/root fs <uuid.fs-root> / xfs - fs <uuid.fs-data> /srv f2fs - crypt <uuid.crypt> crypt - -
            finish in -
              trim
            output image qcow2 disk.qcow2
        "#]],
    );
}

#[test]
fn keys_of_containers() {
    let tail = "  - cryptsetup: root\n    tag: a\n    key-file: key\n";
    let text = HEAD.split("  - mkfs").next().unwrap().to_owned()
        + tail
        + "  - cryptsetup: a\n    name: b\n    key-cmd: echo secret\n";
    check_with(
        &text,
        &[("key", "secret\n")],
        |_| (),
        expect![[r#"
            disk scratch Scratch Bytes(68719476736)
            disk image Target Bytes(1073741824)
            01-mkimg in -
            02-mklabel in -
              make table-image Mbr
                root Some(1048576) EndAt(1073741824) type 83 boot false primary true
            05-cryptsetup in -
              make a Luks(Luks { base: "root", passphrase: "secret\n", options: ["--pbkdf", "argon2id"] })
            06-cryptsetup in -
              make b Luks(Luks { base: "a", passphrase: "key of b until the build ends", options: ["--pbkdf", "argon2id"] })
            finish in -
              run [finish: replace the key] sh -c SCRIPT "replace the key" <device.a> "key of b until the build ends" "echo secret"
            output image raw out.img
        "#]],
    );
}

#[test]
fn debootstrap_apt_and_commands() {
    let tail = "  - debootstrap: bookworm
    target: root
    mirror: http://mirror.example/debian
    keyring: keys/own.gpg
    install_keyring: true
    components: [main, contrib]
    include: [ssh]
    tls_ca_certs: [ca.pem]
  - apt: install
    tag: root
    packages: [linux-image-amd64]
    recommends: false
  - apt: install
    fs-tag: root
    packages: [less]
    clean: false
  - virtual-filesystems: root
  - chroot: root
    shell: |
      passwd -d root
  - shell: |
      echo hello > \"$ROOT/etc/motd\"
    root-fs: root
";
    let files = [("keys/own.gpg", "k"), ("ca.pem", "c")];
    check_tail(
        tail,
        &files,
        expect![[r#"
            07-debootstrap in /build/image/root network
              run [step 7 (debootstrap): look into the target] sh -c SCRIPT "look into the target" /build/image/root
              upload to /build/vmdb/07
                own.gpg: file 644 1 bytes
              upload to /usr/local/share/ca-certificates
                ca.crt: file 644 1 bytes
              run [step 7 (debootstrap): trust] update-ca-certificates
              run [step 7 (debootstrap): debootstrap] debootstrap --arch amd64 --variant - --components main,contrib --keyring /build/vmdb/07/own.gpg --include ssh bookworm /build/image/root http://mirror.example/debian
              remove /build/image/root/etc/resolv.conf
              remove /build/image/root/etc/hostname
              run [step 7 (debootstrap): lend files of /etc] sh -c SCRIPT "lend files of /etc" give /build/image/root /build/vmdb/lent/build/image/root resolv.conf hostname
              upload to /build/image/root/usr/local/share/ca-certificates
                ca.crt: file 644 1 bytes
              run [step 7 (debootstrap): trust in the image] sh -c SCRIPT "trust in the image" /build/image/root chroot /build/image/root sh -ec "! command -v update-ca-certificates >/dev/null || update-ca-certificates"
              upload to /build/image/root/etc/apt/trusted.gpg.d
                own.gpg: file 644 1 bytes
              end processes in /build/image/root
            08-apt in /build/image/root network
              run [step 8 (apt): apt-get update] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get update" /build/image/root chroot /build/image/root apt-get update
              run [step 8 (apt): install eatmydata] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "install eatmydata" /build/image/root chroot /build/image/root apt-get -y --no-show-progress --no-install-recommends install eatmydata
              run [step 8 (apt): install packages] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "install packages" /build/image/root chroot /build/image/root eatmydata apt-get -y --no-show-progress --no-install-recommends install linux-image-amd64
              run [step 8 (apt): apt-get clean] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get clean" /build/image/root chroot /build/image/root apt-get clean
              end processes in /build/image/root
            09-apt in /build/image/root network
              run [step 9 (apt): apt-get update] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get update" /build/image/root chroot /build/image/root apt-get update
              run [step 9 (apt): install packages] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "install packages" /build/image/root chroot /build/image/root eatmydata apt-get -y --no-show-progress install less
              end processes in /build/image/root
            10-virtual-filesystems in /build/image/root
              mkdir /build/image/root/proc 755
              mkdir /build/image/root/dev 755
              mkdir /build/image/root/sys 755
              mkdir /build/image/root/run 755
              mkdir /build/vmdb/virtual/root/run 755
              mkdir /build/vmdb/virtual/root/run/lock 1777
              mkdir /build/vmdb/virtual/root/shm 1777
            11-chroot in /build/image/root network
              bound /proc -> /build/image/root/proc
              bound /dev -> /build/image/root/dev
              bound /dev/pts -> /build/image/root/dev/pts
              bound /sys -> /build/image/root/sys
              bound /build/vmdb/virtual/root/shm -> /build/image/root/dev/shm
              bound /build/vmdb/virtual/root/run -> /build/image/root/run
              run [step 11 (chroot): links by UUID] sh -c SCRIPT "links by UUID" <uuid.fs-root> <device.root>
              run [step 11 (chroot): shell in the image] sh -c SCRIPT "shell in the image" /build/image/root chroot /build/image/root sh -ec "passwd -d root"
              end processes in /build/image/root
            12-shell in /build/image/root network
              mkdir /build/spec 755
              run [step 12 (shell): links by UUID] sh -c SCRIPT "links by UUID" <uuid.fs-root> <device.root>
              run [step 12 (shell): shell] ROOT=/build/image/root DM_DISABLE_UDEV=1 sh -c SCRIPT shell "echo hello > \"$ROOT/etc/motd\"" /build/spec out.img <device.image>
              end processes in /build/image/root
            finish in -
              run [finish: take back files of /etc] sh -c SCRIPT "take back files of /etc" take /build/image/root /build/vmdb/lent/build/image/root
              trim
            output image raw out.img
        "#]],
    );
}

#[test]
fn an_architecture_without_a_machine_is_emulated() {
    let tail = "  - qemu-debootstrap: bookworm
    target: root
    mirror: http://mirror.example/debian
    arch: armhf
  - chroot: root
    shell: \"true\"
";
    check_tail(
        tail,
        &[],
        expect![[r#"
            07-qemu-debootstrap in /build/image/root network
              run [step 7 (qemu-debootstrap): emulate] sh -c SCRIPT emulate armhf
              run [step 7 (qemu-debootstrap): debootstrap] debootstrap --arch armhf --variant - --components main bookworm /build/image/root http://mirror.example/debian
              remove /build/image/root/etc/resolv.conf
              remove /build/image/root/etc/hostname
              run [step 7 (qemu-debootstrap): lend files of /etc] sh -c SCRIPT "lend files of /etc" give /build/image/root /build/vmdb/lent/build/image/root resolv.conf hostname
              end processes in /build/image/root
            07-qemu-debootstrap-update in /build/image/root network
              run [step 7 (qemu-debootstrap): emulate] sh -c SCRIPT emulate armhf
              run [step 7 (qemu-debootstrap): apt-get update] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get update" /build/image/root chroot /build/image/root apt-get update
              end processes in /build/image/root
            08-chroot in /build/image/root network
              run [step 8 (chroot): emulate] sh -c SCRIPT emulate armhf
              run [step 8 (chroot): shell in the image] sh -c SCRIPT "shell in the image" /build/image/root chroot /build/image/root sh -ec true
              end processes in /build/image/root
            finish in -
              run [finish: take back files of /etc] sh -c SCRIPT "take back files of /etc" take /build/image/root /build/vmdb/lent/build/image/root
              trim
            output image raw out.img
            package qemu-user-static
        "#]],
    );
}

#[test]
fn files_and_directories() {
    let tail = "  - copy-file: /etc/apt/sources.list
    src: sources
    perm: 0600
    uid: 1
  - create-file: /etc/hostname
    contents: \"host\\n\"
  - create-dir: srv/www
    perm: 0775
    gid: 33
  - copy-dir: /opt
    src: tree/
    user: www-data
    umask: 0027
";
    let files = [("sources", "x"), ("tree/a/b", "yy"), ("tree/c", "")];
    check_tail(
        tail,
        &files,
        expect![[r#"
        07-copy-file in /build/image/root
          upload to /build/image/root
            etc/apt/sources.list: file 600 1 bytes
          run [step 7 (copy-file): set the owner] sh -c SCRIPT "set the owner" /build/image/root etc/apt/sources.list - 1:0
        08-create-file in /build/image/root
          upload to /build/image/root
            etc/hostname: text 644 4 bytes
        09-create-dir in /build/image/root
          mkdir /build/image/root/srv/www 775
          run [step 9 (create-dir): set the owner] sh -c SCRIPT "set the owner" /build/image/root srv/www 0775 0:33
        10-copy-dir in /build/image/root
          upload to /build/vmdb/10/tree
            a: directory 750
            a/b: file 640 2 bytes
            c: file 640 0 bytes
          run [step 10 (copy-dir): copy the directory] sh -c SCRIPT "copy the directory" /build/image/root /opt /build/vmdb/10/tree 0750 www-data 0
          remove /build/vmdb/10/tree
        finish in -
          trim
        output image raw out.img
    "#]],
    );
}

#[test]
fn a_tarball_skips_what_made_it() {
    let tail = "  - unpack-rootfs: root
  - debootstrap: bookworm
    target: root
    mirror: http://mirror.example/debian
    unless: rootfs_unpacked
  - cache-rootfs: root
    unless: rootfs_unpacked
";
    let text = format!("{HEAD}{tail}");
    let stages = |files: &[(&str, &str)]| {
        let tarball = |options: &mut Options| options.rootfs_tarball = Some("root.tar.gz".into());
        let prepared = try_prepare(&text, files, tarball).unwrap();
        let shown = show(&prepared);
        let from = shown.find("06-mount").unwrap();
        shown[from..].to_owned()
    };
    // Options for tar require the tar of the guest.
    let text_with_options = format!("{HEAD}  - cache-rootfs: root\n    options: --exclude=tmp\n");
    let tarball = |options: &mut Options| options.rootfs_tarball = Some("root.tar.gz".into());
    let prepared = try_prepare(&text_with_options, &[], tarball).unwrap();
    let shown = show(&prepared);
    expect![[r#"
        07-cache-rootfs in /build/image/root
          mkdir /build/rootfs-cache 755
          run [step 7 (cache-rootfs): pack] tar --exclude=tmp -C /build/image/root -caf /build/rootfs-cache/root.tar.gz .
          fetch /build/rootfs-cache
        finish in -
          trim
        output image raw out.img
    "#]].assert_eq(&shown[shown.find("07-cache").unwrap()..]);
    expect![[r#"
        06-mount in -
          make mount-root Mount(Mount { base: "fs-root", mount_point: "/root", fstab: None })
        08-debootstrap in /build/image/root network
          run [step 8 (debootstrap): look into the target] sh -c SCRIPT "look into the target" /build/image/root
          run [step 8 (debootstrap): debootstrap] debootstrap --arch amd64 --variant - --components main bookworm /build/image/root http://mirror.example/debian
          remove /build/image/root/etc/resolv.conf
          remove /build/image/root/etc/hostname
          run [step 8 (debootstrap): lend files of /etc] sh -c SCRIPT "lend files of /etc" give /build/image/root /build/vmdb/lent/build/image/root resolv.conf hostname
          end processes in /build/image/root
        09-cache-rootfs in /build/image/root
          run [step 9 (cache-rootfs): without lent files of /etc] sh -c SCRIPT "without lent files of /etc" hide /build/image/root /build/vmdb/lent/build/image/root
          export /build/image/root as tgz root.tar.gz
          run [step 9 (cache-rootfs): without lent files of /etc] sh -c SCRIPT "without lent files of /etc" show /build/image/root /build/vmdb/lent/build/image/root
        finish in -
          run [finish: take back files of /etc] sh -c SCRIPT "take back files of /etc" take /build/image/root /build/vmdb/lent/build/image/root
          trim
        output image raw out.img
    "#]].assert_eq(&stages(&[]));
    expect![[r#"
        06-mount in -
          make mount-root Mount(Mount { base: "fs-root", mount_point: "/root", fstab: None })
        07-unpack-rootfs in /build/image/root
          upload to /build/rootfs-cache
            root.tar.gz: file 644 3 bytes
          run [step 7 (unpack-rootfs): unpack] tar -C /build/image/root -xf /build/rootfs-cache/root.tar.gz --numeric-owner
          run [step 7 (unpack-rootfs): lend files of /etc] sh -c SCRIPT "lend files of /etc" give /build/image/root /build/vmdb/lent/build/image/root resolv.conf
        08-debootstrap in /build/image/root network
          run [step 8 (debootstrap): apt-get update] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get update" /build/image/root chroot /build/image/root apt-get update
          end processes in /build/image/root
        finish in -
          run [finish: take back files of /etc] sh -c SCRIPT "take back files of /etc" take /build/image/root /build/vmdb/lent/build/image/root
          trim
        output image raw out.img
    "#]].assert_eq(&stages(&[("root.tar.gz", "tar")]));
}

#[test]
fn ansible_takes_what_the_playbook_names() {
    let tail = "  - ansible: root
    playbook: play/site.yml
    tags: base
    config_file: ansible.cfg
    extra_vars:
      suite: \"{{ output }}\"
      number: 3
";
    let files = [
        ("ansible.cfg", "[defaults]\n"),
        ("play/site.yml", "- import_playbook: more.yml\n- hosts: image\n  vars_files: [v/x.yml]\n"),
        ("play/more.yml", "- hosts: image\n  tasks: [{include_tasks: ../secret.yml}]\n"),
        ("play/v/x.yml", "a: 1\n"),
        ("play/roles/r/tasks/main.yml", "[]\n"),
        ("play/unrelated.yml", "secret\n"),
        ("secret.yml", "secret\n"),
    ];
    check_tail(
        tail,
        &files,
        expect![[r#"
            07-ansible in /build/image/root network
              upload to /build/vmdb/07
                ansible.cfg: file 644 11 bytes
                inventory: text 644 26 bytes
                playbook: directory 755
                playbook/more.yml: file 644 57 bytes
                playbook/roles: directory 755
                playbook/roles/r: directory 755
                playbook/roles/r/tasks: directory 755
                playbook/roles/r/tasks/main.yml: file 644 3 bytes
                playbook/site.yml: file 644 67 bytes
                playbook/v: directory 755
                playbook/v/x.yml: file 644 5 bytes
              run [step 7 (ansible): ansible-playbook] ANSIBLE_NOCOWS=1 DEBIAN_FRONTEND=noninteractive ANSIBLE_CONFIG=/build/vmdb/07/ansible.cfg sh -c SCRIPT ansible-playbook /build/image/root ansible-playbook -c chroot -i /build/vmdb/07/inventory --tags base -e {"number":3,"rootfs_tarball":null,"suite":"out.img"} /build/vmdb/07/playbook/site.yml
              end processes in /build/image/root
            finish in -
              trim
            output image raw out.img
            package ansible
        "#]],
    );
}

#[test]
fn grub_for_bios_and_uefi() {
    check_tail(
        "  - grub: bios\n    tag: root\n    console: serial\n",
        &[],
        expect![[r#"
            07-grub-mount in /build/image/root
              mkdir /build/image/root/proc 755
              mkdir /build/image/root/dev 755
              mkdir /build/image/root/sys 755
            07-grub in /build/image/root network
              bound /proc -> /build/image/root/proc
              bound /dev -> /build/image/root/dev
              bound /dev/pts -> /build/image/root/dev/pts
              bound /sys -> /build/image/root/sys
              run [step 7 (grub): links by UUID] sh -c SCRIPT "links by UUID" <uuid.fs-root> <device.root>
              run [step 7 (grub): apt-get update] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get update" /build/image/root chroot /build/image/root apt-get update
              run [step 7 (grub): install GRUB] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "install GRUB" /build/image/root chroot /build/image/root apt-get -y --no-show-progress install grub-pc
              run [step 7 (grub): configure GRUB] sh -c SCRIPT "configure GRUB" /build/image/root "biosdevname=0 net.ifnames=0 consoleblank=0 rw loglevel=3 console=tty0 console=ttyS0,115200n8 systemd.show_status=true" 0 serial
              run [step 7 (grub): grub-mkconfig] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT grub-mkconfig /build/image/root chroot /build/image/root grub-mkconfig -o /boot/grub/grub.cfg
              run [step 7 (grub): grub-install] sh -c SCRIPT grub-install /build/image/root chroot /build/image/root sh -c SCRIPT grub-install i386-pc <device.image>
              end processes in /build/image/root
            finish in -
              trim
            output image raw out.img
        "#]],
    );
    let uefi = "steps:
  - {mkimg: x.img, size: 1G}
  - {mklabel: gpt, device: x.img}
  - {mkpart: ESP, device: x.img, start: 1MiB, end: 200MiB, tag: efi, fs-type: fat32}
  - {mkpart: root, device: x.img, start: 200MiB, end: 100%, tag: root}
  - {kpartx: x.img}
  - {mkfs: vfat, partition: efi}
  - {mkfs: ext4, partition: root}
  - {mount: root}
  - {grub: uefi, tag: root, efi: efi, image-dev: x.img, quiet: true, timeout: 2,
     kernel-params: [rw]}
  - {chroot: root, shell: ls /boot/efi}
";
    check_with(
        uefi,
        &[],
        |_| (),
        expect![[r#"
            disk scratch Scratch Bytes(68719476736)
            disk image Target Bytes(1073741824)
            01-mkimg in -
            02-mklabel in -
              make table-image Gpt
                efi Some(1048576) EndAt(209715200) type EF00 boot false primary true
                root Some(209715200) EndAt(1072693248) type 8300 boot false primary true
            06-mkfs in -
              make fs-efi Filesystem(Filesystem { base: "efi", fstype: "vfat", label: None, uuid: None, options: [] })
            07-mkfs in -
              make fs-root Filesystem(Filesystem { base: "root", fstype: "ext4", label: None, uuid: None, options: ["-O", "^large_dir,^metadata_csum_seed"] })
            08-mount in -
              make mount-root Mount(Mount { base: "fs-root", mount_point: "/root", fstab: None })
            09-grub-mount in /build/image/root
              mkdir /build/image/root/proc 755
              mkdir /build/image/root/dev 755
              mkdir /build/image/root/sys 755
              mkdir /build/image/root/boot/efi 755
              make mount-efi Mount(Mount { base: "fs-efi", mount_point: "/root/boot/efi", fstab: None })
            09-grub in /build/image/root network
              bound /proc -> /build/image/root/proc
              bound /dev -> /build/image/root/dev
              bound /dev/pts -> /build/image/root/dev/pts
              bound /sys -> /build/image/root/sys
              run [step 9 (grub): links by UUID] sh -c SCRIPT "links by UUID" <uuid.fs-efi> <device.efi> <uuid.fs-root> <device.root>
              run [step 9 (grub): apt-get update] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "apt-get update" /build/image/root chroot /build/image/root apt-get update
              run [step 9 (grub): install GRUB] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT "install GRUB" /build/image/root chroot /build/image/root apt-get -y --no-show-progress install grub-efi-amd64
              run [step 9 (grub): configure GRUB] sh -c SCRIPT "configure GRUB" /build/image/root "rw quiet systemd.show_status=false rd.systemd.show_status=false" 2 ""
              run [step 9 (grub): grub-mkconfig] DEBIAN_FRONTEND=noninteractive sh -c SCRIPT grub-mkconfig /build/image/root chroot /build/image/root grub-mkconfig -o /boot/grub/grub.cfg
              run [step 9 (grub): grub-install] sh -c SCRIPT grub-install /build/image/root chroot /build/image/root sh -c SCRIPT grub-install x86_64-efi <device.image>
              end processes in /build/image/root
            10-chroot in /build/image/root network
              run [step 10 (chroot): links by UUID] sh -c SCRIPT "links by UUID" <uuid.fs-efi> <device.efi> <uuid.fs-root> <device.root>
              run [step 10 (chroot): shell in the image] sh -c SCRIPT "shell in the image" /build/image/root chroot /build/image/root sh -ec "ls /boot/efi"
              end processes in /build/image/root
            finish in -
              trim
            output image raw x.img
        "#]],
    );
}

#[test]
fn resize_rootfs_installs_a_service() {
    check_tail(
        "  - resize-rootfs: root\n",
        &[],
        expect![[r#"
        07-resize-rootfs in /build/image/root
          run [step 7 (resize-rootfs): look for parted] sh -c "[ -e \"$1/sbin/parted\" ] || { echo 'resize-rootfs needs parted in the image' >&2; exit 1; }" sh /build/image/root
          upload to /build/image/root
            etc/systemd/system/resize-rootfs.service: text 644 348 bytes
            usr/sbin/resize-rootfs: text 755 750 bytes
          mkdir /build/image/root/etc/systemd/system/systemd-remount-fs.service.requires 755
          link /build/image/root/etc/systemd/system/systemd-remount-fs.service.requires/resize-rootfs.service to /etc/systemd/system/resize-rootfs.service
        finish in -
          trim
        output image raw out.img
    "#]],
    );
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "steps:
  - mkimg: \"{{ output }}\"
    size: 4
  - mkpart: primary
    device: \"{{ output }}\"
    strat: 0%
    end: 100%
  - mkfz: ext4
  - apt: update
    packages: less
    unless: 1
  - chroot: root
    shell: x
    colour: red
  - 12
stepz: []
";
    check_with(
        text,
        &[],
        |_| (),
        expect![[r#"
            spec.vmdb:3:11: step 1 (mkimg): the key `size` is an integer (4), but must be a string
              3 |     size: 4
                |           ^
              hint: put the value in quotes
            spec.vmdb:4:5: step 2 (mkpart): lacks the key `start`
              4 |   - mkpart: primary
                |     ^
            spec.vmdb:6:5: step 2 (mkpart): unknown key `strat`
              6 |     strat: 0%
                |     ^
              hint: did you mean `start`?; `--lenient` takes the spec as vmdb2 does, and only warns
            spec.vmdb:8:5: step 3: no step has the keys `mkfz`
              8 |   - mkfz: ext4
                |     ^
              hint: did you mean `mkfs`?
            spec.vmdb:9:5: step 4 (apt): lacks the key `tag`
              9 |   - apt: update
                |     ^
            spec.vmdb:9:10: step 4 (apt): the key `apt` is `update`
              9 |   - apt: update
                |          ^
              hint: the one operation is `install`
            spec.vmdb:10:15: step 4 (apt): the key `packages` is a string ('less'), but must be a list
              10 |     packages: less
                 |               ^
            spec.vmdb:11:13: step 4 (apt): the key `unless` is an integer (1), but must be a flag or a list of flags
              11 |     unless: 1
                 |             ^
            spec.vmdb:14:5: step 5 (chroot): unknown key `colour`
              14 |     colour: red
                 |     ^
              hint: the keys are `chroot`, `shell`, `unless`; `--lenient` takes the spec as vmdb2 does, and only warns
            spec.vmdb:15:5: step 6: is an integer, but must be a mapping
              15 |   - 12
                 |     ^
            spec.vmdb:16:1: unknown key 'stepz'
              16 | stepz: []
                 | ^
              hint: a spec has the one key `steps`; `--lenient` takes the spec as vmdb2 does, and only warns"#]],
    );
    let text = "steps:
  - {mkimg: out.img, size: 1G}
  - {mklabel: gpt, device: out.img}
  - {mkpart: a, device: out.img, start: 0%, end: 50%, tag: root}
  - {mkpart: b, device: out.img, start: 40%, end: 100%, tag: data}
  - {mkpart: c, device: out.img, start: 60%, end: 100%, tag: late}
  - {mkpart: d, device: out.img, start: 50%, end: 55%, tag: early}
  - {set_part_flag: out.img, tag: late, flag: lba}
  - {mkfs: ext4, partition: data}
  - {mkfs: ext4, partition: roott}
  - {mount: root}
  - {grub: ieee1275, tag: root}
  - {copy-file: /x, src: nothing}
  - {chroot: other, shell: x, unless: rootfs_unpackt}
";
    check_with(
        text,
        &[],
        |_| (),
        expect![[r#"
            spec.vmdb:5:41: step 4 (mkpart): `40% 100%` (sectors 838860 to 2097151) overlaps the partition `root`
              5 |   - {mkpart: b, device: out.img, start: 40%, end: 100%, tag: data}
                |                                         ^
            spec.vmdb:8:47: step 7 (set_part_flag): the label of `out.img` has no flag `lba`
              8 |   - {set_part_flag: out.img, tag: late, flag: lba}
                |                                               ^
            spec.vmdb:10:29: step 9 (mkfs): there is no tag `roott` at this step
              10 |   - {mkfs: ext4, partition: roott}
                 |                             ^
              hint: did you mean `root`?
            spec.vmdb:11:13: step 10 (mount): `root` has no filesystem at this step
              11 |   - {mount: root}
                 |             ^
              hint: `mkfs` with `partition: root`
            spec.vmdb:12:12: step 11 (grub): there is no GRUB of this flavor for amd64
              12 |   - {grub: ieee1275, tag: root}
                 |            ^
            spec.vmdb:14:14: step 13 (chroot): there is no tag `other` at this step
              14 |   - {chroot: other, shell: x, unless: rootfs_unpackt}
                 |              ^
              hint: the tags are `root`, `late`, `early`
            spec.vmdb:14:39: step 13 (chroot): no step sets the flag `rootfs_unpackt`
              14 |   - {chroot: other, shell: x, unless: rootfs_unpackt}
                 |                                       ^
              hint: the one flag is `rootfs_unpacked`; `--lenient` takes the spec as vmdb2 does, and only warns"#]],
    );
}

#[test]
fn lenient_warns_of_unknown_keys() {
    let text = "steps:\n  - echo: x\n    colour: red\n";
    let prepared = try_prepare(text, &[], |options| options.lenient = true).unwrap();
    let warnings: Vec<String> =
        prepared.lowered.warnings.iter().map(|w| w.show(&prepared.source)).collect();
    expect![[r#"
        spec.vmdb:3:5: step 1 (echo): unknown key `colour`
          3 |     colour: red
            |     ^
          hint: the keys are `echo`, `teardown`, `unless`"#]]
    .assert_eq(&warnings.join("\n"));
}
