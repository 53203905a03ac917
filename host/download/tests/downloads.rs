//! Downloads from loopback servers: correct, faulty and malicious ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
    thread,
};

use download::{Client, Digest, DownloadError, Options, Part, Size, Step, Wanted, Watch};
use reach::Proxies;
use sha2::{Digest as _, Sha256};

/// A request as the server receives it.
#[derive(Debug, Clone)]
struct Request {
    /// The request line without the version: `GET /path`, `CONNECT host:port`.
    line: String,
    /// The first requested byte.
    from: usize,
    accept: String,
}

type Requests = Arc<Mutex<Vec<Request>>>;

/// A server that responds to the nth request with what `answer` writes.
fn server(
    answer: impl Fn(usize, &Request, &mut TcpStream) + Send + Sync + 'static,
) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(request) = read_request(&stream) else { continue };
            let number = log.lock().unwrap().len();
            log.lock().unwrap().push(request.clone());
            answer(number, &request, &mut stream);
        }
    });
    (url, requests)
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let line = lines.next()?;
    let mut request = Request {
        line: line.trim_end_matches(" HTTP/1.1").to_owned(),
        from: 0,
        accept: String::new(),
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            request.from = range.trim_end_matches('-').parse().unwrap();
        }
        if let Some(types) = line.strip_prefix("accept: ") {
            request.accept = types.to_owned();
        }
    }
    Some(request)
}

/// Sends a response; with `cut`, the body is shorter than its declared length.
fn send(stream: &mut TcpStream, status: &str, body: &[u8], cut: Option<usize>) {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // A client that has received enough closes the connection.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())]);
}

/// Serves ranges of a content, at most `most` bytes per response.
fn ranges(content: &'static [u8], most: usize) -> (String, Requests) {
    server(move |_, request, stream| {
        let body = &content[request.from..];
        let status = match request.from {
            0 => "200 OK".to_owned(),
            from => {
                format!("206 Partial Content\r\ncontent-range: bytes {from}-/{}", content.len())
            }
        };
        send(stream, &status, body, Some(most));
    })
}

fn redirect_to(to: String) -> (String, Requests) {
    server(move |_, _, stream| {
        let status = format!("302 Found\r\nlocation: {to}");
        send(stream, &status, b"elsewhere", None);
    })
}

fn sha256(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::parse(&format!("sha256:{hex}")).unwrap()
}

fn client() -> Client {
    Client::new(&Options::default()).unwrap()
}

/// Downloads to a file with existing content.
fn fetch(
    urls: &[&str],
    size: Size,
    digest: &Digest,
    to: &Path,
) -> Result<(u64, Vec<Step>), DownloadError> {
    let mut options = OpenOptions::new();
    let mut file: File =
        options.create(true).truncate(false).read(true).write(true).open(to).unwrap();
    let mut steps = Vec::new();
    let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
    let wanted = Wanted { urls: &urls, size, digest };
    let stop = AtomicBool::new(false);
    let mut tell = |step| steps.push(step);
    let mut watch = Watch { tell: &mut tell, stop: &stop };
    let fetched = client().fetch(wanted, &mut Part { file: &mut file, path: to }, &mut watch)?;
    Ok((fetched, steps))
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let content = b"what a base image holds";
    for size in [Size::Exactly(content.len() as u64), Size::AtMost(1000)] {
        let _ = std::fs::remove_file(&part);
        let (url, requests) = ranges(content, 9);
        let (fetched, steps) = fetch(&[&url], size, &sha256(content), &part).unwrap();
        assert_eq!(fetched, content.len() as u64);
        assert_eq!(std::fs::read(&part).unwrap(), content);
        let from: Vec<usize> = requests.lock().unwrap().iter().map(|r| r.from).collect();
        assert_eq!(from, [0, 9, 18]);
        assert_eq!(steps[..2], [Step::Present(0), Step::Fetched(9)]);
    }
}

#[test]
fn what_an_earlier_run_has_left_is_used_or_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let content = b"0123456789";
    let (url, requests) = ranges(content, 100);
    let get = |left: &[u8]| {
        std::fs::write(&part, left).unwrap();
        let got = fetch(&[&url], Size::Exactly(10), &sha256(content), &part).unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), content, "after {left:?}");
        got.0
    };
    assert_eq!(get(b"01234"), 5);
    // The file is complete, so no request is sent.
    let asked = requests.lock().unwrap().len();
    assert_eq!(get(content), 0);
    assert_eq!(requests.lock().unwrap().len(), asked);
    // Of another version, and too long.
    assert_eq!(get(b"abcde"), 15);
    assert_eq!(get(b"abcdefghij"), 10);
    assert_eq!(get(b"0123456789012345"), 10);
}

