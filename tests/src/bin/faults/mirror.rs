//! A mirror that responds correctly, stalls, sends wrong data or breaks off, and that can send
//! orders to scripts.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

/// Interval of checks that end stalled connections after a round.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// Maximum length of a request head.
const HEAD_MAX_BYTES: u64 = 64 << 10;
/// Bytes sent by an endless response: more than any recipe here has room for.
const ENDLESS_BYTES: u64 = 2 << 30;

/// The way in which requests for files are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Honest,
    /// The connection stays open without data after this number of bytes.
    Stalls {
        after: u64,
    },
    /// The connection is closed after this number of bytes, with a reset or without.
    Breaks {
        after: u64,
        reset: bool,
    },
    Lies(Lie),
}

/// The kind of wrong response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The correct length, but other bytes.
    OtherBytes,
    /// Half of the file, declared as the whole.
    TooShort,
    /// The file with additional data.
    TooLong,
    /// An error page with the status of success.
    ErrorPage,
    /// A server error.
    ServerError,
    /// Data that is not HTTP.
    Noise,
    /// An endless response.
    Endless,
}

impl Lie {
    pub(crate) const ALL: [Self; 7] = [
        Self::OtherBytes,
        Self::TooShort,
        Self::TooLong,
        Self::ErrorPage,
        Self::ServerError,
        Self::Noise,
        Self::Endless,
    ];
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Number of file requests answered incorrectly and of orders sent, since the last change of
    /// behaviour.
    misled: AtomicUsize,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    /// Counts changes of the behaviour. Connections that were stalled by an earlier behaviour end.
    era: usize,
    order: String,
    files: HashMap<String, Arc<Vec<u8>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mirror on a local port, which runs until the process ends.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

/// The script sent if there is no order.
const NO_ORDER: &str = ":\n";

impl Mirror {
    /// Starts the mirror.
    pub(crate) fn open() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = State {
            behaviour: Behaviour::Honest,
            era: 0,
            order: NO_ORDER.into(),
            files: HashMap::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), misled: AtomicUsize::new(0) });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                // The client may be gone.
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        Ok(Self { port, shared })
    }

    /// Serves a file from now on.
    pub(crate) fn add(&self, path: &str, content: Vec<u8>) {
        self.shared.state().files.insert(path.to_owned(), Arc::new(content));
    }

    /// Sets the behaviour from now on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        let mut state = self.shared.state();
        state.behaviour = behaviour;
        state.era += 1;
        self.shared.misled.store(0, Ordering::SeqCst);
    }

    /// Sets the order for following scripts, or none.
    pub(crate) fn order(&self, script: Option<String>) {
        self.shared.state().order = script.unwrap_or_else(|| NO_ORDER.into());
    }

    /// Returns the number of requests answered incorrectly since the last change of behaviour, and
    /// of orders sent.
    pub(crate) fn misled(&self) -> usize {
        self.shared.misled.load(Ordering::SeqCst)
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream).take(HEAD_MAX_BYTES);
    let (mut path, mut from) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse()?;
        }
        if let Some(rest) = line.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        }
    }
    let mut stream = reader.into_inner().into_inner();
    let (behaviour, era, content) = {
        let state = shared.state();
        if path == "/order" {
            let order = state.order.clone();
            drop(state);
            if order != NO_ORDER {
                shared.misled.fetch_add(1, Ordering::SeqCst);
            }
            return send(&mut stream, "200 OK", order.as_bytes(), order.len() as u64);
        }
        (state.behaviour, state.era, state.files.get(&path).cloned())
    };
    let Some(content) = content else {
        return send(&mut stream, "404 Not Found", b"", 0);
    };
    if behaviour != Behaviour::Honest {
        shared.misled.fetch_add(1, Ordering::SeqCst);
    }
    let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
    let rest = content.get(from..).unwrap_or_default();
    let length = rest.len() as u64;
    match behaviour {
        Behaviour::Honest => send(&mut stream, status, rest, length),
        Behaviour::Stalls { after } => {
            stream.write_all(&cut(status, rest, after))?;
            stall(shared, &mut stream, era)
        }
        Behaviour::Breaks { after, reset } => {
            stream.write_all(&cut(status, rest, after))?;
            let linger = nix::libc::linger { l_onoff: i32::from(reset), l_linger: 0 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger)?;
            Ok(())
        }
        Behaviour::Lies(lie) => tell(&mut stream, lie, status, rest),
    }
}

fn head(status: &str, length: u64) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
}

fn send(stream: &mut TcpStream, status: &str, body: &[u8], length: u64) -> Result<()> {
    stream.write_all(head(status, length).as_bytes())?;
    Ok(stream.write_all(body)?)
}

/// Returns the first bytes of a correct response, but never all of it.
fn cut(status: &str, body: &[u8], after: u64) -> Vec<u8> {
    let mut answer = head(status, body.len() as u64).into_bytes();
    answer.extend(body);
    answer.truncate(usize::try_from(after).unwrap_or(usize::MAX).min(answer.len() - 1));
    answer
}

/// Keeps a connection open until the peer closes it or the behaviour changes.
fn stall(shared: &Shared, stream: &mut TcpStream, era: usize) -> Result<()> {
    stream.set_read_timeout(Some(LOOK_PERIOD))?;
    while shared.state().era == era {
        match stream.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(e)
                if !matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                break;
            }
            _ => {}
        }
    }
    Ok(())
}

fn tell(stream: &mut TcpStream, lie: Lie, status: &str, body: &[u8]) -> Result<()> {
    let length = body.len() as u64;
    match lie {
        Lie::OtherBytes => {
            let other: Vec<u8> = body.iter().map(|byte| byte ^ 1).collect();
            send(stream, status, &other, length)
        }
        Lie::TooShort => send(stream, status, &body[..body.len() / 2], length / 2),
        Lie::TooLong => {
            send(stream, status, body, length + 4)?;
            Ok(stream.write_all(b"more")?)
        }
        Lie::ErrorPage => send(stream, status, b"<html>try again later</html>", 28),
        Lie::ServerError => send(stream, "503 Service Unavailable", b"", 0),
        Lie::Noise => Ok(stream.write_all(&[0x16, 3, 1, 0, 0xff, 0, b'\n', b'\n'])?),
        Lie::Endless => {
            write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n")?;
            let zeros = [0; 64 << 10];
            let mut left = ENDLESS_BYTES;
            while left > 0 {
                stream.write_all(&zeros)?;
                left -= zeros.len() as u64;
            }
            Ok(())
        }
    }
}
