//! One body over every kind of place: what one store pushes, another fetches.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that skips says why")]

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use remote::{Here, Moved, Options, Place, Remote, RemoteError, Secret, Shelf};
use store::{
    Digest, DiskName, DiskState, Lease, RECORD_VERSION, RawSource, RecordKind, StageRecord, Store,
};

fn lease(folder: &Path) -> Arc<Lease> {
    Arc::new(Store::open(folder).unwrap().lease().unwrap())
}

/// A stage whose disk holds a text, and more bytes than go at once.
fn stage(lease: &Lease, folder: &Path, number: u8, bytes: usize) -> StageRecord {
    let disk = folder.join(format!("disk-{number}.raw"));
    // Noise, so that compression does not make it small.
    let mut state = u32::from(number) + 1;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    fs::write(&disk, noise.take(bytes).collect::<Vec<u8>>()).unwrap();
    let layer = lease.put_layer(&mut RawSource::open(&disk).unwrap()).unwrap();
    let log = lease.put_blob(&mut b"a log that stays".as_slice()).unwrap();
    let disks = DiskState { bytes: bytes as u64, layers: vec![layer.digest] };
    let record = StageRecord {
        version: RECORD_VERSION,
        key: Digest([number; 32]),
        parent: None,
        build: "test".into(),
        kind: RecordKind::Stage,
        name: format!("{number}0_layer").into(),
        created: 1_700_000_000,
        elapsed_ms: 5000,
        disks: BTreeMap::from([(DiskName::new("disk").unwrap(), disks)]),
        state: serde_json::json!({"some": "state"}),
        inputs: BTreeMap::new(),
        fetched: None,
        connections: Vec::new(),
        more_connections: 0,
        ran: Vec::new(),
        log: Some(log),
        files: Vec::new(),
        origin: None,
    };
    lease.put_record(&record).unwrap();
    record
}

/// The key that a stage has in the shared cache, which has another salt.
fn there(key: Digest) -> Digest {
    Digest(key.0.map(|byte| !byte))
}

/// What it is called here.
fn here(key: Digest) -> Here {
    Here { key, parent: None, inputs: BTreeMap::new() }
}

