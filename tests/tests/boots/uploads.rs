//! File uploads: files arrive as in the plan, whatever their type and the bytes of their names.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use plan::{Context, DeviceKind, FileSource, Step, UnixPath, Upload, UploadEntry, UploadKind};

use crate::{
    harness::ground,
    plans::{path, plan, sh, stage},
};

/// A name that needs an extra record in the archive, and is not UTF-8 from its first byte on.
fn long_name() -> Vec<u8> {
    [b"\xff\xe9".as_slice(), &[b'n'; 200]].concat()
}

fn entries() -> Vec<UploadEntry> {
    let entry =
        |name: &[u8], kind| UploadEntry { path: UnixPath::new(OsStr::from_bytes(name)), kind };
    let text = |mode, text: &str| UploadKind::File { mode, source: FileSource::Text(text.into()) };
    let link = |target: &[u8]| UploadKind::Symlink(UnixPath::new(OsStr::from_bytes(target)));
    vec![
        entry(b"tmp", UploadKind::Directory(0o1777)),
        entry(b"tmp/tool", text(0o4755, "setuid")),
        entry(b"caf\xe9", text(0o640, "latin")),
        entry(&long_name(), text(0o644, "long")),
        entry(b"null", link(b"/dev/null")),
        entry(b"up", link(b"..")),
        entry(b"self", link(b".")),
        entry(b"odd", link(b"a//./b/")),
        entry(b"far", link(&[b"/".as_slice(), &[b't'; 300]].concat())),
        entry(b"latin", link(b"caf\xe9")),
        entry(b"pipe", UploadKind::Fifo(0o620)),
        entry(
            b"zero",
            UploadKind::Device { mode: 0o666, kind: DeviceKind::Character, major: 1, minor: 5 },
        ),
        entry(
            b"disk",
            UploadKind::Device { mode: 0o660, kind: DeviceKind::Block, major: 253, minor: 1000 },
        ),
    ]
}

const LOOK: &str = r#"cd /build/here
is() { [ "$1" = "$2" ] || { echo "$1 is not $2" >&2; exit 1; }; }
is "$(stat -c '%F %a' tmp)" 'directory 1777'
is "$(stat -c '%F %a %u' tmp/tool)" 'regular file 4755 0'
is "$(cat "$(printf 'caf\351')")" latin
is "$(cat latin)" latin
is "$(cat "$(printf '\377\351')"n*)" long
is "$(printf %s "$(printf '\377\351')"n* | wc -c)" 202
is "$(readlink null)" /dev/null
is "$(readlink up)" ..
is "$(readlink self)" .
is "$(readlink odd)" a//./b/
is "$(readlink far | wc -c)" 302
is "$(stat -c '%F %a' pipe)" 'fifo 620'
is "$(stat -c '%F %a %t %T' zero)" 'character special file 666 1 5'
is "$(stat -c '%F %a %t %T' disk)" 'block special file 660 fd 3e8'
is "$(ls -A | wc -l)" 12
echo all arrived"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_file_arrives_as_it_is() {
    let Some(ground) = ground("every_kind_of_file_arrives_as_it_is") else { return };
    let upload = Upload { what: "a tree".into(), to: path("/build/here"), entries: entries() };
    let steps = vec![Step::Upload(upload), sh("look", LOOK)];
    let plan = plan(vec![stage("uploads", Context::default(), steps)]);
    // The plan is executed from its serialized form.
    let json = serde_json::to_string(&plan).unwrap();
    let plan: plan::Plan = serde_json::from_str(&json).unwrap();
    if let Err(error) = vbuild::build(&plan, &ground.settings, &ground.ctx).await {
        panic!("{}: {:#?}", error.source, ground.recorder.lines());
    }
    assert!(ground.recorder.lines().contains(&"all arrived".to_owned()));
}
