//! The properties of each kind of step that checks, keys and messages need, in one match: a new
//! kind of step gets one arm here, and the compiler asks for it.

use std::path::{Path, PathBuf};

use crate::{
    Env, FileSource, Layout, ResolvConf, RunParts, Step, Upload, UploadEntry, UploadKind, Value,
};

/// The properties of a step that do not depend on a running build.
#[derive(Debug, Default)]
pub(crate) struct Facets<'a> {
    /// A short description, for live views and messages.
    pub(crate) title: String,
    /// Whether the step has an effect on the host.
    pub(crate) changes_host: bool,
    /// The uploads of the step.
    pub(crate) uploads: Vec<&'a Upload>,
    /// Names of the facts that the step reads.
    pub(crate) facts_used: Vec<&'a str>,
    /// Names of the facts that the step sets, without those of layouts.
    pub(crate) facts_set: Vec<String>,
    /// The disk of the plan that the step works on.
    pub(crate) disk: Option<&'a str>,
    /// The nodes of the layout that the step makes.
    pub(crate) layout: Option<&'a Layout>,
    /// Names that the step gives to existing devices and filesystems of a disk.
    pub(crate) found: Vec<&'a str>,
    /// The phase of scripts that the step runs.
    pub(crate) phase: Option<&'a RunParts>,
    /// The directory on the host that the step fetches files to.
    pub(crate) fetched_to: Option<&'a Path>,
}

impl<'a> Facets<'a> {
    fn titled(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }
}

impl Step {
    pub(crate) fn facets(&self) -> Facets<'_> {
        match self {
            Self::Upload(upload) => Facets {
                uploads: vec![upload],
                ..Facets::titled(format!("upload {}", upload.what))
            },
            Self::Run(run) => Facets {
                facts_used: facts_of(&run.env).chain(run.argv.iter().filter_map(fact_of)).collect(),
                facts_set: run.capture.clone().into_iter().collect(),
                ..Facets::titled(&run.what)
            },
            Self::RunParts(parts) => Facets {
                uploads: parts.scripts.iter().map(|script| &script.upload).collect(),
                facts_used: facts_of(&parts.env).collect(),
                phase: Some(parts),
                ..Facets::titled(&parts.phase)
            },
            Self::File(_) => Facets::titled("change files"),
            Self::ResolvConf(ResolvConf::Prepare) => Facets::titled("prepare resolv.conf"),
            Self::ResolvConf(ResolvConf::Restore) => Facets::titled("restore resolv.conf"),
            Self::RequireContent { path, .. } => Facets::titled(format!("look into {path}")),
            Self::SetFact { fact, value } => Facets {
                facts_used: fact_of(value).into_iter().collect(),
                facts_set: vec![fact.clone()],
                ..Facets::titled(format!("set {fact}"))
            },
            Self::ImageSize(size) => Facets {
                facts_set: vec![size.fact.clone()],
                ..Facets::titled("compute the image's size")
            },
            Self::CreateLayout(layout) => {
                Facets { layout: Some(layout), ..Facets::titled("create the disk layout") }
            }
            Self::FindRoot { disk, .. } => Facets {
                disk: Some(disk),
                facts_set: vec!["root-device".into()],
                ..Facets::titled(format!("find the root filesystem of {disk}"))
            },
            Self::FindDevices { disk, devices } => Facets {
                disk: Some(disk),
                found: devices
                    .iter()
                    .flat_map(|found| [&*found.name, &*found.filesystem])
                    .collect(),
                ..Facets::titled(format!("find what stands on {disk}"))
            },
            Self::GrowRoot { disk } => Facets {
                disk: Some(disk),
                ..Facets::titled(format!("grow the root filesystem of {disk}"))
            },
            Self::ForgetLayout => Facets::titled("release the disks"),
            Self::WriteFstab { .. } => Facets::titled("write fstab"),
            Self::CopyTree { to, .. } => Facets::titled(format!("copy the tree to {to}")),
            Self::KillProcesses { .. } => Facets::titled("end left-over processes"),
            Self::Fetch { to, .. } => Facets {
                changes_host: true,
                fetched_to: Some(to),
                ..Facets::titled(format!("fetch {}", to.display()))
            },
            Self::ExportTree { output, .. } => Facets {
                changes_host: true,
                ..Facets::titled(format!("write {}", output.path.display()))
            },
            Self::Trim => Facets::titled("discard free blocks"),
            Self::ClampTimes { .. } => Facets::titled("clamp the times of files"),
            Self::Canonicalise { .. } => Facets::titled("write the filesystems anew"),
            Self::Say { text } => Facets::titled(text),
        }
    }

    /// Returns a short description of the step, for live views and messages.
    #[must_use]
    pub fn title(&self) -> String {
        self.facets().title
    }

    /// Whether the step has an effect on the host, so that it runs in every build.
    #[must_use]
    pub fn changes_host(&self) -> bool {
        self.facets().changes_host
    }

    /// Returns the uploads of the step.
    #[must_use]
    pub fn uploads(&self) -> Vec<&Upload> {
        self.facets().uploads
    }

    /// Returns the host files that the step reads.
    pub fn host_files(&self) -> impl Iterator<Item = &PathBuf> {
        let entries = self.uploads().into_iter().flat_map(|upload| &upload.entries);
        entries.filter_map(UploadEntry::host_path)
    }
}

impl UploadEntry {
    /// Returns the host file that the entry is a copy of; `None` for other kinds of entries.
    fn host_path(&self) -> Option<&PathBuf> {
        match &self.kind {
            UploadKind::File { source: FileSource::Host { path, .. }, .. } => Some(path),
            UploadKind::File { source: FileSource::Text(_), .. }
            | UploadKind::Directory(_)
            | UploadKind::Symlink(_)
            | UploadKind::Fifo(_)
            | UploadKind::Device { .. } => None,
        }
    }
}

fn facts_of(env: &Env) -> impl Iterator<Item = &str> {
    env.iter().filter_map(|(_, value)| fact_of(value))
}

fn fact_of(value: &Value) -> Option<&str> {
    match value {
        Value::Fact(fact) => Some(fact),
        Value::Text(_) => None,
    }
}
