//! `debootstrap` and the older `qemu-debootstrap`: a Debian root filesystem.

use plan::{FileSource, FileStep, GuestPath, Step, Upload, UploadEntry, UploadKind, Value};

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Command, Fault, Lowering, Work, guest_path},
};

const EMPTY_SH: &str = include_str!("../../scripts/empty-target.sh");
/// Files that debootstrap copies from the system on which it runs.
const LEAKS: &[&str] = &["etc/resolv.conf", "etc/hostname"];

/// Makes a Debian root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debootstrap {
    /// The suite.
    pub suite: String,
    /// The tag of the filesystem.
    pub target: String,
    /// The mirror.
    pub mirror: String,
    /// The architecture.
    pub arch: Option<String>,
    /// A keyring of the host.
    pub keyring: Option<String>,
    /// Whether the keyring is installed in the image too.
    pub install_keyring: bool,
    /// The variant; `-` is debootstrap's default.
    pub variant: String,
    /// Components of the archive.
    pub components: Vec<String>,
    /// Additional packages.
    pub include: Vec<String>,
    /// Excluded packages.
    pub exclude: Vec<String>,
    /// Whether the target must be empty.
    pub require_empty_target: bool,
    /// CA certificates for the image and for access to the mirror.
    pub tls_ca_certs: Vec<String>,
}

impl StepKind for Debootstrap {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            suite: fields.word("debootstrap"),
            target: fields.word("target"),
            mirror: fields.word("mirror"),
            arch: fields.optional("arch"),
            keyring: fields.optional("keyring"),
            install_keyring: fields.flag_or("install_keyring", false),
            variant: fields.text_or("variant", "-"),
            components: fields.list_or("components", &["main"]),
            include: fields.list_or("include", &[]),
            exclude: fields.list_or("exclude", &[]),
            require_empty_target: fields.flag_or("require_empty_target", true),
            tls_ca_certs: fields.list_or("tls_ca_certs", &[]),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        if let Some(arch) = &self.arch {
            lowering.arch.clone_from(arch);
        }
        let root = lowering.root_of("target", &self.target)?;
        let mut work: Vec<Work> = lowering.preparation();
        if self.require_empty_target {
            let what = "look into the target";
            work.push(
                lowering
                    .script(what, EMPTY_SH, vec![root.as_str().into()])
                    .shown(&["ls", root.as_str()])
                    .work(),
            );
        }
        let mut words = vec!["debootstrap".to_owned(), "--arch".into(), lowering.arch.clone()];
        words.extend(["--variant".into(), self.variant.clone()]);
        words.extend(["--components".into(), self.components.join(",")]);
        if let Some(keyring) = &self.keyring {
            let path = keyring_in_guest(lowering, keyring, &mut work)?;
            words.extend(["--keyring".into(), path.to_string()]);
        }
        if !self.include.is_empty() {
            words.extend(["--include".into(), self.include.join(",")]);
        }
        if !self.exclude.is_empty() {
            words.extend(["--exclude".into(), self.exclude.join(",")]);
        }
        words.extend([self.suite.clone(), root.to_string(), self.mirror.clone()]);
        self.trust(lowering, &mut work)?;
        let argv = words.into_iter().map(Value::Text).collect();
        work.push(lowering.tool("debootstrap", argv).work());
        work.extend(remove_leaks(&root)?);
        // debootstrap may have copied these files from another machine before they were removed.
        work.push(lowering.lend(&root, &["resolv.conf", "hostname"]));
        self.install_trust(lowering, &root, &mut work)?;
        work.push(Step::KillProcesses { root: root.clone() }.into());
        lowering.stage("", Some(&root), true, work);
        Ok(())
    }

    fn lower_skipped(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        if let Some(arch) = &self.arch {
            lowering.arch.clone_from(arch);
        }
        update(lowering, &self.target)
    }
}

impl Debootstrap {
    /// Installs the CA certificates in the guest, for a mirror that needs them.
    fn trust(&self, lowering: &Lowering<'_>, work: &mut Vec<Work>) -> Result<(), Fault> {
        if self.tls_ca_certs.is_empty() {
            return Ok(());
        }
        let to = guest_path("", "/usr/local/share/ca-certificates")?;
        work.push(self.certificates(lowering, to)?.into());
        work.push(lowering.tool("trust", vec!["update-ca-certificates".into()]).work());
        Ok(())
    }

    fn certificates(&self, lowering: &Lowering<'_>, to: GuestPath) -> Result<Step, Fault> {
        let mut entries: Vec<UploadEntry> = Vec::new();
        for path in &self.tls_ca_certs {
            let file = lowering.directories.file(path).map_err(Fault::input("tls_ca_certs"))?;
            // update-ca-certificates reads only files with this suffix.
            let name = file.name();
            let name = name.strip_suffix(".pem").unwrap_or(&name);
            let name = format!("{}.crt", name.strip_suffix(".crt").unwrap_or(name));
            if entries.iter().any(|entry| entry.path == name.as_str()) {
                let message = format!("two certificates are called `{name}`");
                return Err(Fault::new("tls_ca_certs", message));
            }
            entries.push(file.entry(&name, 0o644));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Step::Upload(Upload { what: "certificates".into(), to, entries }))
    }