/// The whole way there and back; gives what the cache was told to hold.
async fn there_and_back(place: &Place, options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let (mine, yours) = (lease(&folder.path().join("mine")), lease(&folder.path().join("yours")));
    let record = stage(&mine, folder.path(), 1, 40 << 20);
    let remote = Remote::open(place.clone(), options).unwrap();
    assert_eq!(
        remote.fetch(&there(record.key), here(record.key), &yours).await.unwrap(),
        None,
        "nothing there yet"
    );
    let pushed = remote.push(&record, &there(record.key), &mine).await.unwrap();
    assert_eq!((pushed.stages, pushed.objects), (1, 1), "the log stays");
    assert!(pushed.bytes > 32 << 20);
    assert_eq!(
        remote.push(&record, &there(record.key), &mine).await.unwrap(),
        Moved::default(),
        "once is enough"
    );
    let fetched =
        remote.fetch(&there(record.key), here(record.key), &yours).await.unwrap().unwrap();
    assert_eq!(fetched, pushed);
    let found = yours.lookup(&record.key).unwrap().unwrap();
    // It says where it came from, and ages from now on, though it says that it used no
    // network.
    let origin = found.origin.clone().unwrap();
    assert_eq!(origin.place.as_str(), place.to_string());
    assert_eq!(origin.key, options.secret.as_ref().map(Secret::id));
    assert_eq!(found.fetched, Some(origin.fetched));
    let untold = StageRecord { origin: None, fetched: None, ..found.clone() };
    assert_eq!(untold, StageRecord { log: None, ..record.clone() });
    let restored = folder.path().join("restored.raw");
    yours.restore(&found.disks["disk"], &restored).unwrap();
    assert!(fs::read(&restored).unwrap() == fs::read(folder.path().join("disk-1.raw")).unwrap());
    // What is there need not come again.
    let again = remote.fetch(&there(record.key), here(record.key), &yours).await.unwrap().unwrap();
    assert_eq!((again.objects, again.bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder() {
    let folder = tempfile::tempdir().unwrap();
    there_and_back(&Place::Folder(folder.path().join("cache")), &Options::default()).await;
}

/// A program that does here what ssh would do there.
fn ssh_here(folder: &Path) -> PathBuf {
    let program = folder.join("ssh");
    let script = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n\
                  [ \"$2\" = me@there ] || exit 255\nexec sh -c \"$3\"\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_behind_ssh() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { ssh: ssh_here(folder.path()), ..Options::default() };
    let cache = folder.path().join("it's a cache");
    let place: Place = format!("ssh://me@there:2222{}", cache.display()).parse().unwrap();
    there_and_back(&place, &options).await;
    let parts =
        walk(&cache).into_iter().filter(|path| path.extension().is_some_and(|e| e == "part"));
    assert_eq!(parts.count(), 0);
    // A machine that cannot be reached is an error that says so.
    let wrong: Place = format!("ssh://you@there{}", cache.display()).parse().unwrap();
    let remote = Remote::open(wrong, &options).unwrap();
    let error = remote
        .fetch(&there(Digest([1; 32])), here(Digest([1; 32])), &lease(&folder.path().join("s")))
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::Transfer { .. }), "{error}");
}

/// Files by name: listed, replaced, and held to what they may be.
async fn shelf(place: Place, options: &Options) {
    let shelf = Shelf::open(place, options).unwrap();
    assert_eq!(shelf.list("images", 10).await.unwrap(), []);
    let put = async |name: &str, text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        shelf.put(&format!("images/{name}"), &mut file, text.len() as u64).await.unwrap();
    };
    put("b it's", "a part").await;
    put("b it's", "the whole").await;
    put("a", "").await;
    put("below/c", "not listed").await;
    let listed: Vec<(String, u64)> =
        shelf.list("images", 10).await.unwrap().into_iter().map(|l| (l.name, l.bytes)).collect();
    assert_eq!(listed, [("a".to_owned(), 0), ("b it's".to_owned(), 9)]);
    let error = shelf.list("images", 1).await.unwrap_err();
    assert!(format!("{error:?}").contains("more than 1 files"), "{error:?}");
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(shelf.get("images/b it's", &mut file, 9).await.unwrap(), Some(9));
    assert_eq!(shelf.get("images/b it's", &mut file, 8).await.unwrap(), None);
    assert_eq!(shelf.get("images/gone", &mut file, 8).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_shelf() {
    let folder = tempfile::tempdir().unwrap();
    shelf(Place::Folder(folder.path().join("here")), &Options::default()).await;
    // With a key: the program that stands for ssh takes it before the `--`.
    let options = Options {
        ssh: ssh_here(folder.path()),
        ssh_key: Some("/some/key".into()),
        ..Options::default()
    };
    let there = format!("ssh://me@there:2222{}", folder.path().join("th'ere").display());
    shelf(there.parse().unwrap(), &options).await;
}

/// What is run as root wants a directory for itself.
const SSHD_DIRECTORY: &str = "/run/sshd";

/// A server of OpenSSH for whoever runs the tests, and a program that is ssh with
/// the key for it; `None` with the reason printed.
fn sshd(folder: &Path) -> Option<(Server, PathBuf, u16)> {
    let program = std::env::var_os("VBUILD_SSHD").unwrap_or_else(|| "/usr/sbin/sshd".into());
    if !Path::new(&program).exists() {
        eprintln!(
            "skipped: there is no sshd (the package openssh-server), nor does VBUILD_SSHD name one"
        );
        return None;
    }
    if nix::unistd::geteuid().is_root() {
        let _ = fs::create_dir(SSHD_DIRECTORY);
    }
    for key in ["host", "user"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(folder.join(key))
            .status();
        assert!(made.unwrap().success());
    }
    let (port, here) = (free_port(), folder.display());
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\nPidFile none\n\
         AuthorizedKeysFile {here}/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    );
    fs::write(folder.join("config"), config).unwrap();
    let mut command = Command::new(&program);
    command.args(["-D", "-e", "-f"]).arg(folder.join("config"));
    let server = Server::start(&mut command, port)?;
    let wrapper = folder.join("ssh");
    let script = format!(
        "#!/bin/sh\nexec ssh -F none -i {here}/user -o UserKnownHostsFile={here}/known \
         -o StrictHostKeyChecking=accept-new \"$@\"\n"
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    Some((server, wrapper, port))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_behind_a_real_sshd() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_server, ssh, port)) = sshd(folder.path()) else { return };
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let cache = folder.path().join("it's a cache");
    let place: Place = format!("ssh://{user}@127.0.0.1:{port}{}", cache.display()).parse().unwrap();
    there_and_back(&place, &Options { ssh, ..Options::default() }).await;
    assert!(walk(&cache).len() > 1);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_and_nothing_wrong_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let remote = Remote::open(Place::Folder(cache.clone()), &Options::default()).unwrap();
    let mine = lease(&folder.path().join("mine"));
    let record = stage(&mine, folder.path(), 2, 1 << 20);
    remote.push(&record, &there(record.key), &mine).await.unwrap();
    let object = walk(&cache.join("v1/objects")).pop().unwrap();
    let mut bytes = fs::read(&object).unwrap();
    bytes[100] ^= 1;
    fs::write(&object, bytes).unwrap();
    let yours = lease(&folder.path().join("yours"));
    let error = remote.fetch(&there(record.key), here(record.key), &yours).await.unwrap_err();
    assert!(error.to_string().contains("its digest is"), "{error}");
    assert_eq!(yours.lookup(&record.key).unwrap(), None);
    fs::remove_file(&object).unwrap();
    let error = remote.fetch(&there(record.key), here(record.key), &yours).await.unwrap_err();
    assert!(error.to_string().contains("is not there"), "{error}");
    // A record of another version is none, and neither is one of another stage.
    let path = walk(&cache.join("v1/stages")).pop().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let other = text.replace("\"version\":2", "\"version\":999");
    assert_ne!(other, text);
    fs::write(&path, other).unwrap();
    assert_eq!(remote.fetch(&there(record.key), here(record.key), &yours).await.unwrap(), None);
    let key = there(Digest([3; 32])).to_string();
    let foreign = cache.join(format!("v1/stages/{}", &key[..2]));
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join(format!("{}.json", &key[2..])), text).unwrap();
    assert_eq!(
        remote.fetch(&there(Digest([3; 32])), here(Digest([3; 32])), &yours).await.unwrap(),
        None
    );
}

