//! Observes plain HTTP/1 on connections to port 80.
//!
//! The observer neither changes nor delays the data: it parses bytes as they pass, and stops at the
//! first error. Its result lists the files that a build has fetched, and their digests, which show
//! whether they are the same next time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use sha2::{Digest, Sha256};

/// The port whose connections are observed.
pub(crate) const PORT: u16 = 80;

/// Maximum length of a request or response head in bytes, as servers accept.
const HEAD_MAX_BYTES: usize = 32 << 10;

/// Maximum length of a method in bytes: the longest registered one, `UPDATEREDIRECTREF`, has 17.
const METHOD_MAX_BYTES: usize = 32;

/// Maximum length of a recorded path in bytes, escaped; package tools stay below 300.
const PATH_MAX_BYTES: usize = 1024;

/// Length of a digest in hexadecimal.
const DIGEST_BYTES: usize = 64;

/// Maximum pending requests on one connection; package tools send some tens before they wait.
const WAITING_MAX: usize = 1000;

/// Maximum memory for the exchanges of one connection, in bytes: some thousands by a package tool,
/// which ends a connection after some hundred.
const CONNECTION_MAX_BYTES: usize = 512 << 10;

/// Memory left for the exchanges of all open connections, in bytes.
#[derive(Debug)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A request with its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The method: `GET`, …
    pub method: String,
    /// The requested path, printable and truncated.
    pub path: String,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// Length of the response body in bytes.
    pub body_bytes: u64,
    /// The body's SHA-256 in hexadecimal, if it was complete.
    pub sha256: Option<String>,
}

impl Exchange {
    /// The memory that it takes, including its digest.
    fn cost_bytes(&self) -> usize {
        size_of::<Self>() + self.method.len() + self.path.len() + DIGEST_BYTES
    }
}

/// Observes one connection.
#[derive(Debug)]
pub(crate) struct Observed {
    state: Mutex<State>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct State {
    requests: Side,
    answers: Side,
    /// Exchanges that are complete, or ended with the connection.
    done: Vec<Exchange>,
    /// Requests without a response so far.
    waiting: VecDeque<Waiting>,
    hash: Sha256,
    /// Memory of the recorded exchanges, in bytes.
    kept_bytes: usize,
    /// Number of exchanges beyond the limits, which are not recorded.
    more: u64,
}

impl State {
    /// Adds a pending request, with its content if there is room; `None` if too many are pending.
    fn wait(&mut self, exchange: Exchange, budget: &Budget) -> Option<()> {
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        let is_head = exchange.method == "HEAD";
        let cost = exchange.cost_bytes();
        let has_room = self.kept_bytes + cost <= CONNECTION_MAX_BYTES && budget.take(cost);
        if has_room {
            self.kept_bytes += cost;
        } else {
            self.more += 1;
        }
        self.waiting.push_back(Waiting { is_head, kept: has_room.then_some(exchange) });
        Some(())
    }
}

/// A request whose response is not complete.
#[derive(Debug)]
struct Waiting {
    /// Whether the response has no body, whatever its head declares.
    is_head: bool,
    kept: Option<Exchange>,
}

/// The parser state of one direction.
#[derive(Debug)]
enum Side {
    /// Collecting a head.
    Head(Vec<u8>),
    /// In a body with this many bytes left.
    Length(u64),
    /// In a chunked body: collecting a size line, or in a chunk with its line end.
    ChunkLine(Vec<u8>),
    Chunk(u64),
    ChunkEnd(u8),
    /// In the trailer after the last chunk.
    Trailer(Vec<u8>),
    /// In a body that ends with the connection.
    UntilEnd,
    /// Observation has stopped.
    Off,
}

impl Default for Side {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

/// What the parser has found.
enum Found<'a> {
    Head(Vec<u8>),
    Body(&'a [u8]),
    End,
}

impl Observed {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { state: Mutex::default(), budget }
    }

    /// Observes bytes from the guest.
    pub(crate) fn up(&self, bytes: &[u8]) {
        let Ok(mut state) = self.state.lock() else { return };
        let state = &mut *state;
        let mut side = std::mem::replace(&mut state.requests, Side::Off);
        side.feed(bytes, |found| match found {
            Found::Head(head) => {
                let (exchange, body) = request(&head)?;
                state.wait(exchange, &self.budget)?;
                Some(body)
            }
            Found::Body(_) | Found::End => Some(Side::default()),
        });
        state.requests = side;
    }