    /// Installs keyring and certificates in the image.
    fn install_trust(
        &self,
        lowering: &Lowering<'_>,
        root: &GuestPath,
        work: &mut Vec<Work>,
    ) -> Result<(), Fault> {
        if !self.tls_ca_certs.is_empty() {
            let to = guest_path("", &format!("{root}/usr/local/share/ca-certificates"))?;
            work.push(self.certificates(lowering, to)?.into());
            let script = "! command -v update-ca-certificates >/dev/null || update-ca-certificates";
            let argv = vec!["sh".into(), "-ec".into(), script.into()];
            work.push(lowering.in_image(root, "trust in the image", argv).work());
        }
        if let (Some(keyring), true) = (&self.keyring, self.install_keyring) {
            let file = lowering.directories.keyring(keyring).map_err(|error| {
                let needs = "`install_keyring` needs a file of this host";
                let hint = error.hint().unwrap_or_else(|| needs.to_owned());
                Fault::input("keyring")(error).hint(hint)
            })?;
            // apt distinguishes binary and armored keyrings by suffix, so the image needs no gnupg.
            let name = file.name();
            let has_end = name.ends_with(".gpg") || name.ends_with(".asc");
            let name = if has_end { name } else { format!("{name}.gpg") };
            let to = guest_path("", &format!("{root}/etc/apt/trusted.gpg.d"))?;
            let entries = vec![file.entry(&name, 0o644)];
            work.push(Step::Upload(Upload { what: "keyring".into(), to, entries }).into());
        }
        Ok(())
    }
}

/// The guest path of the keyring: the file of the host, or the appliance's file of that name if the
/// host has none.
fn keyring_in_guest(
    lowering: &Lowering<'_>,
    keyring: &str,
    work: &mut Vec<Work>,
) -> Result<GuestPath, Fault> {
    if !lowering.directories.has_file(keyring) && keyring.starts_with("/usr/share/keyrings/") {
        return guest_path("keyring", keyring);
    }
    let file = lowering.directories.keyring(keyring).map_err(Fault::input("keyring"))?;
    let to = lowering.own_directory();
    let name = file.name();
    let path = guest_path("keyring", &format!("{to}/{name}"))?;
    let entries = vec![file.entry(&name, 0o644)];
    work.push(Step::Upload(Upload { what: "keyring".into(), to, entries }).into());
    Ok(path)
}

fn remove_leaks(root: &GuestPath) -> Result<Vec<Work>, Fault> {
    LEAKS
        .iter()
        .map(|file| {
            let path = guest_path("", &format!("{root}/{file}"))?;
            Ok(Step::File(FileStep::Remove { path, content_only: false }).into())
        })
        .collect()
}

fn apt_update(lowering: &Lowering<'_>, root: &GuestPath) -> Command {
    let argv = vec!["apt-get".into(), "update".into()];
    lowering.in_image(root, "apt-get update", argv).env("DEBIAN_FRONTEND", "noninteractive")
}

/// What a skipped step still does: updates package lists, which are otherwise as old as the
/// tarball.
fn update(lowering: &mut Lowering<'_>, target: &str) -> Result<(), Fault> {
    let root = lowering.root_of("target", target)?;
    let command = apt_update(lowering, &root);
    lowering.image_stage(&root, vec![command]);
    Ok(())
}

/// Creates a Debian root filesystem of another architecture, as in vmdb2 0.26.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuDebootstrap {
    /// The options shared with `debootstrap`.
    pub base: Debootstrap,
}

impl StepKind for QemuDebootstrap {
    fn read(fields: &mut Fields<'_>) -> Self {
        let base = Debootstrap {
            suite: fields.word("qemu-debootstrap"),
            target: fields.word("target"),
            mirror: fields.word("mirror"),
            arch: Some(fields.word("arch")),
            keyring: fields.optional("keyring"),
            install_keyring: false,
            variant: fields.text_or("variant", "-"),
            components: fields.list_or("components", &["main"]),
            include: Vec::new(),
            exclude: Vec::new(),
            require_empty_target: false,
            tls_ca_certs: Vec::new(),
        };
        Self { base }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        self.base.lower(lowering)?;
        let root = lowering.root_of("target", &self.base.target)?;
        let mut work = lowering.preparation();
        work.push(apt_update(lowering, &root).work());
        work.push(Step::KillProcesses { root: root.clone() }.into());
        lowering.stage("-update", Some(&root), true, work);
        Ok(())
    }

    fn lower_skipped(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        self.base.lower_skipped(lowering)
    }
}

/// A text as an entry of an upload.
pub(super) fn text_entry(name: &str, text: &str, mode: u32) -> UploadEntry {
    let source = FileSource::Text(text.to_owned());
    UploadEntry { path: name.into(), kind: UploadKind::File { mode, source } }
}
