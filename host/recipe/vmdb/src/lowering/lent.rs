//! Lends files to a tree during the build. The tools that vmdb2 runs copy resolv.conf into the tree
//! and leave it there between steps; debootstrap also copies hostname. Public specs rely on this
//! (they remove the files), so the files exist here too. They come from the guest, never from the
//! host, and are removed at the end.

use plan::GuestPath;

use super::{Lowering, OWN_AT, Work};

const LENT_SH: &str = include_str!("../../scripts/lent.sh");

impl Lowering<'_> {
    /// Lends files in /etc to a tree until the build ends.
    pub(crate) fn lend(&mut self, root: &GuestPath, files: &[&str]) -> Work {
        if !self.lent.contains(root) {
            self.lent.push(root.clone());
        }
        self.lent("give", root, files)
    }

    /// Wraps steps that pack a tree, so that lent files are not packed.
    pub(crate) fn without_lent(&self, root: &GuestPath, work: Vec<Work>) -> Vec<Work> {
        if !self.lent.contains(root) {
            return work;
        }
        let (hide, show) = (self.lent("hide", root, &[]), self.lent("show", root, &[]));
        std::iter::once(hide).chain(work).chain([show]).collect()
    }

    /// Removes the lent files from all trees.
    pub(crate) fn remove_lent(&mut self) -> Vec<Work> {
        let roots = std::mem::take(&mut self.lent);
        roots.iter().map(|root| self.lent("take", root, &[])).collect()
    }

    fn lent(&self, what: &str, root: &GuestPath, files: &[&str]) -> Work {
        let notes = format!("{OWN_AT}/lent{root}");
        let mut arguments = vec![what.into(), root.as_str().into(), notes.into()];
        arguments.extend(files.iter().map(|file| (*file).into()));
        let title = match what {
            "give" => "lend files of /etc",
            "take" => "take back files of /etc",
            _ => "without lent files of /etc",
        };
        let resolver = format!("{root}/etc/resolv.conf");
        let shown: &[&str] = match what {
            "give" | "show" => &["cp", "/etc/resolv.conf", &resolver],
            _ => &["rm", "-f", &resolver],
        };
        self.script(title, LENT_SH, arguments).shown(shown).work()
    }
}