    /// Observes bytes from the server.
    pub(crate) fn down(&self, bytes: &[u8]) {
        let Ok(mut state) = self.state.lock() else { return };
        let state = &mut *state;
        let mut side = std::mem::replace(&mut state.answers, Side::Off);
        side.feed(bytes, |found| match found {
            Found::Head(head) => {
                let waiting = state.waiting.front_mut()?;
                let (status, body) = answer(&head, waiting.is_head)?;
                if (100..200).contains(&status) {
                    // After other 1xx responses the final one follows; 101 switches to another
                    // protocol.
                    return (status != 101).then(Side::default);
                }
                if let Some(exchange) = &mut waiting.kept {
                    exchange.status = Some(status);
                }
                state.hash = Sha256::new();
                Some(body)
            }
            Found::Body(part) => {
                if let Some(exchange) = &mut state.waiting.front_mut()?.kept {
                    exchange.body_bytes += part.len() as u64;
                    state.hash.update(part);
                }
                Some(Side::default())
            }
            Found::End => {
                if let Some(mut exchange) = state.waiting.pop_front()?.kept {
                    exchange.sha256 = Some(hex(&state.hash.finalize_reset()));
                    state.done.push(exchange);
                }
                Some(Side::default())
            }
        });
        state.answers = side;
    }

    /// Ends the observation of a connection. Returns the exchanges, and the number of those not
    /// recorded; `whole` means that the server closed the connection in order.
    pub(crate) fn finish(self, whole: bool) -> (Vec<Exchange>, u64) {
        let Ok(mut state) = self.state.lock() else { return (Vec::new(), 0) };
        let mut state = std::mem::take(&mut *state);
        self.budget.give_back(state.kept_bytes);
        let last = state.waiting.front_mut().and_then(|waiting| waiting.kept.as_mut());
        if let (Side::UntilEnd, true, Some(last)) = (&state.answers, whole, last) {
            last.sha256 = Some(hex(&state.hash.finalize()));
        }
        state.done.extend(state.waiting.into_iter().filter_map(|waiting| waiting.kept));
        (state.done, state.more)
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // For an abandoned connection; a finished one has no memory left to return.
        if let Ok(state) = self.state.get_mut() {
            self.budget.give_back(state.kept_bytes);
        }
    }
}

impl Side {
    /// Parses bytes. For a head, `found` returns the state in which its body begins; otherwise its
    /// result only matters as `None`, which stops the observation.
    fn feed<'a>(&mut self, mut bytes: &'a [u8], mut found: impl FnMut(Found<'a>) -> Option<Side>) {
        while !bytes.is_empty() {
            let (next, rest) = match std::mem::replace(self, Self::Off).step(bytes, &mut found) {
                Some(done) => done,
                None => return,
            };
            (*self, bytes) = (next, rest);
            // An empty body ends before its first byte.
            if matches!(self, Self::Length(0)) {
                if found(Found::End).is_none() {
                    *self = Self::Off;
                    return;
                }
                *self = Self::default();
            }
        }
    }

    fn step<'a>(
        self,
        bytes: &'a [u8],
        found: &mut impl FnMut(Found<'a>) -> Option<Side>,
    ) -> Option<(Self, &'a [u8])> {
        match self {
            Self::Off => None,
            Self::UntilEnd => {
                found(Found::Body(bytes))?;
                Some((Self::UntilEnd, &[]))
            }
            Self::Head(head) => match until(head, bytes, b"\r\n\r\n")? {
                (head, rest, true) => Some((found(Found::Head(head))?, rest)),
                (head, rest, false) => Some((Self::Head(head), rest)),
            },
            Self::Length(left) => {
                let (part, rest) = cut(bytes, left);
                found(Found::Body(part))?;
                Some((Self::Length(left - part.len() as u64), rest))
            }
            Self::ChunkLine(line) => match until(line, bytes, b"\r\n")? {
                (line, rest, false) => Some((Self::ChunkLine(line), rest)),
                (line, rest, true) => match chunk_size(&line)? {
                    0 => Some((Self::Trailer(Vec::new()), rest)),
                    size => Some((Self::Chunk(size), rest)),
                },
            },
            Self::Chunk(left) => {
                let (part, rest) = cut(bytes, left);
                found(Found::Body(part))?;
                match left - part.len() as u64 {
                    0 => Some((Self::ChunkEnd(2), rest)),
                    left => Some((Self::Chunk(left), rest)),
                }
            }
            Self::ChunkEnd(1) => Some((Self::ChunkLine(Vec::new()), &bytes[1..])),
            Self::ChunkEnd(left) => Some((Self::ChunkEnd(left - 1), &bytes[1..])),
            Self::Trailer(line) => match until(line, bytes, b"\r\n")? {
                (line, rest, false) => Some((Self::Trailer(line), rest)),
                (line, rest, true) if line == b"\r\n" => {
                    found(Found::End)?;
                    Some((Self::default(), rest))
                }
                (_, rest, true) => Some((Self::Trailer(Vec::new()), rest)),
            },
        }
    }
}

/// Collects bytes up to and including `end`; `None` if there are too many.
fn until<'a>(
    mut gathered: Vec<u8>,
    bytes: &'a [u8],
    end: &[u8],
) -> Option<(Vec<u8>, &'a [u8], bool)> {
    for (at, byte) in bytes.iter().enumerate() {
        if gathered.len() >= HEAD_MAX_BYTES {
            return None;
        }
        gathered.push(*byte);
        if gathered.ends_with(end) {
            return Some((gathered, &bytes[at + 1..], true));
        }
    }
    Some((gathered, &[], false))
}

