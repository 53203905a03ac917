//! The verbs of a session in a real guest.

use session::{ChildEvent, SessionError};
use tests::command;
use wire::{Channel, ExitStatus, FileOperation, Request, Spawn};

use crate::harness::ground;

#[tokio::test(flavor = "multi_thread")]
async fn processes_files_and_many_streams() {
    let Some(ground) = ground("processes_files_and_many_streams") else { return };
    let (session, _dir) = ground.boot().await;
    // Exit statuses, signals, both outputs, standard input.
    let output = session.output(command(&["sh", "-c", "cat; echo err >&2; exit 3"]), b"in").await;
    let output = output.unwrap();
    assert_eq!(output.status, ExitStatus::Code(3));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"in"[..], &b"err\n"[..]));
    let killed = session.output(command(&["sh", "-c", "kill -9 $$"]), b"").await.unwrap();
    assert_eq!(killed.status, ExitStatus::Signal(9));
    let slow = Spawn { timeout_ms: Some(300), ..command(&["sleep", "600"]) };
    assert_eq!(session.output(slow, b"").await.unwrap().status, ExitStatus::TimedOut);
    assert!(matches!(session.spawn(command(&["no-such"])).await, Err(SessionError::Guest(_))));
    // A file goes in and comes out, larger than any credit.
    let content: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    session.put_file("/", "/run/big", 0o640, &content).await.unwrap();
    assert_eq!(session.get_file("/", "/run/big", 8 << 20).await.unwrap(), content);
    assert!(session.get_file("/", "/run/big", 1000).await.is_err());
    // A root is not left by links.
    let link = FileOperation::Symlink {
        root: "/run".into(),
        path: "/escape".into(),
        target: "../../etc/passwd".into(),
    };
    session.file(link).await.unwrap();
    assert!(session.get_file("/run", "/escape", 1 << 20).await.is_err());
    // Fifty commands at once on one connection, one of them flooding.
    let flood = session.spawn(command(&["head", "-c", "20000000", "/dev/zero"])).await.unwrap();
    let many: Vec<_> = (0..50)
        .map(|n| {
            let session = session.clone();
            tokio::spawn(async move {
                session.output(command(&["echo", &n.to_string()]), b"").await.unwrap().stdout
            })
        })
        .collect();
    for (n, task) in many.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{n}\n").into_bytes());
    }
    // Only now is the flood read; nothing of it is lost.
    let (mut flood, mut bytes) = (flood, 0);
    while let ChildEvent::Output(channel, data) = flood.next().await.unwrap() {
        assert_eq!(channel, Channel::Stdout);
        bytes += data.len();
    }
    assert_eq!(bytes, 20_000_000);
    session.shutdown(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_guest_is_not_a_failed_command() {
    for (how, word) in [
        (wire::CrashKind::AgentExit, "gone"),
        (wire::CrashKind::KernelPanic, "panicked"),
        (wire::CrashKind::PowerOff, "powered itself off"),
    ] {
        let Some(ground) = ground("a_lost_guest_is_not_a_failed_command") else { return };
        let (session, _dir) = ground.boot().await;
        let child = session.spawn(command(&["sleep", "600"])).await.unwrap();
        let _ = session.request(&Request::Crash { how }).await;
        let mut child = child;
        let error = child.next().await.expect_err("the guest is gone");
        assert!(matches!(error, SessionError::Lost { .. }), "{how:?}: {error:?}");
        assert!(error.to_string().contains(word), "{how:?}: {error}");
    }
}