#[test]
fn a_server_without_ranges_begins_anew_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let content: &'static [u8] = Box::leak(vec![7; 3 << 20].into_boxed_slice());
    let (url, _) = server(move |number, _, stream| {
        let cut = (number == 0).then_some(1 << 20);
        send(stream, "200 OK", content, cut);
    });
    let exact = Size::Exactly(content.len() as u64);
    let (fetched, steps) = fetch(&[&url], exact, &sha256(content), &part).unwrap();
    assert_eq!(fetched, 4 << 20);
    assert!(steps.contains(&Step::Discarded(1 << 20)), "{steps:?}");
    // A server that always restarts is given up, although each attempt receives new bytes.
    std::fs::remove_file(&part).unwrap();
    let (url, requests) = server(move |_, _, stream| {
        send(stream, "200 OK", content, Some(content.len() - 1));
    });
    let error = fetch(&[&url], exact, &sha256(content), &part).unwrap_err();
    assert!(matches!(error, DownloadError::Wasteful { bytes, .. } if bytes <= 8 << 20), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 3);
}

#[test]
fn more_than_the_limit_is_not_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let content: &'static [u8] = Box::leak(vec![7; 2 << 20].into_boxed_slice());
    // With the size declared by the server, and without.
    let (told, _) = ranges(content, content.len());
    let (endless, requests) = server(move |_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        while stream.write_all(content).is_ok() {}
    });
    for url in [told, endless] {
        let error = fetch(&[&url], Size::AtMost(1 << 20), &sha256(b""), &part).unwrap_err();
        assert!(
            matches!(error, DownloadError::TooLarge { limit, .. } if limit == 1 << 20),
            "{error}"
        );
        assert!(std::fs::metadata(&part).unwrap().len() <= (1 << 20) + 1);
        std::fs::remove_file(&part).unwrap();
        let error = client().bytes(&url, 1 << 20, None).unwrap_err();
        assert!(matches!(error, DownloadError::TooLarge { .. }), "{error}");
    }
    assert_eq!(requests.lock().unwrap().len(), 2, "there is nothing to try again");
    // A file of known size that continues has a wrong digest; it is not reported as too long.
    let (url, _) = ranges(content, content.len());
    let error = fetch(&[&url], Size::Exactly(10), &sha256(b"0123456789"), &part).unwrap_err();
    assert!(matches!(error, DownloadError::WrongDigest { .. }), "{error}");
}

#[test]
fn a_server_that_sends_a_byte_at_a_time_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (url, requests) = ranges(&[7; 1000], 0);
    let part = folder.path().join("part");
    let error = fetch(&[&url], Size::Exactly(1000), &sha256(b""), &part).unwrap_err();
    assert!(matches!(error, DownloadError::Broken { .. }), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 4, "nothing new came");
}

#[test]
fn another_content_is_refused_and_another_address_tried() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let (wrong, _) = ranges(b"something else", 1000);
    let error = fetch(&[&wrong], Size::AtMost(100), &sha256(b"promised"), &part).unwrap_err();
    assert!(matches!(error, DownloadError::WrongDigest { algorithm: "sha256", .. }), "{error}");
    assert_eq!(std::fs::read(&part).unwrap(), b"");
    let (gone, _) = server(|_, _, stream| send(stream, "404 Not Found", b"no", None));
    let (right, _) = ranges(b"promised", 1000);
    let urls = [gone.as_str(), right.as_str()];
    fetch(&urls, Size::Exactly(8), &sha256(b"promised"), &part).unwrap();
    let error = fetch(&[&gone], Size::Exactly(9), &sha256(b"x"), &part).unwrap_err();
    assert!(matches!(error, DownloadError::Status { status: 404, .. }), "{error}");
}

#[test]
fn a_server_in_trouble_is_asked_again_and_others_are_not() {
    let (busy, requests) = server(|number, _, stream| match number {
        0 => send(stream, "503 Later", b"", None),
        1 => send(stream, "200 OK", b"hello", Some(2)),
        _ => send(stream, "200 OK", b"hello", None),
    });
    assert_eq!(client().text(&busy, 100).unwrap(), "hello");
    assert_eq!(requests.lock().unwrap().len(), 3);
    let (refusing, requests) = server(|_, _, stream| send(stream, "403 No", b"", None));
    let error = client().bytes(&refusing, 100, Some("text/html")).unwrap_err();
    assert!(matches!(error, DownloadError::Status { status: 403, .. }), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 1);
    assert_eq!(requests.lock().unwrap()[0].accept, "text/html");
    let (binary, _) = server(|_, _, stream| send(stream, "200 OK", &[0xff], None));
    let error = client().text(&binary, 100).unwrap_err();
    assert!(matches!(error, DownloadError::NotText { .. }), "{error}");
}

