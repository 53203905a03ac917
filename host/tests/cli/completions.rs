//! The completions in the real shells, where they are installed.

use std::{fmt::Write as _, fs, process::Command};

use super::{make_home, run};

/// What a shell offers, by a script that prints it; `None` without the shell.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn offered(shell: &str, script: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    let completions = run(&home, &format!("vbuild completions {shell}"));
    assert!(completions.status.success(), "{completions:?}");
    fs::write(home.join("_vbuild"), &completions.stdout).unwrap();
    fs::write(home.join("script"), script).unwrap();
    let output = Command::new(shell)
        .arg(match shell {
            "zsh" => "-f",
            "fish" => "--no-config",
            _ => "--norc",
        })
        .arg(home.join("script"))
        .current_dir(&home)
        .env("HOME", &home)
        .env("TERM", "dumb")
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: {shell} is not installed");
        return None;
    };
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Command lines, and what must be among what completes their last word.
const LINES: &[(&str, &[&str])] = &[
    ("vbuild vm", &["vmdb"]),
    ("vbuild vmdb --outp", &["--output"]),
    ("vbuild vmdb --no-share", &["--no-share-spec"]),
    ("vbuild store ", &["gc", "ls", "verify"]),
    ("vbuild store gc --", &["--help"]),
    ("vbuild layers comp", &["compare-layers"]),
    ("vbuild layers --flat", &["--flatten"]),
    ("vbuild plan vmdb --outp", &["--output"]),
    ("vbuild --docker-t", &["--docker-target"]),
];

fn check(said: &str) {
    let mut rest = said.split("line: ").skip(1);
    for (line, wanted) in LINES {
        let answer = rest.next().unwrap_or_default();
        for word in *wanted {
            assert!(answer.contains(word), "`{line}` is not completed to {word}: {said}");
        }
    }
}

#[test]
fn bash_completes_verbs_and_their_options() {
    let mut script = "source ./_vbuild\n".to_owned();
    for (line, _) in LINES {
        // The function is what `complete -F` names.
        let _ = write!(
            script,
            "COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             case '{line}' in *' ') COMP_WORDS+=(''); COMP_CWORD=$((COMP_CWORD + 1)) ;; esac\n\
             COMPREPLY=(); cur=${{COMP_WORDS[COMP_CWORD]}}; prev=${{COMP_WORDS[COMP_CWORD-1]}}\n\
             _vbuild vbuild \"$cur\" \"$prev\"; echo line: \"${{COMPREPLY[@]}}\"\n"
        );
    }
    if let Some(said) = offered("bash", &script) {
        check(&said);
    }
}

#[test]
fn fish_completes_verbs_and_their_options() {
    let mut script = "source ./_vbuild\n".to_owned();
    for (line, _) in LINES {
        let _ = writeln!(script, "echo line: (complete -C '{line}')");
    }
    if let Some(said) = offered("fish", &script) {
        check(&said);
    }
}

#[test]
fn zsh_completes_verbs_and_their_options() {
    // A terminal of its own, as completion works on the line editor alone.
    let mut script = "zmodload zsh/zpty || exit 0\n\
        zpty -b z zsh -f -i\n\
        zpty -w z 'PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=1000; \
        stty columns 200; unsetopt zle_bracketed_paste beep; print ready'\n\
        seen() { local out='' part; repeat 40 { while zpty -rt z part 2>/dev/null; do out+=$part; done; \
        [[ $out == *$1* ]] && break; sleep 0.25 }; print -r -- $out }\n\
        seen ready >/dev/null\n"
        .to_owned();
    for (line, wanted) in LINES {
        let _ = writeln!(
            script,
            "zpty -n -w z $'{line}\\t\\t'; print -r -- \"line: $(seen '{}')\"; zpty -n -w z $'\\x15'; sleep 0.2",
            wanted[wanted.len() - 1]
        );
    }
    if let Some(said) = offered("zsh", &script) {
        check(&said);
    }
}
