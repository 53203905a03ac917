//! vmdb2 specs in real guests. They install no Debian, so each takes seconds; `tests/vmdb.sh`
//! builds and boots those that do.

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use session::Session;

use vmdb::{Options, Prepared, prepare};
use wire::ExitStatus;

use crate::harness::{Ground, ground};

/// The folder of the specs.
fn specs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vmdb")
}

fn prepared(ground: &Ground, spec: &str, tarball: Option<&Path>) -> Prepared {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let options = Options {
        spec: text(&specs().join(spec)),
        output: Some(text(&ground.path("out.img"))),
        rootfs_tarball: tarball.map(text),
        variables: vec!["word=a variable".into()],
        shares_folder: true,
        compress: true,
        arch: "amd64".into(),
        directory: ground.dir.path().to_owned(),
        ..Options::default()
    };
    prepare(&options, &mut std::io::empty()).unwrap_or_else(|error| panic!("{error}"))
}

async fn build(ground: &Ground, prepared: &Prepared) {
    let plan = &prepared.lowered.plan;
    if let Err(error) = vbuild::build(plan, &ground.settings, &ground.ctx).await {
        panic!("{error:?}\n{}", ground.recorder.lines().join("\n"));
    }
}

/// The output of a script in a guest that has the image as `$D`.
async fn look(session: &Session, script: &str) -> String {
    let find = "for D in /sys/block/vd*; do \
                [ \"$(cat $D/serial)\" = image ] && break; done; D=/dev/${D##*/}; mkdir -p /run/at\n";
    let command = tests::command(session, &["sh", "-euc", &format!("{find}{script}")]);
    let output = command.envs([("DM_DISABLE_UDEV", "1")]).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status, ExitStatus::Code(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The files of an archive: mode, owner, group, and content or link target.
fn files(tar: &Path) -> BTreeMap<String, (u32, u64, u64, String)> {
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let header = entry.header();
        if let Some(link) = header.link_name().unwrap() {
            content = link.display().to_string();
        }
        let mode = header.mode().unwrap() & 0o7777;
        let facts = (mode, header.uid().unwrap(), header.gid().unwrap(), content);
        files.insert(name.trim_start_matches("./").trim_end_matches('/').to_owned(), facts);
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_builds_and_its_tarball_saves_the_second_build_work() {
    let Some(ground) = ground("a_spec_builds_and_its_tarball_saves_the_second_build_work") else {
        return;
    };
    let (image, tarball) = (ground.path("out.img"), ground.path("root.tar"));
    let first = prepared(&ground, "small.vmdb", Some(&tarball));
    build(&ground, &first).await;
    let packed = files(&tarball);
    assert_eq!(packed["etc/motd"], (0o640, 3, 4, "made from a variable".into()));
    assert_eq!(packed["usr/bin/hello"].0, 0o755);
    assert_eq!(packed["srv/link"].3, "deep/one");
    assert!(!packed.contains_key("etc/fstab"), "fstab came after the tarball");
    assert!(!packed.contains_key("etc/resolv.conf"), "it is no part of the tree");

    std::fs::remove_file(&image).unwrap();
    let second = prepared(&ground, "small.vmdb", Some(&tarball));
    let made = |prepared: &Prepared, name: &str| {
        prepared.lowered.plan.stages.iter().any(|stage| stage.name.ends_with(name))
    };
    for skipped in ["create-dir", "create-file", "copy-file", "copy-dir", "cache-rootfs"] {
        assert!(made(&first, skipped) && !made(&second, skipped), "{skipped}");
    }
    build(&ground, &second).await;

    let metadata = std::fs::metadata(&image).unwrap();
    assert_eq!(metadata.len(), 96 << 20);
    assert!(metadata.blocks() * 512 < 16 << 20, "{} blocks of 512 bytes", metadata.blocks());
    let (session, _dir) = ground.boot_with(&image).await;
    let seen = look(
        &session,
        "mount -o ro ${D}2 /run/at; mount -o ro ${D}1 /run/at/boot/efi; cd /run/at
         cat etc/motd; echo; stat -c '%a %u %g' etc/motd; chroot . /nothing 2>/dev/null || true
         readlink srv/link; cat boot/efi/note; ls etc/resolv.conf 2>/dev/null || echo gone
         cat etc/fstab; blkid -o value -s LABEL ${D}1",
    )
    .await;
    let lines: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[..4], ["made from a variable", "640 3 4", "deep/one", "from outside"]);
    // It existed during the step, and is not in the image.
    assert_eq!(lines[4..6], ["resolver", "gone"]);
    let uuid_of = |line: &str| line.starts_with("UUID=");
    assert!(uuid_of(lines[6]) && lines[6].ends_with(" / ext4 defaults 0 1"), "{seen}");
    assert!(uuid_of(lines[7]) && lines[7].ends_with(" /boot/efi vfat defaults 0 1"), "{seen}");
    assert_eq!(lines[8..], ["EFI"]);
    drop(session);
    goes_on(&ground, &image).await;
}

/// `--image`: adopts the content of an existing image.
async fn goes_on(ground: &Ground, image: &Path) {
    let options = |spec: &str| Options {
        spec: specs().join(spec).to_str().unwrap().to_owned(),
        image: Some(image.to_str().unwrap().to_owned()),
        compress: true,
        arch: "amd64".into(),
        directory: ground.dir.path().to_owned(),
        ..Options::default()
    };
    let prepared = prepare(&options("again.vmdb"), &mut std::io::empty()).unwrap();
    build(ground, &prepared).await;
    let (session, _dir) = ground.boot_with(image).await;
    let seen = look(
        &session,
        "mount -o ro ${D}2 /run/at; mount -o ro ${D}1 /run/at/boot/efi; cd /run/at
         cat etc/added; echo; cat etc/motd; echo; cat boot/efi/note etc/fstab",
    )
    .await;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..3], ["later", "made from a variable", "later"]);
    assert!(lines[3].starts_with("UUID=") && lines[3].ends_with(" / ext4 defaults 0 1"), "{seen}");
    assert!(lines[4].ends_with(" /boot/efi vfat defaults 0 1"), "{seen}");
}

