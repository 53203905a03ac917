//! Checks the pages of `man` in sections 5 and 7: the command line accepts every command that they
//! show, and their headers have the names of their files.

use std::{
    ffi::OsString,
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
    str::Chars,
};

use super::parse_argv;

/// The least number of commands in all pages; fewer mean that they are not found any more.
const COMMANDS_MIN: usize = 60;
/// The names that the program can have.
const PROGRAMS: &[&str] =
    &["vbuild", "virt-dib", "disk-image-create", "ramdisk-image-create", "vmdb2", "b9c"];
/// What commands in pages contain of roff, and the text that it stands for.
const ESCAPES: &[(&str, &str)] =
    &[(r"\e", r"\"), (r"\-", "-"), (r"\(aq", "'"), (r"\(dq", "\""), (r"\(ti", "~"), (r"\&", "")];

/// A page of the manual.
struct Page {
    /// The name of the file, such as `vbuild-store.7`.
    file: String,
    /// The text in roff.
    roff: String,
}

/// A command of the program that a page shows.
struct Shown {
    /// Page and line, for messages.
    place: String,
    /// The words of the command, with the program's name.
    argv: Vec<OsString>,
}

/// Reads all pages of sections 5 and 7.
fn pages() -> Vec<Page> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_page =
        |path: &PathBuf| path.extension().is_some_and(|section| section == "5" || section == "7");
    let page = |path: PathBuf| Page {
        file: path.file_name().unwrap().to_str().unwrap().to_owned(),
        roff: fs::read_to_string(&path).unwrap(),
    };
    paths.filter(is_page).map(page).collect()
}

/// Replaces the escapes of roff in a line of an example.
fn plain(roff: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = roff;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = ESCAPES.iter().find(|(escape, _)| rest.starts_with(escape));
        let (escape, meant) = known.ok_or_else(|| format!("unknown escape at `{rest}`"))?;
        text.push_str(meant);
        rest = &rest[escape.len()..];
    }
    Ok(text + rest)
}

/// Splits a command line into words as a POSIX shell does, up to an operator or a comment.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None | Some('|' | '>' | '<' | '&' | ';' | '#') => return Ok(words),
            Some(_) => words.push(word(&mut chars)?),
        }
    }
}

/// Reads one word, which ends before unquoted white space or a semicolon.
fn word(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut word = String::new();
    while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != ';') {
        match c {
            '\'' | '"' => quoted(chars, c, &mut word)?,
            '\\' => word.push(chars.next().ok_or("a backslash ends the line")?),
            _ => word.push(c),
        }
    }
    Ok(word)
}

/// Reads the rest of a quoted part of a word. In double quotes, a backslash is only special before
/// characters that are.
fn quoted(chars: &mut Peekable<Chars<'_>>, quote: char, word: &mut String) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            _ if c == quote => return Ok(()),
            '\\' if quote == '"' => {
                let special = chars.next_if(|c| matches!(c, '$' | '`' | '"' | '\\'));
                word.push(special.unwrap_or('\\'));
            }
            _ => word.push(c),
        }
    }
    Err(format!("{quote} is not closed"))
}

/// Whether a word before a command sets a variable, as in `NAME=VALUE`.
fn is_assignment(word: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

/// The commands of the program in a page: lines after `$ `, with the lines that continue them.
fn commands(page: &Page) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut lines = page.roff.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let Some(roff) = first.strip_prefix("$ ") else { continue };
        let place = format!("man/{}:{}", page.file, index + 1);
        let undone = |roff| plain(roff).unwrap_or_else(|error| panic!("{place}: {error}"));
        let mut line = undone(roff);
        while line.ends_with('\\') {
            line.pop();
            let (_, next) = lines.next().unwrap_or_else(|| panic!("{place}: the page ends"));
            line += &undone(next);
        }
        let words = words(&line).unwrap_or_else(|error| panic!("{place}: {error}"));
        let argv: Vec<String> = words.into_iter().skip_while(|word| is_assignment(word)).collect();
        if argv.first().is_some_and(|program| PROGRAMS.contains(&program.as_str())) {
            shown.push(Shown { place, argv: argv.into_iter().map(OsString::from).collect() });
        }
    }
    shown
}

#[test]
fn commands_in_pages_are_accepted() {
    let shown: Vec<Shown> = pages().iter().flat_map(commands).collect();
    assert!(shown.len() >= COMMANDS_MIN, "only {} commands found", shown.len());
    let refused = shown.iter().filter_map(|Shown { place, argv }| {
        let error = parse_argv(argv).err()?;
        Some(format!("{place}: {argv:?}: {error}"))
    });
    let refused: Vec<String> = refused.collect();
    assert!(refused.is_empty(), "\n{}", refused.join("\n"));
}

#[test]
fn headers_have_the_names_of_the_files() {
    for Page { file, roff } in pages() {
        let header = roff.lines().find_map(|line| line.strip_prefix(".TH ")).unwrap_or_default();
        let mut words = header.split_whitespace();
        let name = plain(words.next().unwrap_or_default()).unwrap().to_lowercase();
        let section = words.next().unwrap_or_default();
        assert_eq!(format!("{name}.{section}"), file, "the line .TH of man/{file}");
    }
}

#[test]
fn lines_are_split_as_by_a_shell() {
    let split = |line| words(line).unwrap();
    assert_eq!(split(r#"a 'b "c' "d 'e\"\x" f\ g'h'"#), ["a", "b \"c", "d 'e\"\\x", "f gh"]);
    assert_eq!(split("a '' \"#b\" c#d # e"), ["a", "", "#b", "c#d"]);
    for line in ["a b | c", "a b > c", "a b && c", "a b; c", "a b # c"] {
        assert_eq!(split(line), ["a", "b"], "{line}");
    }
    for line in ["a 'b", "a \"b", "a \\"] {
        assert!(words(line).is_err(), "{line}");
    }
}

#[test]
fn examples_are_read_from_roff() {
    let roff = "$ A=1 vbuild \\-p ./x \\(aqb c\\(aq \\e\n    vm\n$ ls\nvbuild none\n$ vmdb2 \\-v\n";
    let page = Page { file: "x.7".into(), roff: roff.into() };
    let shown = commands(&page);
    assert_eq!(shown.len(), 2);
    assert_eq!(shown[0].argv, ["vbuild", "-p", "./x", "b c", "vm"]);
    assert_eq!(shown[1].argv, ["vmdb2", "-v"]);
    assert_eq!(shown[1].place, "man/x.7:5");
    assert!(plain("\\fBvbuild\\fR").is_err());
}
