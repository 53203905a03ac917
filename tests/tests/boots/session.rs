//! The requests of a session in a real guest.

use std::time::Duration;

use session::{Channel, ChildEvent, CrashKind, ExitStatus, SessionError};
use tests::command;

use crate::harness::ground;

#[tokio::test(flavor = "multi_thread")]
async fn processes_files_and_many_streams() {
    let Some(ground) = ground("processes_files_and_many_streams") else { return };
    let (session, _dir) = ground.boot().await;
    // Exit statuses, signals, both outputs, standard input.
    let output =
        command(&session, &["sh", "-c", "cat; echo err >&2; exit 3"]).input(b"in").output().await;
    let output = output.unwrap();
    assert_eq!(output.status, ExitStatus::Code(3));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"in"[..], &b"err\n"[..]));
    let killed = command(&session, &["sh", "-c", "kill -9 $$"]).output().await.unwrap();
    assert_eq!(killed.status, ExitStatus::Signal(9));
    let slow = command(&session, &["sleep", "600"]).timeout(Duration::from_millis(300));
    assert_eq!(slow.output().await.unwrap().status, ExitStatus::TimedOut);
    assert!(matches!(command(&session, &["no-such"]).spawn().await, Err(SessionError::Guest(_))));
    // A file goes in and comes out, larger than any credit.
    let content: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    session.put_file("/", "/run/big", 0o640, &content).await.unwrap();
    assert_eq!(session.get_file("/", "/run/big", 8 << 20).await.unwrap(), content);
    assert!(session.get_file("/", "/run/big", 1000).await.is_err());
    // A root is not left by links.
    session.symlink("/run", "/escape", "../../etc/passwd").await.unwrap();
    assert!(session.get_file("/run", "/escape", 1 << 20).await.is_err());
    // Fifty commands at once on one connection, one of them flooding.
    let flood = command(&session, &["head", "-c", "20000000", "/dev/zero"]).spawn().await.unwrap();
    let many: Vec<_> = (0..50)
        .map(|n| {
            let session = session.clone();
            tokio::spawn(async move {
                command(&session, &["echo", &n.to_string()]).output().await.unwrap().stdout
            })
        })
        .collect();
    for (n, task) in many.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{n}\n").into_bytes());
    }
    // The flood is read only now; none of it is lost.
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
        (CrashKind::AgentExit, "gone"),
        (CrashKind::KernelPanic, "panicked"),
        (CrashKind::PowerOff, "powered itself off"),
    ] {
        let Some(ground) = ground("a_lost_guest_is_not_a_failed_command") else { return };
        let (session, _dir) = ground.boot().await;
        let child = command(&session, &["sleep", "600"]).spawn().await.unwrap();
        let _ = session.crash(how).await;
        let mut child = child;
        let error = child.next().await.expect_err("the guest is gone");
        assert!(matches!(error, SessionError::Lost { .. }), "{how:?}: {error:?}");
        assert!(error.to_string().contains(word), "{how:?}: {error}");
    }
}