fn cut(bytes: &[u8], most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len()))
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| matches!(b, b';' | b'\r' | b' ')).next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Parses a request head to an exchange and the state of its body.
fn request(head: &[u8]) -> Option<(Exchange, Side)> {
    let (first, fields) = parse(head)?;
    let mut words = first.split(' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    let plain = version.starts_with("HTTP/1.") && words.next().is_none();
    let is_method =
        |text: &str| text.len() <= METHOD_MAX_BYTES && text.bytes().all(|b| b.is_ascii_uppercase());
    if !plain || !is_method(method) || method == "CONNECT" {
        return None;
    }
    let path = path.bytes().flat_map(std::ascii::escape_default).take(PATH_MAX_BYTES);
    let exchange = Exchange {
        method: method.to_owned(),
        path: path.map(char::from).collect(),
        status: None,
        body_bytes: 0,
        sha256: None,
    };
    Some((exchange, framing(&fields)?.unwrap_or(Side::Length(0))))
}

/// Parses a response head to a status and the state of its body.
fn answer(head: &[u8], is_head: bool) -> Option<(u16, Side)> {
    let (first, fields) = parse(head)?;
    let mut words = first.split(' ');
    let version = words.next()?;
    let status: u16 = words.next()?.parse().ok().filter(|_| version.starts_with("HTTP/1."))?;
    let without_body = is_head || matches!(status, 204 | 304);
    let body =
        if without_body { Side::Length(0) } else { framing(&fields)?.unwrap_or(Side::UntilEnd) };
    Some((status, body))
}

type Fields<'a> = Vec<(String, &'a str)>;

fn parse(head: &[u8]) -> Option<(&str, Fields<'_>)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let first = lines.next()?;
    let field = |line: &'_ str| -> Option<(String, usize)> {
        let (name, _) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), name.len() + 1))
    };
    let fields = lines.filter(|line| !line.is_empty()).map(|line| {
        let (name, value_at) = field(line)?;
        Some((name, line[value_at..].trim()))
    });
    Some((first, fields.collect::<Option<_>>()?))
}

