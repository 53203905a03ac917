//! A Debian mirror on a local port for tests: a release of a few packages, signed by a generated
//! key, served with injected faults.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use architecture::MachineArchitecture;
use pgp::{
    composed::{
        CleartextSignedMessage, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
        SignedSecretKey, SubkeyParamsBuilder,
    },
    types::Password,
};
use sha2::{Digest, Sha256};

use crate::packages;

/// A local HTTP server of files in memory.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    /// The number of bytes of a file's body to send before closing the connection, once.
    cuts: Mutex<HashMap<String, usize>>,
    requests: Mutex<Vec<(String, u64)>>,
    stopped: AtomicBool,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&for_thread);
                thread::spawn(move || drop(serve(&stream.unwrap(), &shared)));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.shared.files.lock().unwrap().insert(path.to_owned(), bytes);
    }

    /// Modifies an existing file.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.shared.files.lock().unwrap().get_mut(path).expect("the file exists"));
    }

    /// Closes the connection of the next request after some bytes of the body.
    pub(crate) fn cut(&self, path: &str, after: usize) {
        self.shared.cuts.lock().unwrap().insert(path.to_owned(), after);
    }

    /// The requests so far: path, and offset of the first byte.
    pub(crate) fn requests(&self) -> Vec<(String, u64)> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Refuses all further requests.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, so that it closes the port.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers one request and closes the connection.
fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut offset = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            offset = range.trim_end_matches('-').parse().unwrap();
        }
    }
    shared.requests.lock().unwrap().push((path.clone(), offset));
    let body = shared.files.lock().unwrap().get(&path).cloned();
    let mut out = stream;
    let Some(body) = body else {
        return out.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let from = usize::try_from(offset).unwrap();
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let rest = &body[from..];
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nConnection: close\r\n\r\n",
        rest.len(),
        body.len() - 1,
        body.len()
    )?;
    let cut = shared.cuts.lock().unwrap().remove(&path);
    out.write_all(&rest[..cut.unwrap_or(rest.len()).min(rest.len())])
}

/// A key with a signing subkey, like Debian's.
pub(crate) fn signing_key() -> SignedSecretKey {
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .can_encrypt(EncryptionCaps::None)
        .build()
        .unwrap();
    SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(false)
        .can_encrypt(EncryptionCaps::None)
        .primary_user_id("test archive".into())
        .subkeys(vec![subkey])
        .build()
        .unwrap()
        .generate(rand::thread_rng())
        .unwrap()
}

/// A mirror with a release of a few packages.
#[derive(Debug)]
pub(crate) struct TestMirror {
    pub(crate) server: Server,
    key: SignedSecretKey,
    debs: BTreeMap<String, (String, Vec<u8>)>,
}

impl TestMirror {
    /// A mirror whose release has an essential package, a kernel, and the package `extra`, which
    /// tests can request.
    pub(crate) fn start() -> Self {
        let mut mirror =
            Self { server: Server::start(), key: signing_key(), debs: BTreeMap::new() };
        let shell = "#!/bin/sh\nset -e\nreal work\n";
        mirror.add("base-files", "1", "Essential: yes\n", &[("./bin/sh", 0o755, shell.as_bytes())]);
        mirror.add("extra", "1", "Depends: base-files\n", &[("./usr/bin/extra", 0o4755, b"extra")]);
        mirror.add("linux-image-6.1-cloud-amd64", "1", "", &kernel_files());
        let meta = "Depends: linux-image-6.1-cloud-amd64 (= 1)\n";
        mirror.add(packages::kernel(MachineArchitecture::Amd64), "1", meta, &[]);
        mirror.publish();
        mirror
    }

    pub(crate) fn public_key(&self) -> SignedPublicKey {
        SignedPublicKey::from(self.key.clone())
    }

    /// Adds a package, or another version of it.
    pub(crate) fn add(
        &mut self,
        name: &str,
        version: &str,
        fields: &str,
        files: &[(&str, u32, &[u8])],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let control = format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n{fields}");
        let path = crate::deb::tests::package(dir.path(), name, &control, files);
        let entry = (control, std::fs::read(path).unwrap());
        self.debs.insert(name.to_owned(), entry);
    }

    /// The path of a package on the mirror.
    pub(crate) fn path_of(name: &str) -> String {
        format!("/debian/pool/{name}.deb")
    }

    /// Publishes the added packages, with a new signature.
    pub(crate) fn publish(&self) {
        self.publish_dated(&today());
    }

