//! Redirects TCP: every connection of the guest that does not go to the guest itself is accepted by
//! one listener and forwarded through the egress channel.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use name_service::Names;
use nix::sys::socket::{setsockopt, sockopt};
use vsock::VsockStream;
use wire::Failure;
use wire::egress::{Request, VERSION};

use super::egress::ask;
use super::{ADDRESS, THREAD_STACK_BYTES};
use crate::console::say;
use crate::failure::Doing;
use crate::sys::{self, Instruction};

/// The maximum number of bytes copied at once: what one vsock packet carries.
const COPY_BYTES: usize = 64 * 1024;

/// The maximum number of open connections, each with two threads; more are reset. Package managers
/// and browsers use a dozen.
const CONNECTIONS_MAX: usize = 1024;

/// The maximum number of different lines about refusals: a script that retries for ever must not
/// fill the console.
const LINES_MAX: usize = 100;

/// The pause after a failed accept. It fails if no descriptors are left; some become free when a
/// connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Writes a line to the console, unless it was written before.
pub(super) fn say_once(line: &str) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let said = said.get_or_insert_default();
    if said.len() < LINES_MAX && said.insert(line.to_owned()) {
        say(line);
    }
}

/// Redirects new connections to the listener, as long as the returned descriptor is open.
pub(super) fn install(listener: &TcpListener) -> Result<OwnedFd, Failure> {
    let install = || -> nix::Result<OwnedFd> {
        let map = sys::bpf_socket_map()?;
        sys::bpf_put_socket(&map, listener)?;
        let program = sys::bpf_load_socket_lookup(&lookup_program(), &map)?;
        let namespace = std::fs::File::open("/proc/self/ns/net")
            .map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        sys::bpf_attach_socket_lookup(&program, &namespace)
    };
    install().doing(|| "redirect connections to the agent")
}

/// Returns the program that chooses the socket for a new connection:
///
/// ```text
/// if it is TCP over IPv4, and not to 127.0.0.0/8 or to our own address:
///     socket = map[0]
///     if there is one: take it
/// go on as usual
/// ```
fn lookup_program() -> Vec<Instruction> {
    // Offsets of fields in `struct bpf_sk_lookup`.
    const FAMILY: i16 = 8;
    const PROTOCOL: i16 = 12;
    const LOCAL_ADDRESS: i16 = 40;
    let own = i32::from_ne_bytes(ADDRESS.octets());
    let first_byte = i32::from_ne_bytes([0xff, 0, 0, 0]);
    let loopback = i32::from_ne_bytes([127, 0, 0, 0]);
    let i = |code, dst_src, offset, value| Instruction { code, dst_src, offset, value };
    let (load, and, jump_eq, jump_ne) = (0x61, 0x57, 0x15, 0x55);
    let (copy, add, set, store, call, exit) = (0xbf, 0x07, 0xb7, 0x62, 0x85, 0x95);
    vec![
        i(copy, 0x16, 0, 0),                     // r6 = context
        i(load, 0x12, PROTOCOL, 0),              // r2 = protocol
        i(jump_ne, 0x02, 20, libc::IPPROTO_TCP), // not TCP: leave
        i(load, 0x12, FAMILY, 0),                // r2 = family
        i(jump_ne, 0x02, 18, libc::AF_INET),     // not IPv4: leave
        i(load, 0x12, LOCAL_ADDRESS, 0),         // r2 = address
        i(jump_eq, 0x02, 16, own),               // our own: leave
        i(and, 0x02, 0, first_byte),
        i(jump_eq, 0x02, 14, loopback), // 127.0.0.0/8: leave
        i(store, 0x0a, -4, 0),          // key = 0, on the stack
        i(copy, 0xa2, 0, 0),            // r2 = &key
        i(add, 0x02, 0, -4),
        sys::MAP_LOW, // r1 = map (two instructions)
        sys::MAP_HIGH,
        i(call, 0x00, 0, 1),    // r0 = bpf_map_lookup_elem(r1, r2)
        i(jump_eq, 0x00, 7, 0), // nothing there: leave
        i(copy, 0x07, 0, 0),    // r7 = socket
        i(copy, 0x61, 0, 0),    // r1 = context
        i(copy, 0x72, 0, 0),    // r2 = socket
        i(set, 0x03, 0, 0),     // r3 = no flags
        i(call, 0x00, 0, 124),  // bpf_sk_assign(r1, r2, r3)
        i(copy, 0x71, 0, 0),    // r1 = socket
        i(call, 0x00, 0, 86),   // bpf_sk_release(r1)
        i(set, 0x00, 0, 1),     // leave: pass
        i(exit, 0x00, 0, 0),
    ]
}

/// Serves connections for ever.
pub(super) fn run(listener: &TcpListener, names: &Arc<Names>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((client, _)) = listener.accept() else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            reset(client);
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (names, counted) = (Arc::clone(names), Arc::clone(&open));
        let started = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
            serve(client, &names);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Ends a connection so that the client sees "connection reset".
fn reset(client: TcpStream) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(&client, sockopt::Linger, &now);
    drop(client);
}

fn serve(client: TcpStream, names: &Names) {
    // The local address of the socket is the destination that the client meant.
    let Ok(SocketAddr::V4(meant)) = client.local_addr() else { return reset(client) };
    if *meant.ip() == Ipv4Addr::LOCALHOST {
        // A client has connected to the listener's own port.
        return reset(client);
    }
    let host = names.host_of(*meant.ip());
    let request = Request::Connect { v: VERSION, host: host.clone(), port: meant.port() };
    match ask(&request) {
        Ok(channel) => {
            if copy_both(&client, &channel).is_err() {
                reset(client);
            }
        }
        Err(refusal) => {
            let port = meant.port();
            say_once(&format!("network: {host}:{port} is refused: {}", refusal.message));
            reset(client);
        }
    }
}

/// Copies both ways until both have ended. The end of each direction is passed on separately.
fn copy_both(client: &TcpStream, channel: &VsockStream) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    thread::scope(|scope| {
        let inward =
            thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn_scoped(scope, || {
                let copied = copy(&mut &*channel, &mut &*client);
                let how = if copied.is_ok() { Shutdown::Write } else { Shutdown::Both };
                let _ = client.shutdown(how);
                copied
            })?;
        let copied = copy(&mut &*client, &mut &*channel);
        let how = if copied.is_ok() { Shutdown::Write } else { Shutdown::Both };
        let _ = channel.shutdown(how);
        let inward = inward.join().unwrap_or_else(|_| Err(io::Error::other("a panic")));
        copied.and(inward)
    })
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_of_the_program_lead_to_its_end() {
        let program = lookup_program();
        let leave = program.len() - 2;
        for (index, instruction) in program.iter().enumerate() {
            if matches!(instruction.code, 0x15 | 0x55) {
                let target = index + 1 + usize::try_from(instruction.offset).unwrap();
                assert_eq!(target, leave, "the jump at {index}");
            }
        }
    }
}
