//! What vmdb2 leaves in a tree between steps, because the tools that it runs copy it there:
//! a resolv.conf, and behind debootstrap a hostname. Public specs rely on it (they remove
//! it), so it is there; it is the machine's own, never the host's, and gone in the end.

use plan::GuestPath;

use super::{Lowering, OWN_AT, Work};

const LENT_SH: &str = include_str!("../../scripts/lent.sh");

impl Lowering<'_> {
    /// Gives a tree files of /etc until the build ends.
    pub(crate) fn lend(&mut self, root: &GuestPath, files: &[&str]) -> Work {
        if !self.lent.contains(root) {
            self.lent.push(root.clone());
        }
        self.lent("give", root, files)
    }

    /// Steps around something that packs a tree, which is to be without what is lent.
    pub(crate) fn without_lent(&self, root: &GuestPath, work: Vec<Work>) -> Vec<Work> {
        if !self.lent.contains(root) {
            return work;
        }
        let (hide, show) = (self.lent("hide", root, &[]), self.lent("show", root, &[]));
        std::iter::once(hide).chain(work).chain([show]).collect()
    }

    /// Takes away what all trees have been given.
    pub(super) fn take_lent(&mut self) -> Vec<Work> {
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