/// How the header fields delimit the body, if they do; `None` if they contradict each other.
fn framing(fields: &Fields<'_>) -> Option<Option<Side>> {
    let values = |wanted: &str| {
        let of_name = fields.iter().filter(|(name, _)| name == wanted);
        of_name.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    match (&values("transfer-encoding")[..], &values("content-length")[..]) {
        ([], []) => Some(None),
        ([], [length]) => Some(Some(Side::Length(length.parse().ok()?))),
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => {
            Some(Some(Side::ChunkLine(Vec::new())))
        }
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds both directions to an observer in pieces of `size` bytes.
    fn observe(up: &str, down: &str, size: usize, whole: bool) -> Vec<Exchange> {
        let observed = Observed::new(Arc::new(Budget::new(1 << 20)));
        up.as_bytes().chunks(size).for_each(|part| observed.up(part));
        down.as_bytes().chunks(size).for_each(|part| observed.down(part));
        observed.finish(whole).0
    }

    fn exchange(method: &str, path: &str, status: Option<u16>, body: Option<&str>) -> Exchange {
        Exchange {
            method: method.into(),
            path: path.into(),
            status,
            body_bytes: body.map_or(0, |b| b.len() as u64),
            sha256: body.map(|b| hex(&Sha256::digest(b))),
        }
    }

    #[test]
    fn pipelined_requests_and_every_kind_of_body() {
        let up = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nHEAD /b HTTP/1.1\r\n\r\n\
                  POST /c HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET GET /d HTTP/1.1\r\n\r\n\
                  GET /e HTTP/1.1\r\n\r\n";
        let down = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
                    HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n\
                    HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n\
                    HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.0 404 No\r\n\r\nuntil the end";
        let expected = [
            exchange("GET", "/a", Some(200), Some("hello")),
            exchange("HEAD", "/b", Some(200), Some("")),
            exchange("POST", "/c", Some(200), Some("abc0123456789")),
            exchange("GET", "/d", Some(304), Some("")),
            exchange("GET", "/e", Some(404), Some("until the end")),
        ];
        for size in [1, 2, 3, 7, 50, 10_000] {
            assert_eq!(observe(up, down, size, true), expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_broke_off_has_no_digest() {
        let up = "GET /a HTTP/1.1\r\n\r\n";
        let short = observe(up, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", 9, true);
        assert_eq!((short[0].body_bytes, &short[0].sha256), (2, &None));
        let broken = observe(up, "HTTP/1.1 200 OK\r\n\r\nhe", 9, false);
        assert_eq!((broken[0].body_bytes, &broken[0].sha256), (2, &None));
        assert_eq!(observe(up, "", 9, false)[0].status, None);
    }

    #[test]
    fn other_protocols_are_not_looked_at() {
        for up in [
            "SSH-2.0-x\r\n\r\n",
            "\u{16}\u{3}\u{1}",
            "GET /a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(observe(up, "HTTP/1.1 200 OK\r\n\r\n", 100, true), [], "{up:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(40_000));
        assert_eq!(observe(&long, "", 1000, true), []);
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0";
        let odd = observe("GET /a HTTP/1.1\r\n\r\n", both, 100, true);
        assert_eq!((odd[0].status, &odd[0].sha256), (None, &None));
        assert_eq!(observe("", "HTTP/1.1 200 OK\r\n\r\n", 100, true), []);
    }

    /// Sends a number of requests with this path, each with its response.
    fn talk(observed: &Observed, requests: usize, path: &str) {
        for _ in 0..requests {
            observed.up(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
            observed.down(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
        }
    }

    fn bytes(exchanges: &[Exchange]) -> usize {
        exchanges.iter().map(Exchange::cost_bytes).sum()
    }

    #[test]
    fn what_is_kept_of_a_connection_is_bounded_and_the_rest_is_counted() {
        let budget = Arc::new(Budget::new(64 << 20));
        let observed = Observed::new(Arc::clone(&budget));
        // Each byte becomes four when escaped.
        talk(&observed, 5000, &format!("/{}", "\u{1}".repeat(1000)));
        let (kept, more) = observed.finish(true);
        assert!(bytes(&kept) <= CONNECTION_MAX_BYTES, "{} bytes", bytes(&kept));
        assert!(kept.iter().all(|exchange| exchange.path.len() <= PATH_MAX_BYTES));
        assert_eq!(kept.len() as u64 + more, 5000);
        assert_eq!(budget.0.load(Ordering::Relaxed), 64 << 20, "all of it is given back");
    }

    #[test]
    fn all_connections_share_one_budget() {
        let budget = Arc::new(Budget::new(100 << 10));
        let open: Vec<Observed> = (0..20).map(|_| Observed::new(Arc::clone(&budget))).collect();
        open.iter().for_each(|observed| talk(observed, 100, "/a"));
        let (kept, more) = open.into_iter().fold((0, 0), |(kept, more), observed| {
            let (exchanges, rest) = observed.finish(true);
            (kept + exchanges.len() as u64, more + rest)
        });
        assert!(kept < 1000 && kept + more == 2000, "{kept} and {more}");
        let given_up = Observed::new(Arc::clone(&budget));
        talk(&given_up, 100, "/a");
        drop(given_up);
        assert_eq!(budget.0.load(Ordering::Relaxed), 100 << 10);
    }

    #[test]
    fn a_method_is_short() {
        let up = format!("{} /a HTTP/1.1\r\n\r\n", "A".repeat(31_000));
        assert_eq!(observe(&up, "HTTP/1.1 200 OK\r\n\r\n", 1000, true), []);
    }
}
