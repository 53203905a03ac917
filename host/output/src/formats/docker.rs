//! Container images: one layer with the whole tree, in one archive.
//!
//! ```text
//!   oci-layout             the OCI image layout…
//!   blobs/sha256/<layer>   …with the tree, compressed by gzip unless -u is given
//!   blobs/sha256/<config>
//!   blobs/sha256/<manifest>
//!   index.json
//!   manifest.json          …and what `docker load` of any age reads
//! ```
//!
//! The layer is written to the archive as the guest sends it; its tar header, which contains digest
//! and size, is filled in afterwards.

use std::io::{self, Read};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar_stream::{BLOCK_BYTES, Entry, file_header};

use crate::{
    Checksum, OutputError, Result, Target,
    atomic::OutFile,
    checksum::Digester,
    commit::civil_date,
    format::{Format, Naming, Need, Origin, Writer, no_options},
    formats::{tar, tgz},
    losses::{Losses, Watch},
};

/// The docker format, for `docker load` and for everything that reads OCI archives.
pub(crate) const DOCKER: Format = Format {
    name: "docker",
    suffix: "docker.tar",
    about: "a container image for `docker load` and `podman load`",
    origin: Origin::Tree,
    container: Some(Naming::Required),
    max_bytes: u64::MAX,
    sequential: false,
    needs: needs_name,
    write: Writer::Tree(write_docker),
};

/// The OCI format, for registries and tools that accept only the OCI layout.
pub(crate) const OCI: Format = Format {
    name: "oci",
    suffix: "oci.tar",
    about: "a container image as an OCI archive",
    origin: Origin::Tree,
    container: Some(Naming::Optional),
    max_bytes: u64::MAX,
    sequential: false,
    needs: may_have_name,
    write: Writer::Tree(write_oci),
};

const LAYOUT_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// The tag of an image name without one.
const DEFAULT_TAG: &str = "latest";

fn needs_name(target: &Target) -> Result<Option<Need>> {
    let name = target.container.as_deref().ok_or(OutputError::MissingDockerTarget)?;
    Reference::parse(name)?;
    no_options(target)
}

fn may_have_name(target: &Target) -> Result<Option<Need>> {
    target.container.as_deref().map(Reference::parse).transpose()?;
    no_options(target)
}

fn write_docker(tar: &mut dyn Read, out: &mut OutFile, target: &Target) -> Result<()> {
    write(tar, out, target, true)
}

fn write_oci(tar: &mut dyn Read, out: &mut OutFile, target: &Target) -> Result<()> {
    write(tar, out, target, false)
}

/// Records files whose names a layer cannot represent: engines read them as whiteouts, which delete
/// files of lower layers.
fn note_losses(entry: &Entry, losses: &mut Losses) {
    if entry.path.iter().any(|name| name.starts_with(b".wh.")) {
        losses.add(
            "files called `.wh.…`, which engines take for marks that remove other files",
            &entry.path,
        );
    }
}

fn write(tree: &mut dyn Read, out: &mut OutFile, target: &Target, docker: bool) -> Result<()> {
    std::thread::scope(|scope| {
        let (mut watched, looking) = Watch::start(scope, tree, note_losses);
        let written = write_archive(&mut watched, out, target, docker);
        drop(watched);
        out.losses = looking.join().map_err(|_| OutputError::WorkerLost)?;
        written
    })
}

fn write_archive(
    tree: &mut dyn Read,
    out: &mut OutFile,
    target: &Target,
    docker: bool,
) -> Result<()> {
    let reference = target.container.as_deref().map(Reference::parse).transpose()?;
    let mut archive = Archive { out, unix_time: target.identity.unix_time };
    archive.member("oci-layout", &json_bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
    let layer = archive.layer(tree, target.compress)?;
    let created = rfc3339(target.identity.unix_time);
    let config = archive.blob(&json!({
        "created": created,
        "architecture": target.architecture,
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.plain_digest)] },
        "history": [{ "created": created, "created_by": "vbuild" }],
    }))?;
    let layer_type = format!("{LAYER_TYPE}{}", if target.compress { "+gzip" } else { "" });
    let manifest = archive.blob(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(CONFIG_TYPE),
        "layers": [layer.blob.descriptor(&layer_type)],
    }))?;
    let mut entry = manifest.descriptor(MANIFEST_TYPE);
    entry["platform"] = json!({ "architecture": target.architecture, "os": "linux" });
    if let Some(reference) = &reference {
        entry["annotations"] = json!({
            "io.containerd.image.name": reference.full(),
            "org.opencontainers.image.ref.name": reference.tag,
        });
    }
    let index = json!({ "schemaVersion": 2, "mediaType": LAYOUT_TYPE, "manifests": [entry] });
    archive.member("index.json", &json_bytes(&index))?;
    if let Some(reference) = reference.filter(|_| docker) {
        let manifest = json!([{
            "Config": config.path(),
            "RepoTags": [reference.familiar()],
            "Layers": [layer.blob.path()],
        }]);
        archive.member("manifest.json", &json_bytes(&manifest))?;
    }
    // The end marker of a tar archive.
    archive.out.append(&[0; 2 * BLOCK_BYTES])
}

/// A blob in the archive.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        })
    }
}

