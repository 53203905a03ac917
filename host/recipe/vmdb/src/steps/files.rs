//! `copy-file`, `copy-dir`, `create-file` and `create-dir`: files and directories in the image.
//! Paths are relative to the filesystem mounted at `/`.

use plan::{FileStep, GuestPath, Step, Upload, UploadEntry, Value};

use super::{StepKind, debootstrap::text_entry};
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, Work, guest_path},
};

const OWN_SH: &str = include_str!("../../scripts/own.sh");
const COPY_DIR_SH: &str = include_str!("../../scripts/copy-dir.sh");
/// Maximum user or group ID: 32 bits, of which all ones has a special meaning.
const ID_MAX: u32 = u32::MAX - 1;

/// The root of the image, and a path in it without the leading slash.
fn inside(
    lowering: &Lowering<'_>,
    key: &'static str,
    path: &str,
) -> Result<(GuestPath, String), Fault> {
    let tag = lowering.root_tag()?;
    let root = lowering.root_of(key, &tag)?;
    let path = guest_path(key, &format!("/{path}"))?;
    Ok((root, path.as_str().trim_start_matches('/').to_owned()))
}

/// The command that sets mode and owner of a path in the image.
fn own(
    lowering: &Lowering<'_>,
    root: &GuestPath,
    path: &str,
    mode: &str,
    owner: (u32, u32),
) -> Work {
    let owner = format!("{}:{}", owner.0, owner.1);
    let words = [root.as_str(), path, mode, &owner];
    let arguments: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
    let place = format!("{root}/{path}");
    lowering.script("set the owner", OWN_SH, arguments).shown(&["chown", &owner, &place]).work()
}

/// Adds the stage that installs one file in the image.
fn place_file(
    lowering: &mut Lowering<'_>,
    root: &GuestPath,
    entry: UploadEntry,
    owner: (u32, u32),
) {
    let path = entry.path.as_str().to_owned();
    let (what, to) = (format!("/{path}"), root.clone());
    let mut work: Vec<Work> = vec![Step::Upload(Upload { what, to, entries: vec![entry] }).into()];
    if owner != (0, 0) {
        work.push(own(lowering, root, &path, "-", owner));
    }
    lowering.stage("", Some(root), false, work);
}

fn no_name(key: &'static str) -> Fault {
    Fault::new(key, "names no file in the image")
}

/// Copies a file of the host into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFile {
    /// The path in the image.
    pub path: String,
    /// The path on the host.
    pub src: String,
    /// Permission bits.
    pub perm: u32,
    /// Numeric ID of the owner.
    pub uid: u32,
    /// Numeric ID of the group.
    pub gid: u32,
}

impl StepKind for CopyFile {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            path: fields.word("copy-file"),
            src: fields.word("src"),
            perm: fields.mode_or("perm", 0o644),
            uid: fields.number_or("uid", 0, ID_MAX),
            gid: fields.number_or("gid", 0, ID_MAX),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let (root, path) = inside(lowering, "copy-file", &self.path)?;
        if path.is_empty() {
            return Err(no_name("copy-file"));
        }
        let file = lowering.directories.file(&self.src).map_err(Fault::input("src"))?;
        place_file(lowering, &root, file.entry(&path, self.perm), (self.uid, self.gid));
        Ok(())
    }
}

/// Writes a file in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateFile {
    /// The path in the image.
    pub path: String,
    /// The content of the file.
    pub contents: String,
    /// Permission bits.
    pub perm: u32,
    /// Numeric ID of the owner.
    pub uid: u32,
    /// Numeric ID of the group.
    pub gid: u32,
}

impl StepKind for CreateFile {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            path: fields.word("create-file"),
            contents: fields.text("contents"),
            perm: fields.mode_or("perm", 0o644),
            uid: fields.number_or("uid", 0, ID_MAX),
            gid: fields.number_or("gid", 0, ID_MAX),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let (root, path) = inside(lowering, "create-file", &self.path)?;
        if path.is_empty() {
            return Err(no_name("create-file"));
        }
        let entry = text_entry(&path, &self.contents, self.perm);
        place_file(lowering, &root, entry, (self.uid, self.gid));
        Ok(())
    }
}

/// Makes a directory in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDir {
    /// The path in the image.
    pub path: String,
    /// Permission bits.
    pub perm: u32,
    /// Numeric ID of the owner.
    pub uid: u32,
    /// Numeric ID of the group.
    pub gid: u32,
}

impl StepKind for CreateDir {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            path: fields.word("create-dir"),
            perm: fields.mode_or("perm", 0o755),
            uid: fields.number_or("uid", 0, ID_MAX),
            gid: fields.number_or("gid", 0, ID_MAX),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let (root, path) = inside(lowering, "create-dir", &self.path)?;
        let directory = guest_path("create-dir", &format!("{root}/{path}"))?;
        let make = FileStep::MakeDirectory { path: directory, mode: self.perm };
        let mode = format!("{:04o}", self.perm);
        let set = own(lowering, &root, &path, &mode, (self.uid, self.gid));
        lowering.stage("", Some(&root), false, vec![Step::File(make).into(), set]);
        Ok(())
    }
}

/// Copies a directory of the host into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyDir {
    /// The path in the image.
    pub path: String,
    /// The path on the host.
    pub src: String,
    /// Mode of created parent directories.
    pub perm: u32,
    /// Mode bits to clear.
    pub umask: u32,
    /// Owner: a number, or a user name in the image.
    pub user: String,
    /// Group: a number, or a group name in the image.
    pub group: String,
}

impl StepKind for CopyDir {
    fn read(fields: &mut Fields<'_>) -> Self {
        let (path, src) = (fields.word("copy-dir"), fields.word("src"));
        let (perm, umask) = (fields.mode_or("perm", 0o755), fields.mode_or("umask", 0o022));
        let (uid, gid) = (fields.number_or("uid", 0, ID_MAX), fields.number_or("gid", 0, ID_MAX));
        let user = fields.optional("user").unwrap_or_else(|| uid.to_string());
        let group = fields.optional("group").unwrap_or_else(|| gid.to_string());
        Self { path, src, perm, umask, user, group }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let (root, path) = inside(lowering, "copy-dir", &self.path)?;
        let tree = lowering.directories.tree(&self.src, self.umask).map_err(Fault::input("src"))?;
        for warning in tree.warnings {
            lowering.warn("src", warning);
        }
        let staged = guest_path("", &format!("{}/tree", lowering.own_directory()))?;
        let (what, to) = (self.src.clone(), staged.clone());
        let upload = Step::Upload(Upload { what, to, entries: tree.entries });
        let mode = format!("{:04o}", self.perm & !self.umask);
        let target = format!("/{path}");
        let words = [root.as_str(), &target, staged.as_str(), &mode, &self.user, &self.group];
        let arguments: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
        let shown = ["cp", "-a", &self.src, &target];
        let copy = lowering.script("copy the directory", COPY_DIR_SH, arguments).shown(&shown);
        let remove = FileStep::Remove { path: staged, content_only: false };
        let work = vec![upload.into(), copy.work(), Step::File(remove).into()];
        lowering.stage("", Some(&root), false, work);
        Ok(())
    }
}
