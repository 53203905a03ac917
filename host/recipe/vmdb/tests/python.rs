//! Compares reading and rendering with vmdb2's libraries: `PyYAML` and Jinja2 of the host's Python.
//! Skipped, with a reason, where they are missing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use vmdb::{
    template::{Variables, render},
    yaml,
};

/// Passes texts through a Python script; inputs and outputs are NUL-terminated.
fn python(needs: &str, script: &str, inputs: &[String]) -> Option<Vec<String>> {
    let available = Command::new("python3").args(["-c", &format!("import {needs}")]).output();
    if !available.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 with {needs} is not installed");
        return None;
    }
    let mut child = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = inputs.join("\0");
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.split('\0').map(str::to_owned).collect())
}

const LOAD: &str = r#"
import sys, yaml
def load(text):
    try:
        value = yaml.safe_load(text)
    except Exception:
        return "error"
    return "other" if odd(value) else repr(value)
def odd(value):
    if isinstance(value, dict):
        return any(odd(x) for pair in value.items() for x in pair)
    if isinstance(value, list):
        return any(odd(x) for x in value)
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        return True
    return not isinstance(value, (str, int, float, bool, type(None)))
sys.stdout.write("\0".join(load(x) for x in sys.stdin.read().split("\0")))
"#;

fn load(text: &str) -> String {
    match yaml::read(text) {
        Ok(document) if is_odd(&document.root) => "other".into(),
        Ok(document) => document.root.repr(),
        Err(_) => "error".into(),
    }
}

fn is_odd(node: &yaml::Node) -> bool {
    match &node.value {
        yaml::Value::Other(..) => true,
        yaml::Value::List(items) => items.iter().any(is_odd),
        yaml::Value::Map(entries) => entries.iter().any(|(k, v)| is_odd(k) || is_odd(v)),
        _ => false,
    }
}

const NUMBERS: &str = "0 7 8 07 08 0755 0o17 00 0_7 1_0 1_ 0x 0xF 0xg 0b1 0b2 1. 1.5 .5 1e3 1.e3
    1.0e3 1.0e+3 1.0E-3 .5e+1 1_0.5_0 .inf .Inf .iNF .nan .NaN 1:30 1:60 01:30 1:30:15 1:30.5
    190:20:30.15 1:2:3:4 :30 9223372036854775807 9223372036854775808 12e03 0.1
    100000000000000000.0 0.00001 . 1.5.2 ._5 1._5 4G 100% 512M 2048s 1s";
const DATES: &str = "2001-12-14|2001-1-4|2001-12-14t21:59:43.10-05:00|2001-12-14 21:59:43.10 -5|\
    2001-12-15 2:59:43.10|2001-12-14T1:2:3|2001-12-14 21:59|20011-12-14|2001-12";

#[test]
fn plain_scalars_are_what_pyyaml_takes_them_for() {
    let mut texts: Vec<String> = Vec::new();
    for word in ["yes", "no", "true", "false", "on", "off", "null", "y", "n", "none", "inf"] {
        let title = word[..1].to_uppercase() + &word[1..];
        let odd = word[..1].to_owned() + &word[1..].to_uppercase();
        texts.extend([word.to_owned(), word.to_uppercase(), title, odd]);
    }
    for sign in ["", "-", "+"] {
        texts.extend(NUMBERS.split_whitespace().map(|body| format!("{sign}{body}")));
    }
    texts.extend(DATES.split('|').map(str::to_owned));
    texts.extend(
        ["~", "<<", "=", "==", "", "a b", "it's", "a#b", "-", "?x", ":x"].map(str::to_owned),
    );
    let ours: Vec<String> = texts.iter().map(|text| load(&format!("k: {text}"))).collect();
    let inputs: Vec<String> = texts.iter().map(|text| format!("k: {text}")).collect();
    let Some(theirs) = python("yaml", LOAD, &inputs) else { return };
    let different: Vec<String> = (0..texts.len())
        .filter(|at| ours[*at] != theirs[*at])
        .map(|at| format!("{}: {} here, {} there", texts[at], ours[at], theirs[at]))
        .collect();
    assert_eq!(different, [] as [&str; 0]);
    assert_eq!(theirs.len(), texts.len());
}

