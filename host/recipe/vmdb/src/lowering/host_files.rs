//! Host files that commands of a spec see: the user's shares, and the spec's own directory, which
//! is the working directory of `shell` steps as in vmdb2.

use plan::{Bind, GuestPath, Step, Upload};

use super::{Fault, Lowering, OWN_AT, WORK_AT, Work, guest_path};
use crate::shares;

/// The option that withholds the directory, for messages.
const NO_SHARE: &str = "--no-share-spec";

impl Lowering<'_> {
    /// Uploads host files, before the first step whose command can see them. The spec's directory
    /// is read only for a step that uses it.
    pub(crate) fn put_host_files(&mut self, with_folder: bool) -> Result<(), Fault> {
        let mut work: Vec<Work> = Vec::new();
        if !std::mem::replace(&mut self.has_host_files, true) {
            for share in &self.settings.shares {
                self.notes.extend(share.warnings.iter().cloned());
                let what = format!("shared {}", share.host.display());
                let (to, entries) = (share.to.clone(), share.entries.clone());
                work.push(Step::Upload(Upload { what, to, entries }).into());
            }
        }
        if with_folder && !self.has_folder {
            work.extend(self.folder()?);
        }
        if !work.is_empty() {
            self.stage("-files", None, false, work);
        }
        Ok(())
    }

    /// The spec's directory as an upload, with the command line shown for it.
    fn folder(&mut self) -> Result<Option<Work>, Fault> {
        let Some(path) = self.settings.folder.clone() else { return Ok(None) };
        if self.settings.shares.iter().any(|share| share.to.as_str() == WORK_AT) {
            return Ok(None);
        }
        self.has_folder = true;
        let shown = path.display();
        let is_broad = |broad: &std::path::PathBuf| {
            std::fs::canonicalize(broad).is_ok_and(|broad| broad.starts_with(&path))
        };
        if self.settings.sources.broad.iter().any(is_broad) {
            self.has_folder = false;
            self.notes.push(format!(
                "`shell` steps do not see `{shown}`, where the spec lies, because it is not the \
                 spec's alone: put the spec into a folder of its own, or share what its steps need: \
                 `--share FOLDER:{WORK_AT}`"
            ));
            return Ok(None);
        }
        let mut written = self.settings.written.clone();
        let here = self.settings.sources.lookup.first().cloned().unwrap_or_default();
        written.extend(self.images.iter().map(|image| rooted::real_place(&here.join(image))));
        let folder = match shares::folder(&path, &written) {
            Ok(folder) => folder,
            Err(error) => {
                self.has_folder = false;
                let message = format!("the spec's folder cannot be shown to the step: {error}");
                return Err(Fault::new("shell", message).hint(format!(
                    "`{NO_SHARE}` keeps it away; `--share FOLDER:{WORK_AT}` shows another"
                )));
            }
        };
        let count = folder.entries.len();
        self.notes.push(format!(
            "`shell` steps see the spec's folder `{shown}` ({count} entries), read only, as their \
             working directory; `{NO_SHARE}` keeps it away"
        ));
        let left_out = folder.left_out.iter().map(|what| {
            format!("of the spec's folder, `shell` steps do not see {what}; `--share` shows it")
        });
        self.notes.extend(left_out);
        let to = self.folder_at()?;
        let what = "the spec's folder".to_owned();
        Ok(Some(Step::Upload(Upload { what, to, entries: folder.entries }).into()))
    }

    /// The guest path of the spec's directory.
    pub(crate) fn folder_at(&self) -> Result<GuestPath, Fault> {
        guest_path("", &format!("{OWN_AT}/spec"))
    }

    /// Whether steps see the spec's directory.
    pub(crate) fn has_folder(&self) -> bool {
        self.has_folder
    }

    /// Like [`Self::stage`], with the spec's directory as the working directory of this stage only.
    pub(crate) fn stage_in_folder(
        &mut self,
        image: &GuestPath,
        work: Vec<Work>,
    ) -> Result<(), Fault> {
        let binds = self.binds.len();
        if self.has_folder {
            let (from, to) = (self.folder_at()?, guest_path("", WORK_AT)?);
            self.binds.push((String::new(), Bind { from, to, read_only: true }));
        }
        self.stage("", Some(image), true, work);
        self.binds.truncate(binds);
        Ok(())
    }
}
