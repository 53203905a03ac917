//! Hints in the comments of a script, and the disk sizes that it requests.

use plan::GuestPath;

/// A host path that the script sees in the chroot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The host path, relative to the layer's directory.
    pub from: String,
    /// The path in the chroot.
    pub to: GuestPath,
}

/// The hints in the comments of a script.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// `# nocache`: its result is never cached.
    pub nocache: bool,
    /// `# noshare`: its result is not shared with other users.
    pub noshare: bool,
    /// `# chroot-bind-mount SRC DST`, also spelt `# chroot-mount`.
    pub binds: Vec<Bind>,
}

impl Hints {
    /// Parses the comments of a script. Only the first of `nocache` and `noshare` counts, and both
    /// only at the beginning of a line; a result that is not cached is not shared either.
    ///
    /// # Errors
    /// Fails on a bind without two paths, with the line number.
    pub fn of(script: &str) -> Result<Self, (usize, String)> {
        let mut hints = Self::default();
        for (index, line) in script.lines().enumerate() {
            if !hints.nocache && !hints.noshare {
                hints.nocache = line.starts_with("# nocache");
                hints.noshare = line.starts_with("# noshare");
            }
            let Some(comment) = line.trim_start().strip_prefix('#') else { continue };
            let mut words = comment.split_whitespace();
            if !matches!(words.next(), Some("chroot-bind-mount" | "chroot-mount")) {
                continue;
            }
            let (from, to, more) = (words.next(), words.next(), words.next());
            let to = to.and_then(|to| GuestPath::new(to).ok()).filter(|to| to.as_str() != "/");
            match (from, to, more) {
                (Some(from), Some(to), None) => {
                    hints.binds.push(Bind { from: from.to_owned(), to })
                }
                _ => {
                    let message =
                        "a chroot-bind-mount has a source and an absolute place in the image";
                    return Err((index + 1, message.to_owned()));
                }
            }
        }
        Ok(hints)
    }
}

/// The largest size that a modify-disk script passes to `qemu-img create` or `qemu-img resize`, if
/// the disk has `base_bytes`. The disk gets this size before the script runs, so it must be known
/// in advance.
pub(crate) fn disk_bytes(script: &str, base_bytes: u64) -> Option<u64> {
    let joined = script.replace("\\\n", " ");
    joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#') && line.contains("qemu-img"))
        .filter(|line| line.contains(" create ") || line.contains(" resize "))
        .filter_map(|line| {
            line.split_whitespace().rev().find_map(|word| {
                let word = word.trim_matches(|c| matches!(c, '"' | '\'' | ';'));
                match word.strip_prefix('+') {
                    Some(more) => base_bytes.checked_add(bytes(more)?),
                    None => bytes(word),
                }
            })
        })
        .max()
}

/// Parses a size like qemu-img: `20G`, `512M`, bytes without a letter.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix(['b', 'B']).unwrap_or(text) {
        text if text.ends_with(['k', 'K']) => (&text[..text.len() - 1], 1 << 10),
        text if text.ends_with(['m', 'M']) => (&text[..text.len() - 1], 1 << 20),
        text if text.ends_with(['g', 'G']) => (&text[..text.len() - 1], 1 << 30),
        text if text.ends_with(['t', 'T']) => (&text[..text.len() - 1], 1 << 40),
        // A short number may also be a count or a status.
        text if text.len() > 6 => (text, 1),
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_comments_at_the_beginning_of_a_line() {
        let hints = |script: &str| Hints::of(script).unwrap();
        assert_eq!(hints("#!/bin/sh\necho '# nocache'\n  # noshare\n"), Hints::default());
        assert!(hints("#!/bin/sh\n# nocache: the date\n").nocache);
        assert!(hints("#!/bin/sh\n# noshare\ntrue\n").noshare);
        let both = hints("# nocache\n# noshare\n");
        assert!(both.nocache && !both.noshare, "the first counts");
        let binds =
            hints("# chroot-bind-mount ../secrets /run/secrets\n #chroot-mount a /b\n").binds;
        assert_eq!(
            binds,
            [
                Bind { from: "../secrets".into(), to: GuestPath::new("/run/secrets").unwrap() },
                Bind { from: "a".into(), to: GuestPath::new("/b").unwrap() },
            ]
        );
        assert_eq!(Hints::of("true\n# chroot-bind-mount a b\n").unwrap_err().0, 2);
        for bad in ["a", "a b/c", "a /", "a /../x", "a /b c"] {
            assert!(Hints::of(&format!("# chroot-bind-mount {bad}\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_modify_disk_scripts() {
        let find = |script| disk_bytes(script, 10 << 30);
        assert_eq!(
            find("qemu-img create -f qcow2 -b \"$source\" -o compat=0.10 \"$target\" 20G\n"),
            Some(20 << 30)
        );
        assert_eq!(
            find("qemu-img create -b $1 $2\nqemu-img resize \\\n  $2 +5G;\n"),
            Some(15 << 30)
        );
        assert_eq!(find("# qemu-img resize $2 90G\nqemu-img create -b $1 $2 \"$size\"\n"), None);
        assert_eq!(find("qemu-img create -f qcow2 x 21474836480"), Some(20 << 30));
        assert_eq!(find("qemu-img info 20G\nsleep 1\n"), None);
    }
}
