//! Byte streams between host and guest beside the agent's.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use machine::ConnectDecision;
use session::ChildEvent;
use tests::command;

use crate::harness::ground;

/// Parallel connections in each direction.
const CONNECTIONS: usize = 200;
/// Bytes sent to the guest and back in one stream.
const BULK_BYTES: usize = 16 << 20;
/// The echo ports of guest and host.
const GUEST_PORT: u32 = 5000;
const HOST_PORT: u32 = 6000;

/// Echoes everything, with one thread per connection.
const ECHO: &str = r#"
import socket, threading
server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
server.bind((socket.VMADDR_CID_ANY, 5000))
server.listen(256)
print("ready", flush=True)
def serve(stream):
    while data := stream.recv(65536):
        stream.sendall(data)
    stream.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"#;

/// Opens all connections before using the first.
const CLIENTS: &str = r#"
import socket
streams = []
for number in range(200):
    stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    stream.connect((2, 6000))
    streams.append(stream)
for number, stream in enumerate(streams):
    stream.sendall(b"%04d" % number * 1000)
for number, stream in enumerate(streams):
    wanted, got = b"%04d" % number * 1000, b""
    while len(got) < len(wanted):
        data = stream.recv(65536)
        assert data, "closed early"
        got += data
    assert got == wanted, number
refused = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
try:
    refused.connect((2, 6001))
    print("a refused port was open")
except OSError:
    print("all right")
"#;

fn echo(mut stream: UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len) = stream.read(&mut buffer) {
        if len == 0 || stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Sends bytes on one thread and checks the echo on another.
fn there_and_back(stream: UnixStream, bytes: usize, seed: usize) {
    let pattern = move |n: usize| u8::try_from((n * 31 + n / 4096 + seed) % 251).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let all: Vec<u8> = (0..bytes).map(pattern).collect();
        writer.write_all(&all).unwrap();
    });
    let mut reader = stream;
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    while done < bytes {
        let len = reader.read(&mut buffer).unwrap();
        assert!(len > 0, "the stream ended after {done} bytes");
        let fits = buffer[..len].iter().zip(done..).all(|(byte, n)| *byte == pattern(n));
        assert!(fits, "the bytes after {done} differ");
        done += len;
    }
    sender.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_and_two_hundred_connections_each_way() {
    let Some(ground) = ground("bulk_and_two_hundred_connections_each_way") else { return };
    let mut prepared = ground.prepare("streams", Vec::new()).await;
    prepared.spec.on_guest_connect = Arc::new(|request| {
        if request.port != HOST_PORT {
            return ConnectDecision::Refuse;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || echo(ours));
        ConnectDecision::Accept(theirs)
    });
    let session = prepared.must_boot().await;
    let mut server = command(&session, &["python3", "-c", ECHO]).spawn().await.unwrap();
    loop {
        match server.next().await.unwrap() {
            ChildEvent::Output(_, bytes) if bytes.starts_with(b"ready") => break,
            ChildEvent::Output(_, bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
            ChildEvent::Exited(exited) => panic!("{exited:?}"),
        }
    }
    let machine = session.machine();
    let bulk = machine.connect(GUEST_PORT).await.unwrap();
    tokio::task::spawn_blocking(move || there_and_back(bulk, BULK_BYTES, 0)).await.unwrap();
    // All are opened before the first is used.
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(machine.connect(GUEST_PORT).await.unwrap());
    }
    let tasks: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(seed, stream)| {
            tokio::task::spawn_blocking(move || there_and_back(stream, 8192, seed))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let output = command(&session, &["python3", "-c", CLIENTS]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.trim(), "all right", "{}", String::from_utf8_lossy(&output.stderr));
    session.shutdown(false).await.unwrap();
}
