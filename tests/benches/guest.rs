//! Benchmarks of a guest: the hello, processes started by the agent, bulk transfer over vsock.
//!
//! Prints figures without assertions, because they depend on the machine and its load. `sh
//! tests/bench/run.sh` builds what is needed, runs this, and adds the figures of other tools.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::time::Instant;

use session::{ChildEvent, Session};
use tests::command;
use wire::ExitStatus;

#[path = "../tests/boots/harness.rs"]
#[expect(dead_code, reason = "the harness serves the tests that boot; this takes one part of it")]
mod harness;

/// Number of processes started in sequence.
const SPAWNS: u32 = 1000;

/// MiB sent in each direction.
const BULK_MIB: u32 = 256;

async fn spawns(session: &Session) {
    let started = Instant::now();
    for _ in 0..SPAWNS {
        let output = command(session, &["/bin/true"]).output().await.unwrap();
        assert_eq!(output.status, ExitStatus::Code(0));
    }
    let each = started.elapsed().as_secs_f64() * 1000.0 / f64::from(SPAWNS);
    println!("{SPAWNS} times /bin/true through the agent: {each:.2} ms each (goal 15)");
}

async fn from_guest(session: &Session) {
    let bytes = (u64::from(BULK_MIB) << 20).to_string();
    let started = Instant::now();
    let mut child = command(session, &["head", "-c", &bytes, "/dev/zero"]).spawn().await.unwrap();
    let mut seen = 0_u64;
    while let ChildEvent::Output(_, data) = child.next().await.unwrap() {
        seen += data.len() as u64;
    }
    assert_eq!(seen, u64::from(BULK_MIB) << 20);
    report("guest to host", started);
}

async fn to_guest(session: &Session) {
    let started = Instant::now();
    let bytes = (u64::from(BULK_MIB) << 20).to_string();
    let words =
        ["dd", "of=/dev/null", "bs=1M", "iflag=fullblock,count_bytes", &format!("count={bytes}")];
    let mut child = command(session, &words).pipe_stdin().spawn().await.unwrap();
    let input = child.take_input().expect("a standard input");
    let block = vec![0_u8; 1 << 20];
    for _ in 0..BULK_MIB {
        assert!(input.send(&block).await, "the guest reads on");
    }
    input.end().await;
    while let ChildEvent::Output(..) = child.next().await.unwrap() {}
    report("host to guest", started);
}

fn report(way: &str, started: Instant) {
    let rate = f64::from(BULK_MIB) / started.elapsed().as_secs_f64();
    println!("{BULK_MIB} MiB {way}, through a process's pipe: {rate:.0} MiB/s (goal 100)");
}

#[tokio::main]
async fn main() {
    let Some(ground) = harness::ground("bench") else { return };
    let started = Instant::now();
    let (session, _dir) = ground.boot().await;
    println!("boot to the agent's hello: {:.2} s", started.elapsed().as_secs_f64());
    spawns(&session).await;
    from_guest(&session).await;
    to_guest(&session).await;
    session.shutdown(true).await.unwrap();
}