#[test]
fn documents_are_what_pyyaml_reads() {
    let documents = [
        "steps:\n- a: 1\n  b: [x, 'y', \"z\\n\"]\n",
        "steps:\n  - a: |\n      one\n      two\n    b: >-\n      three\n      four\n",
        "a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}\n",
        "a: &x {k: 1}\nb: &y {k: 2, m: 3}\nc:\n  <<: [*x, *y]\n  n: 4\n",
        "a: 1\na: 2\n",
        "? a\n: b\n",
        "a: !!str 12\nb: !!int '0755'\nc: !!float 1\nd: !!bool 'yes'\n",
        "a: !!set {x, y}\n",
        "a: !thing 1\n",
        "a: {{ b }}\n",
        "a: \"{{ b }}\"\n",
        "[1, 2",
        "a: b: c\n",
        "--- 1\n--- 2\n",
        "--- \na: 1\n...\n",
        "",
        "# nothing\n",
        "1: a\ntrue: b\n",
        "a: 'it''s'\n",
        "a: \"\\u00e9\\x41\\t\"\n",
        "a: x # comment\nb: 'x # none'\n",
        "a: [a, b: c, {d: e}]\n",
        "- - 1\n  - 2\n- x:\n  - 3\n",
        "a:\n- 1\n- 2\n",
        "a: *nobody\n",
        "shell: |\n  if [ -e /x ]; then\n    echo \"y: z\"\n  fi\nroot-fs: root\n",
        "a: |+\n  x\n\n",
        "a: |2\n    x\n",
        "\u{feff}a: 1\n",
    ];
    let inputs: Vec<String> = documents.iter().map(ToString::to_string).collect();
    let Some(theirs) = python("yaml", LOAD, &inputs) else { return };
    for (document, theirs) in documents.iter().zip(&theirs) {
        assert_eq!(load(document), *theirs, "{document:?}");
    }
}

const RENDER: &str = r#"
import sys, jinja2
values = {"output": "out.img", "image": None, "rootfs_tarball": None, "suite": "bookworm",
          "arch": repr("amd64"), "tags": repr({"tags": {}, "tagnames": []})}
def render(text):
    try:
        return jinja2.Template(text).render(**values)
    except Exception:
        return "error"
sys.stdout.write("\0".join(render(x) for x in sys.stdin.read().split("\0")))
"#;

#[test]
fn templates_are_what_jinja2_renders() {
    let templates = [
        "plain",
        "{{ output }}",
        "{{ image }} {{ rootfs_tarball }}",
        "{{ arch }} {{ tags }}",
        "[{{ nobody }}]",
        "{{ nobody.x }}",
        "{{ nobody|default('x') }}",
        "{% if image %}a{% else %}b{% endif %}",
        "{% if suite == 'bookworm' %}yes{% endif %}",
        "{% if suite in ['bookworm', 'trixie'] %}yes{% endif %}",
        "{% for x in ['a', 'b'] %}{{ loop.index }}{{ x }}{% endfor %}",
        "{% set x = 3 %}{{ x + 1 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 7 % 3 }}",
        "{{ true }} {{ none }} {{ [1, 'a', none, true] }} {{ {'k': 'v'} }}",
        "{{ suite|upper }} {{ suite|replace('b', 'c') }} {{ suite|length }} {{ suite[0:3] }}",
        "{{ output.split('.')[0] }} {{ output.replace('.img', '.tar') }} {{ suite.startswith('b') }}",
        "{{ suite ~ '-' ~ output }}",
        "{{ 'a' if image else 'b' }}",
        "{{ image is none }} {{ nobody is defined }}",
        "{# nothing #}x",
        "{% raw %}{{ x }}{% endraw %}",
        "a\n{% if true %}\nb\n{% endif %}\nc\n",
        "a\n\n",
        "{%- if true -%} x {%- endif -%}",
        "{{ 'x' * 3 }}",
        "{{ \"it's\" }}",
        "{{",
        "{% if %}",
        "{{ 1.0 }} {{ 1.5 }} {{ 10 // 3.0 }}",
        "{{ [3, 1, 2]|sort|join(',') }} {{ ['a']|first }}",
        "{{ ' x '|trim }} {{ 'a b'|title }} {{ '5'|int + 1 }}",
        "$ROOT ${x} {x} %x%",
        "{{ '<&>' }}",
        "{{ 'a' > 'b' or not image }}",
        "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') }}",
    ];
    let inputs: Vec<String> = templates.iter().map(ToString::to_string).collect();
    let Some(theirs) = python("jinja2", RENDER, &inputs) else { return };
    let mut variables = Variables::new(Some("out.img"), None, None, "amd64");
    variables.define("suite=bookworm").unwrap();
    for (template, theirs) in templates.iter().zip(&theirs) {
        let at = yaml::Position::default();
        let node = yaml::Node { at, value: yaml::Value::Text((*template).to_owned()) };
        let ours = match render(&node, &variables) {
            Ok(node) => node.text().unwrap().to_owned(),
            Err(_) => "error".into(),
        };
        assert_eq!(ours, *theirs, "{template:?}");
    }
}