struct Layer {
    blob: Blob,
    plain_digest: String,
}

struct Archive<'a> {
    out: &'a mut OutFile,
    unix_time: u64,
}

impl Archive<'_> {
    fn member(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.out.append(&file_header(name, content.len() as u64, self.unix_time))?;
        self.out.append(content)?;
        self.pad()
    }

    fn blob(&mut self, content: &serde_json::Value) -> Result<Blob> {
        let bytes = json_bytes(content);
        let digest = hex::encode(Sha256::digest(&bytes));
        let blob = Blob { digest, size: bytes.len() as u64 };
        self.member(&blob.path(), &bytes)?;
        Ok(blob)
    }

    /// Streams the tree into the archive as a layer.
    fn layer(&mut self, tree: &mut dyn Read, compress: bool) -> Result<Layer> {
        let header_at = self.out.position();
        self.out.append(&[0; BLOCK_BYTES])?;
        let start = self.out.position();
        let mut plain = Digester::new(&[Checksum::Sha256]);
        let mut stored = Digester::new(&[Checksum::Sha256]);
        let mut tree = Tee { input: tree, seen: &mut plain };
        let mut sink = |bytes: &[u8]| {
            stored.update(bytes);
            self.out.append(bytes)
        };
        if compress {
            tgz::gzip(&mut tree, &mut sink)?;
        } else {
            while let Some(chunk) = tar::next_chunk(&mut tree, tar::READ_BYTES)? {
                sink(&chunk)?;
            }
        }
        let size = self.out.position() - start;
        let blob = Blob { digest: only(stored)?, size };
        self.out.patch(header_at, &file_header(&blob.path(), size, self.unix_time))?;
        self.pad()?;
        Ok(Layer { blob, plain_digest: only(plain)? })
    }

    fn pad(&mut self) -> Result<()> {
        let position = self.out.position();
        let missing = position.next_multiple_of(BLOCK_BYTES as u64) - position;
        let missing = usize::try_from(missing).unwrap_or_default();
        self.out.append(&[0; BLOCK_BYTES][..missing])
    }
}

fn only(digester: Digester) -> Result<String> {
    digester.finish()?.pop().map(|(_, hex)| hex).ok_or(OutputError::WorkerLost)
}

/// Hashes the data that is read through it.
struct Tee<'a> {
    input: &'a mut dyn Read,
    seen: &'a mut Digester,
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buf)?;
        self.seen.update(&buf[..count]);
        Ok(count)
    }
}

fn json_bytes(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn rfc3339(unix_time: u64) -> String {
    let (year, month, day) = civil_date(unix_time / 86_400);
    let rest = unix_time % 86_400;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The name and the tag of a container image.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    name: String,
    tag: String,
}

/// Maximum length of name and tag in the distribution specification.
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

impl Reference {
    fn parse(text: &str) -> Result<Self> {
        let invalid =
            |reason| Err(OutputError::InvalidDockerTarget { target: text.to_owned(), reason });
        if text.contains('@') {
            return invalid("a digest follows from the content and cannot be given");
        }
        // A colon before the last slash belongs to the port of a registry.
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, DEFAULT_TAG),
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let starts_well =
            tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !starts_well || tag.len() > MAX_TAG_BYTES || !tag.bytes().all(word) {
            return invalid("its tag has characters that tags cannot have");
        }
        if name.len() > MAX_NAME_BYTES {
            return invalid("it is too long");
        }
        let mut parts = name.split('/').peekable();
        let first = parts.peek().copied().unwrap_or_default();
        if is_registry(first) && name.contains('/') {
            parts.next();
        }
        if !parts.all(is_path_component) {
            return invalid(
                "it has a part that is not lower-case letters, digits and single `.-_`",
            );
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }

    /// The short form that users write and `docker load` expects.
    fn familiar(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    /// The full form, with the default registry if none is given.
    fn full(&self) -> String {
        let registry = match self.name.split_once('/') {
            Some((first, _)) if is_registry(first) => "",
            Some(_) => "docker.io/",
            None => "docker.io/library/",
        };
        format!("{registry}{}:{}", self.name, self.tag)
    }
}

/// Whether the first component of a name is a registry: it contains a dot or a port, or is
/// `localhost`.
fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn is_path_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part.bytes().all(inner)
        && !part.contains("..")
        && !part.contains("___")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        let parse = |text: &str| Reference::parse(text).map(|r| (r.familiar(), r.full()));
        for (text, familiar, full) in [
            ("deb", "deb:latest", "docker.io/library/deb:latest"),
            ("me/deb:1.0_x", "me/deb:1.0_x", "docker.io/me/deb:1.0_x"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
            ("reg.example/a-b:V2", "reg.example/a-b:V2", "reg.example/a-b:V2"),
        ] {
            assert_eq!(parse(text).unwrap(), (familiar.to_owned(), full.to_owned()));
        }
        for bad in
            ["", "Deb", "a/", "/a", "a:", "a:-x", "a b", "a@sha256:00", "a..b", "-a", "a:b c"]
        {
            assert!(matches!(parse(bad), Err(OutputError::InvalidDockerTarget { .. })), "{bad}");
        }
        assert!(parse(&"a".repeat(256)).is_err());
        assert!(parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn times() {
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
    }
}