#[test]
fn urls_that_are_none_are_refused() {
    for bad in ["file:///etc/passwd", "ftp://a.example/", "a.example", "http://", ""] {
        let error = client().bytes(bad, 1, None).unwrap_err();
        assert!(matches!(error, DownloadError::Url { .. }), "{bad}: {error}");
    }
}

#[test]
fn redirects_are_followed_within_the_network_of_the_first_address() {
    let (server, _) = ranges(b"hello", 100);
    let (once, _) = redirect_to(format!("{server}/x"));
    let (twice, _) = redirect_to(once);
    assert_eq!(client().text(&twice, 100).unwrap(), "hello");
    for to in ["http://169.254.169.254/latest/", "http://168.63.129.16/", "file:///etc/passwd"] {
        let (url, requests) = redirect_to(to.to_owned());
        let error = client().bytes(&url, 100, None).unwrap_err();
        assert!(
            matches!(&error, DownloadError::Redirect { to: there, .. } if there == to),
            "{error}"
        );
        assert_eq!(requests.lock().unwrap().len(), 1);
    }
    let (endless, requests) = server_that_redirects_to_itself();
    let error = client().bytes(&endless, 100, None).unwrap_err();
    assert!(error.to_string().contains("more redirects"), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 11);
}

fn server_that_redirects_to_itself() -> (String, Requests) {
    server(|_, _, stream| send(stream, "302 Found\r\nlocation: /again", b"", None))
}

/// A client with a proxy through which every name is reachable.
fn behind(proxy: &str, no_proxy: &str) -> Client {
    let proxies = Proxies::from_environment(|name| match name {
        "http_proxy" => Some(proxy.into()),
        "no_proxy" => Some(no_proxy.into()),
        _ => None,
    });
    Client::new(&Options { proxies: proxies.unwrap(), ..Options::default() }).unwrap()
}

/// A proxy behind which every host sends the nth response by `answer`.
fn proxy(
    answer: impl Fn(usize, &Request, &mut TcpStream) + Send + Sync + 'static,
) -> (String, Requests) {
    server(move |number, request, stream| {
        assert!(request.line.starts_with("CONNECT "), "{}", request.line);
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        if let Some(inner) = read_request(stream) {
            answer(number, &inner, stream);
        }
    })
}

fn hosts(requests: &Requests) -> Vec<String> {
    requests.lock().unwrap().iter().map(|request| request.line.clone()).collect()
}

#[test]
fn names_that_look_like_this_host_go_by_the_proxy() {
    let (url, requests) = proxy(|_, _, stream| send(stream, "200 OK", b"hello", None));
    let client = behind(&url, "near.example");
    for host in ["localhost.evil.example", "127.evil.example"] {
        assert_eq!(client.text(&format!("http://{host}/"), 100).unwrap(), "hello");
    }
    let expected = ["CONNECT localhost.evil.example:80", "CONNECT 127.evil.example:80"];
    assert_eq!(hosts(&requests), expected);
    // This host and excepted hosts bypass it.
    let (here, _) = ranges(b"here", 100);
    assert_eq!(client.text(&here.replace("127.0.0.1", "localhost"), 100).unwrap(), "here");
    assert!(client.bytes("http://near.example:1/", 100, None).is_err());
    assert_eq!(requests.lock().unwrap().len(), 2);
}

#[test]
fn a_public_server_does_not_redirect_into_the_users_networks() {
    for to in [
        "http://127.0.0.1:9/",
        "http://localhost/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/",
        "http://metadata.google.internal/",
        "http://intranet/",
        "http://0x7f.1/",
    ] {
        let location = to.to_owned();
        let (url, requests) = proxy(move |_, _, stream| {
            let status = format!("302 Found\r\nlocation: {location}");
            send(stream, &status, b"", None);
        });
        let error = behind(&url, "").bytes("http://203.0.113.1/", 100, None).unwrap_err();
        assert!(matches!(error, DownloadError::Redirect { .. }), "{to}: {error}");
        assert_eq!(hosts(&requests), ["CONNECT 203.0.113.1:80"], "{to}");
    }
    // The same redirect by a server in the user's network is followed.
    let (url, requests) = proxy(|number, _, stream| match number {
        0 => send(stream, "302 Found\r\nlocation: http://10.0.0.2/", b"", None),
        _ => send(stream, "200 OK", b"hello", None),
    });
    assert_eq!(behind(&url, "").text("http://10.0.0.1/", 100).unwrap(), "hello");
    assert_eq!(hosts(&requests), ["CONNECT 10.0.0.1:80", "CONNECT 10.0.0.2:80"]);
}
