//! Runs the fuzz bodies on random text: raw, and composed of tokens of each grammar.

use proptest::prelude::*;

use super::*;

/// Random sequences of tokens.
fn pieces(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(of), 0..40).prop_map(|all| all.concat())
}

const TERMS: &[&str] = &[
    "Let ",
    "[",
    "]",
    "(",
    ")",
    ",",
    "\"a\"",
    "\"\\n\\1234\\&5\"",
    "EmptyArtifact",
    "Artifact ",
    "(IID \"x\")",
    "(CloudInit [CI_ISO] \"o\")",
    "Sources ",
    "[FromContent \"f\" (RenderYamlObject (AST YamlObject \"a: 1\"))]",
    "[FromContent \"f\" (RenderErlang (AST (ErlangPropList (ErlFloat -1.5))))]",
    "[]",
    " ",
    "\n",
    "-",
    "0x1F",
    "--",
    "{-",
    "'c'",
    "\\",
    "\"",
    "Each ",
    "LetX ",
    "EachT ",
    "[(\"k\",\"v\")]",
    "[(\"k\",[\"v\",\"w\"])]",
    "é",
    "\u{feff}",
];

const ERLANG: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "a",
    "'B c'",
    "\"s\\n\"",
    "<<\"b\">>",
    "<<>>",
    "1",
    "-2.5e3",
    "16#ff",
    "$c",
    "$\\n",
    " ",
    "% x\n",
    "\\x{1f600}",
    "\"",
    "'",
    "#",
    "\\^a",
    "+",
    "é",
    "\u{85}",
];

const YAML: &[&str] = &[
    "a: ", "b:\n", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "'x'", "\"y\\t\"", "|\n", ">-\n",
    "1", "0x1f", "1e3", "yes", "~", "&a ", "*a", "<<: ", "!!str ", "# c\n", "text", ": ", "? ",
    "---\n", "...\n", "é", "\t", "\u{85}", " x \n y",
];

proptest! {
    #[test]
    fn no_bytes_break_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        term(&bytes);
        erlang(&bytes);
        template(&bytes);
        yaml(&bytes);
    }

    #[test]
    fn no_text_breaks_a_reader(text in "\\PC*") {
        term(text.as_bytes());
        erlang(text.as_bytes());
        template(text.as_bytes());
        yaml(text.as_bytes());
    }

    #[test]
    fn terms_survive(text in pieces(TERMS)) {
        term(text.as_bytes());
    }

    #[test]
    fn erlang_survives(text in pieces(ERLANG)) {
        erlang(text.as_bytes());
    }

    #[test]
    fn yaml_survives(text in pieces(YAML)) {
        yaml(text.as_bytes());
    }

    #[test]
    fn templates_survive(text in "[$a-c{} '$]*") {
        template(text.as_bytes());
    }

    /// Any string survives printing as Haskell, Erlang and YAML.
    #[test]
    fn strings_survive(text in proptest::collection::vec(any::<char>(), 0..60)) {
        let text: String = text.into_iter().collect();
        let shown = crate::haskell::Shown::text(&text).one_line();
        let read: crate::Text = haskell::read(&shown, 0).unwrap();
        prop_assert_eq!(&read.text, &text);
        let term = crate::erlang::Term::List(vec![
            crate::erlang::Term::String(text.clone()),
            crate::erlang::Term::Atom(text.clone()),
            crate::erlang::Term::Binary(text.clone()),
        ]);
        prop_assert_eq!(&crate::erlang::read(&crate::erlang::write(&term)).unwrap().term, &term);
        let document = crate::yaml::Yaml::Map([(text.clone(), crate::yaml::Yaml::Text(text))].into());
        let printed = crate::yaml::write(&document);
        prop_assert_eq!(crate::yaml::read(&printed).map_err(|e| e.to_string()), Ok(document), "{}", printed);
    }
}
