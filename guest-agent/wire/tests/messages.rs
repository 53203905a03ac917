//! Requests and replies as JSON: what is on the wire is pinned, as both ends of
//! one version must agree on it.

use wire::{
    BlockDevice, CrashKind, ENTROPY_BYTES, ExitStatus, Failure, FileKind, FileOperation, FileStat,
    Frame, MountEntry, MountSpec, Reply, Request, Spawn, Stdin, TerminalSize,
};

fn text(string: &str) -> String {
    string.to_owned()
}

fn full_spawn() -> Spawn {
    Spawn {
        argv: vec![text("sh"), text("-c")],
        env: vec![(text("A"), text("1"))],
        cwd: text("/"),
        root: Some(text("/mnt")),
        stdin: Stdin::Stream,
        merge_stderr: true,
        terminal: Some(TerminalSize { rows: 24, columns: 80 }),
        timeout_ms: Some(u64::MAX),
        ignore_sync: true,
    }
}

fn requests() -> Vec<Request> {
    let (root, path) = (text("/"), text("/x"));
    let paths = vec![path.clone()];
    vec![
        Request::Hello { version: 1, clock_unix_ns: u64::MAX, entropy: [7; ENTROPY_BYTES] },
        Request::Spawn(full_spawn()),
        Request::Spawn(Spawn::default()),
        Request::Resize { stream: 7, size: TerminalSize { rows: 1, columns: 2 } },
        Request::PutFile { root: root.clone(), path: path.clone(), mode: 0o644 },
        Request::GetFile { root: root.clone(), path: path.clone(), max_bytes: 1 },
        Request::PutTar { root: root.clone(), path: path.clone() },
        Request::GetTar { root: root.clone(), path: path.clone(), exclude: paths.clone() },
        Request::File(FileOperation::Stat { root: root.clone(), path: path.clone() }),
        Request::File(FileOperation::Symlink { root, path: path.clone(), target: text("ü\n") }),
        Request::BlockDevices {},
        Request::BlockWrite { device: path.clone(), offset: 1 << 40 },
        Request::BlockReread { device: path.clone() },
        Request::Mount(MountSpec {
            source: text("tmpfs"),
            target: text("/tmp"),
            fstype: text("tmpfs"),
            options: vec![text("nosuid")],
        }),
        Request::Unmount { path, lazy: false },
        Request::Mounts {},
        Request::Sync {},
        Request::Freeze { paths: paths.clone() },
        Request::Thaw { paths },
        Request::NetworkUp {},
        Request::Unpark { count: 1 },
        Request::Shutdown { clean: true },
        Request::Crash { how: CrashKind::KernelPanic },
    ]
}

fn replies() -> Vec<Reply> {
    let device = BlockDevice {
        path: text("/dev/vda1"),
        serial: text("root"),
        partition: Some(1),
        bytes: 1 << 40,
    };
    let stat = FileStat { kind: FileKind::Symlink, mode: 0o777, link: Some(text("a/b")) };
    let mount = MountEntry {
        source: text("/dev/vda1"),
        root: text("/"),
        target: text("/mnt"),
        fstype: text("ext4"),
        options: text("rw"),
        device: text("254:1"),
    };
    let failure = Failure { action: text("open `/x`"), reason: text("no"), errno: Some(2) };
    vec![
        Reply::Hello { version: 1, kernel: text("6.1"), uptime_us: 5 },
        Reply::Done {},
        Reply::Started { pid: 7 },
        Reply::Exited { status: ExitStatus::Code(0), cpu_ms: 1 },
        Reply::Exited { status: ExitStatus::Signal(9), cpu_ms: 1 },
        Reply::Exited { status: ExitStatus::TimedOut, cpu_ms: 1 },
        Reply::BlockDevices { devices: vec![device] },
        Reply::Mounts { mounts: vec![mount] },
        Reply::Stat { stat: None },
        Reply::Entries { entries: vec![(text("x"), stat)] },
        Reply::Usage { kib: 4 },
        Reply::Failed(failure),
    ]
}

#[test]
fn every_message_survives_a_frame() {
    for request in requests() {
        let frame = Frame::request(1, &request).unwrap();
        assert_eq!(frame.as_request().unwrap(), request);
        assert!(frame.as_reply().is_err(), "a request is no reply");
    }
    for reply in replies() {
        let frame = Frame::reply(1, &reply).unwrap();
        assert_eq!(frame.as_reply().unwrap(), reply);
        assert!(frame.as_request().is_err(), "a reply is no request");
        assert!(frame.as_credit().is_err());
        assert_eq!(reply.is_final(), !matches!(reply, Reply::Started { .. }));
    }
}

#[test]
fn the_json_is_pinned() {
    let json =
        |request: &Request| String::from_utf8(Frame::request(1, request).unwrap().payload).unwrap();
    assert_eq!(json(&Request::Sync {}), r#"{"verb":"sync"}"#);
    let stat = FileOperation::Stat { root: text("/"), path: text("x") };
    assert_eq!(json(&Request::File(stat)), r#"{"verb":"file","op":"stat","root":"/","path":"x"}"#);
    let expected = concat!(
        r#"{"verb":"spawn","argv":["sh","-c"],"env":[["A","1"]],"cwd":"/","root":"/mnt","#,
        r#""stdin":"stream","merge_stderr":true,"#,
        r#""terminal":{"rows":24,"columns":80},"timeout_ms":18446744073709551615,"#,
        r#""ignore_sync":true}"#,
    );
    assert_eq!(json(&Request::Spawn(full_spawn())), expected);
    let reply = Reply::Exited { status: ExitStatus::Code(3), cpu_ms: 4 };
    let payload = Frame::reply(1, &reply).unwrap().payload;
    let expected = br#"{"reply":"exited","status":{"code":3},"cpu_ms":4}"#;
    assert_eq!(payload, expected);
}

#[test]
fn unknown_verbs_fields_and_rubbish_are_refused() {
    let parse = |json: &str| {
        let mut frame = Frame::request(1, &Request::Sync {}).unwrap();
        frame.payload = json.as_bytes().to_vec();
        frame.as_request()
    };
    assert_eq!(parse(r#"{"verb":"sync"}"#).unwrap(), Request::Sync {});
    let refused = [
        r#"{"verb":"ping"}"#,
        r#"{"verb":"sync","extra":1}"#,
        r#"{"verb":"resize","stream":1}"#,
        r#"{"verb":"resize","stream":-1,"size":{"rows":1,"columns":1}}"#,
        "{}",
        "[]",
        "",
        "\u{0}",
        r#"{"verb":"sync"} {}"#,
    ];
    for json in refused {
        assert!(parse(json).is_err(), "{json:?}");
    }
    let deep = "[".repeat(100_000);
    assert!(parse(&deep).is_err(), "nesting is bounded");
}

#[test]
fn a_header_over_the_limit_is_not_made() {
    let spawn = Spawn { cwd: "x".repeat(wire::HEADER_MAX_BYTES), ..Spawn::default() };
    let error = Frame::request(1, &Request::Spawn(spawn)).unwrap_err();
    assert!(error.to_string().contains("over the limit"), "{error}");
}