    /// Same as [`Self::publish`], but with the given date.
    pub(crate) fn publish_dated(&self, date: &str) {
        let mut index = String::new();
        for (name, (control, bytes)) in &self.debs {
            let digest = hex::encode(Sha256::digest(bytes));
            let place =
                format!("Filename: pool/{name}.deb\nSize: {}\nSHA256: {digest}\n\n", bytes.len());
            index.extend([control.as_str(), place.as_str()]);
            self.server.put(&Self::path_of(name), bytes.clone());
        }
        for (suite, archive, text) in [
            ("bookworm", "debian", index.as_str()),
            ("bookworm-updates", "debian", ""),
            ("bookworm-security", "debian-security", ""),
        ] {
            let mut packed = Vec::new();
            let mut encoder = liblzma::read::XzEncoder::new(text.as_bytes(), 1);
            std::io::copy(&mut encoder, &mut packed).unwrap();
            let digest = hex::encode(Sha256::digest(&packed));
            let base = format!("/{archive}/dists/{suite}");
            let release = format!(
                "Origin: Debian\nCodename: {suite}\nDate: {date}\nSHA256:\n {digest} {} main/binary-amd64/Packages.xz\n",
                packed.len()
            );
            self.server.put(&format!("{base}/main/binary-amd64/Packages.xz"), packed);
            self.server.put(&format!("{base}/InRelease"), self.sign(&release).into_bytes());
        }
    }

    fn sign(&self, text: &str) -> String {
        let subkey = &self.key.secret_subkeys[0];
        CleartextSignedMessage::sign(rand::thread_rng(), text, &subkey.key, &Password::empty())
            .unwrap()
            .to_armored_string(None.into())
            .unwrap()
    }
}

/// The current day at midnight, in the format of Release files.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // Uses the parser under test to find the current day.
    for year in 1970 + days / 366..=1970 + days / 365 {
        for month in months {
            for day in 1..=31 {
                let text = format!("Sun, {day} {month} {year} 00:00:00 UTC");
                if crate::date::parse(&text) == Some(days * 86_400) {
                    return text;
                }
            }
        }
    }
    unreachable!("every day has a date")
}

/// A kernel with the modules that the agent loads, one of them built in.
fn kernel_files() -> Vec<(&'static str, u32, &'static [u8])> {
    let module = |depends: &str| -> &'static [u8] { Vec::leak(elf_with_modinfo(depends)) };
    vec![
        ("./boot/vmlinuz-6.1-cloud", 0o644, b"bzImage"),
        ("./lib/modules/6.1-cloud/modules.builtin", 0o644, b"kernel/fs/ext4/ext4.ko\n"),
        ("./lib/modules/6.1-cloud/kernel/drivers/virtio/virtio.ko", 0o644, module("")),
        ("./lib/modules/6.1-cloud/kernel/drivers/virtio/virtio_mmio.ko", 0o644, module("virtio")),
        ("./lib/modules/6.1-cloud/kernel/drivers/block/virtio_blk.ko", 0o644, module("virtio")),
        ("./lib/modules/6.1-cloud/kernel/drivers/char/virtio-rng.ko", 0o644, module("virtio")),
        (
            "./lib/modules/6.1-cloud/kernel/net/vmw_vsock_virtio_transport.ko",
            0o644,
            module("virtio"),
        ),
        ("./lib/modules/6.1-cloud/kernel/fs/overlay.ko", 0o644, module("")),
        ("./lib/modules/6.1-cloud/kernel/drivers/usb/usb.ko", 0o644, module("")),
    ]
}

/// A relocatable ELF file of two sections: `.modinfo` and the section names.
fn elf_with_modinfo(depends: &str) -> Vec<u8> {
    let modinfo = format!("license=GPL\0depends={depends}\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |value: u16, file: &mut Vec<u8>| file.extend(value.to_le_bytes());
    half(1, &mut file); // relocatable
    half(62, &mut file); // x86-64
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 16]); // no entry point, no program headers
    let data_at = 64_u64;
    let names_at = data_at + modinfo.len() as u64;
    let sections_at = (names_at + names.len() as u64).next_multiple_of(8);
    file.extend(sections_at.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for value in [64, 0, 0, 64, 3, 2] {
        half(value, &mut file);
    }
    file.extend(modinfo.as_bytes());
    file.extend(names);
    file.resize(usize::try_from(sections_at).unwrap(), 0);
    let sections = [(0, 0, 0, 0), (1, 1, data_at, modinfo.len()), (10, 3, names_at, names.len())];
    for (name, kind, at, length) in sections {
        file.extend(u32::to_le_bytes(name));
        file.extend(u32::to_le_bytes(kind));
        for value in [0, 0, at, length as u64] {
            file.extend(value.to_le_bytes());
        }
        file.extend([0; 8]); // no link, no information
        file.extend(1_u64.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
    }
    file
}