const VOLUMES: &str = "steps:
  - {mkimg: \"{{ output }}\", size: 64M}
  - {mklabel: msdos, device: \"{{ output }}\"}
  - {mkpart: primary, device: \"{{ output }}\", start: 0%, end: 100%, tag: pv}
  - {vgcreate: again_vg, physical: [pv]}
  - {lvcreate: again_vg, name: again_root, size: fill}
  - {mkfs: ext4, partition: again_root}
  - {mount: again_root}
  - {create-file: /first, contents: first}
";
const VOLUMES_AGAIN: &str = "steps:
  - {kpartx: \"{{ image }}\"}
  - {lvscan: again_vg, tags: [again_root]}
  - {mount: again_root}
  - {create-file: /second, contents: second}
";

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_an_image_that_exists_are_taken_over() {
    let Some(ground) = ground("volumes_of_an_image_that_exists_are_taken_over") else { return };
    let image = ground.path("out.img");
    let name = image.to_str().unwrap();
    for (text, is_new) in [(VOLUMES, true), (VOLUMES_AGAIN, false)] {
        let options = Options {
            spec: "-".into(),
            output: is_new.then(|| name.to_owned()),
            image: (!is_new).then(|| name.to_owned()),
            arch: "amd64".into(),
            directory: ground.dir.path().to_owned(),
            ..Options::default()
        };
        let prepared = prepare(&options, &mut text.as_bytes()).unwrap();
        build(&ground, &prepared).await;
    }
    let (session, _dir) = ground.boot_with(&image).await;
    let script = "vgchange -ay again_vg >/dev/null; mount -o ro /dev/again_vg/again_root /run/at
                  cat /run/at/first /run/at/second; umount /run/at; vgchange -an again_vg >/dev/null";
    assert_eq!(look(&session, script).await, "firstsecond");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_open_in_another_machine() {
    let Some(ground) = ground("layers_open_in_another_machine") else { return };
    build(&ground, &prepared(&ground, "layers.vmdb", None)).await;
    let (session, _dir) = ground.boot_with(&ground.path("out.img")).await;
    let seen = look(
        &session,
        "cryptsetup luksDump ${D}1 | grep -E '^Version|PBKDF:' | tr -s ' \\t' ' '
         printf asdf | cryptsetup open --key-file - ${D}1 small_crypt
         vgchange -ay small_vg >/dev/null
         lvs --noheadings -o lv_name,vg_name small_vg | sort | tr -s ' '
         mount -o ro /dev/small_vg/small_root /run/at
         mount -o ro /dev/small_vg/small_data /run/at/data
         cat /run/at/data/note; echo; cat /run/at/etc/crypttab; cat /run/at/etc/fstab
         umount -R /run/at; vgchange -an small_vg >/dev/null; cryptsetup close small_crypt",
    )
    .await;
    let lines: Vec<&str> = seen.lines().map(str::trim).collect();
    assert_eq!(
        lines[..5],
        ["Version: 2", "PBKDF: argon2id", "small_data small_vg", "small_root small_vg", "inside"]
    );
    assert!(lines[5].starts_with("small_crypt UUID="), "{seen}");
    assert!(lines[5].ends_with(" none luks,discard"), "{seen}");
    assert!(seen.contains(" / ext4 defaults 0 1") && seen.contains(" /data ext2 "), "{seen}");
}
