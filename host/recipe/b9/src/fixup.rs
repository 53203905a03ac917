//! Determines which files of the working directory a fixup sees: those that it names.
//!
//! B9 runs the fixup on the host, with access to the whole directory. vbuild must upload the files
//! to the guest first, and they are part of the key of the result. So it uploads only files whose
//! names occur in the fixup, or in an uploaded script.

use std::collections::BTreeSet;

/// Maximum size of a script that is searched for names.
pub const SCRIPT_BYTES_MAX: u64 = 1 << 20;

/// Separators of words on a command line.
const BETWEEN: &[char] =
    &[' ', '\t', '\n', ';', '|', '&', '<', '>', '(', ')', '"', '\'', '`', '=', ',', '{', '}'];

/// The entries of a directory that a script names, or `None` if it may mean any of them, by a
/// pattern or by the directory itself. `read` returns the text of an entry if it is a script.
#[must_use]
pub fn named_files(
    script: &str,
    entries: &BTreeSet<String>,
    read: &mut dyn FnMut(&str) -> Option<String>,
) -> Option<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    let mut texts = vec![script.to_owned()];
    while let Some(text) = texts.pop() {
        if means_any(&text) {
            return None;
        }
        for entry in entries {
            if names(&text, entry) && named.insert(entry.clone()) {
                texts.extend(read(entry));
            }
        }
    }
    Some(named)
}

/// Whether a name occurs in a text as a path component, and not only as a part of a longer name.
fn names(text: &str, name: &str) -> bool {
    let is_of_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    text.match_indices(name).any(|(at, _)| {
        let (before, behind) = (&text[..at], &text[at + name.len()..]);
        // A full stop may end a sentence, and `./` begins a path.
        !before.ends_with(is_of_name) && !behind.trim_start_matches('.').starts_with(is_of_name)
    })
}

/// Whether a word of a script is a pattern, or the directory in which it runs.
fn means_any(text: &str) -> bool {
    // The first line (`#!`) names the interpreter.
    let text = match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => rest,
        _ => text,
    };
    text.split(BETWEEN).any(|word| {
        let first = word.trim_start_matches("./").split('/').next().unwrap_or_default();
        let is_pattern = first.contains('*') && first != "$*"
            || first.contains('?') && first != "$?"
            || first.find('[').is_some_and(|at| first[at..].contains(']'));
        matches!(word, "." | "./" | "$PWD" | "pwd") || is_pattern
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str) -> Option<Vec<String>> {
        let entries = ["fix.sh", "payload", "secret.key", "a", "in", "data"];
        let entries = entries.map(str::to_owned).into_iter().collect();
        let named = named_files(script, &entries, &mut |name| {
            (name == "fix.sh").then(|| "#!/usr/bin/env bash\ncp data/x /mnt\n".to_owned())
        });
        named.map(|named| named.into_iter().collect())
    }

    #[test]
    fn what_is_named_comes_along() {
        let some = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of("e2label \"$1\" fixed"), some(&[]));
        assert_eq!(of("test -b \"$1\" -o -f \"$1\"; [ $? = 0 ]"), some(&[]));
        assert_eq!(of("cat ./payload/logo > x"), some(&["payload"]));
        assert_eq!(of("cp payload.old payload2 xa a-b"), some(&[]));
        assert_eq!(of("dd if=payload of=\"$1\""), some(&["payload"]));
        // A script also adds the files that it names.
        assert_eq!(of("bash fix.sh \"$1\""), some(&["data", "fix.sh"]));
        assert_eq!(of("ls /tmp/*; cat secret.key"), some(&["secret.key"]));
        // A command without effect may be used to name files.
        assert_eq!(of(": payload a"), some(&["a", "payload"]));
        for any in ["cat *.txt", "tar c .", "for f in ./*.d/x; do :; done", "ls $PWD", "rm [ab]c"] {
            assert_eq!(of(any), None, "{any}");
        }
    }
}