/// Makes a file a tebibyte long, almost all of it a hole: whoever reads it to its
/// end fills a disk.
fn swell(file: &Path) {
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1 << 40).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_it_can_be_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { ssh: ssh_here(folder.path()), ..Options::default() };
    let cache = folder.path().join("cache");
    let behind_ssh = format!("ssh://me@there{}", cache.display()).parse().unwrap();
    let mine = lease(&folder.path().join("mine"));
    let yours = lease(&folder.path().join("yours"));
    let record = stage(&mine, folder.path(), 7, 1 << 20);
    let places = [Place::Folder(cache.clone()), behind_ssh];
    let [near, far] = places.map(|place| Remote::open(place, &options).unwrap());
    near.push(&record, &there(record.key), &mine).await.unwrap();
    swell(&walk(&cache.join("v1/objects")).pop().unwrap());
    for remote in [&near, &far] {
        let fetched = remote.fetch(&there(record.key), here(record.key), &yours).await;
        let error = fetched.unwrap_err().to_string();
        assert!(
            error.contains("it has more than the 2162688 bytes that its disk allows"),
            "{error}"
        );
    }
    swell(&walk(&cache.join("v1/stages")).pop().unwrap());
    for remote in [&near, &far] {
        let fetched = remote.fetch(&there(record.key), here(record.key), &yours).await;
        assert_eq!(fetched.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_secret_only_what_is_signed_counts() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let remote = |secret: &[u8]| {
        let options = Options { secret: Secret::new(secret), ..Options::default() };
        Remote::open(Place::Folder(cache.clone()), &options).unwrap()
    };
    let (ours, theirs, nobodys) =
        (remote(b"the secret of our team"), remote(b"another one altogether"), remote(b""));
    let mine = lease(&folder.path().join("mine"));
    let yours = lease(&folder.path().join("yours"));
    let record = stage(&mine, folder.path(), 5, 1 << 20);
    // Somebody without the secret says that the key means other disks.
    let forged = StageRecord { key: record.key, ..stage(&mine, folder.path(), 6, 1 << 20) };
    nobodys.push(&forged, &there(forged.key), &mine).await.unwrap();
    assert_eq!(
        ours.fetch(&there(record.key), here(record.key), &yours).await.unwrap(),
        None,
        "it is not signed"
    );
    ours.push(&record, &there(record.key), &mine).await.unwrap();
    ours.fetch(&there(record.key), here(record.key), &yours).await.unwrap().unwrap();
    assert_eq!(yours.lookup(&record.key).unwrap().unwrap().disks, record.disks);
    // What is signed with another secret, or with none, or was moved to another key.
    let signed = walk(&cache.join("v1/signed")).pop().unwrap();
    let whole = fs::read(&signed).unwrap();
    let error = theirs.fetch(&there(record.key), here(record.key), &yours).await.unwrap_err();
    assert!(error.to_string().contains("not signed"), "{error}");
    let text = fs::read(walk(&cache.join("v1/stages")).pop().unwrap()).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
    fs::write(&signed, [&whole[..=first], &text].concat()).unwrap();
    let error = ours.fetch(&there(record.key), here(record.key), &yours).await.unwrap_err();
    assert!(error.to_string().contains("not signed"), "{error}");
    let other = there(Digest([9; 32])).to_string();
    let moved = cache.join(format!("v1/signed/{}", &other[..2]));
    fs::create_dir_all(&moved).unwrap();
    fs::write(moved.join(format!("{}.json", &other[2..])), whole).unwrap();
    assert_eq!(
        ours.fetch(&there(Digest([9; 32])), here(Digest([9; 32])), &yours).await.unwrap(),
        None
    );
}

/// A server on loopback, ended with the test.
struct Server(Child);

impl Server {
    /// Starts it and waits until it listens, if there is such a program.
    fn start(command: &mut Command, port: u16) -> Option<Self> {
        let server = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?);
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(server)
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts moto, where it is installed; gives its address.
fn moto() -> Option<(Server, String)> {
    let program = std::env::var_os("VBUILD_MOTO_SERVER").unwrap_or_else(|| "moto_server".into());
    let port = free_port();
    let mut command = Command::new(&program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let Some(server) = Server::start(&mut command, port) else {
        eprintln!(
            "skipped: there is no moto_server (pip install 'moto[server]'), \
             nor does VBUILD_MOTO_SERVER name one"
        );
        return None;
    };
    Some((server, format!("http://127.0.0.1:{port}")))
}

/// The environment is the process's, so this is the only test that sets it, and
/// it does so in a process of its own.
#[test]
fn s3() {
    const INNER: &str = "VBUILD_TEST_S3_INNER";
    if std::env::var_os(INNER).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let place = "s3://layers/team/cache".parse().unwrap();
        runtime.block_on(there_and_back(&place, &Options::default()));
        let missing = "s3://nobody/cache".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mine = lease(folder.path());
        let scratch = tempfile::tempdir().unwrap();
        let record = stage(&mine, scratch.path(), 4, 1 << 20);
        let remote = Remote::open(missing, &Options::default()).unwrap();
        let error = runtime.block_on(remote.push(&record, &there(record.key), &mine)).unwrap_err();
        assert!(error.to_string().contains("s3://nobody/cache"), "{error}");
        assert!(mine.lookup(&record.key).unwrap().is_some(), "the local result stays");
        return;
    }
    let Some((_server, url)) = moto() else { return };
    // Moto makes buckets for whoever asks.
    let made = Command::new("curl").args(["-sf", "-X", "PUT", &format!("{url}/layers")]).status();
    assert!(made.unwrap().success());
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s3", "--nocapture"])
        .env(INNER, "1")
        .env("AWS_ENDPOINT_URL", &url)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1")
        .status()
        .unwrap();
    assert!(status.success());
}
