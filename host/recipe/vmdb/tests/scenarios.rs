//! The scenarios of vmdb2's own manual, in the wording of 0.26 and of 0.41.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::try_prepare;
use vmdb::{LocalRun, Wording};

const HAPPY: &str = "steps:
  - echo: \"foo\"
    teardown: \"foo_teardown\"
  - echo: \"bar\"
    teardown: \"bar_teardown\"
";
const JINJA: &str = "steps:
  - echo: \"{{ foo }}\"
  - echo: \"{{ bar }}\"
";
const UNHAPPY: &str = "steps:
  - echo: \"foo\"
    teardown: \"foo_teardown\"
  - error: \"yikes\"
    teardown: \"WAT?!\"
  - echo: \"bar_step\"
    teardown: \"bar_teardown\"
";

fn run(text: &str, variables: &[&str], wording: Wording) -> LocalRun {
    let prepared = try_prepare(text, &[], |options| {
        options.variables = variables.iter().map(ToString::to_string).collect();
        options.wording = wording;
    })
    .unwrap();
    assert!(prepared.is_local());
    prepared.lowered.narration.run_local()
}

/// Asserts that texts occur in this order.
fn assert_order(lines: &[String], texts: &[&str]) {
    let mut rest = lines.iter();
    for text in texts {
        assert!(rest.any(|line| line == text), "{text} in its place in {lines:?}");
    }
}

#[test]
fn happy_path() {
    for wording in [Wording::V026, Wording::V041] {
        let run = run(HAPPY, &[], wording);
        assert_eq!(run.failed, None);
        let texts = ["foo", "bar", "bar_teardown", "foo_teardown", "All went fine."];
        assert_order(&run.lines, &texts);
        assert_eq!(run.lines[0], "Load spec file spec.vmdb");
    }
}

#[test]
fn templates() {
    for wording in [Wording::V026, Wording::V041] {
        let run = run(JINJA, &["foo=FOO", "bar='BAR'"], wording);
        assert_eq!(run.failed, None);
        assert_order(&run.lines, &["FOO", "BAR"]);
    }
}

#[test]
fn unhappy_path() {
    let texts = ["foo", "yikes", "Something went wrong, cleaning up!", "WAT?!", "foo_teardown"];
    let old = run(UNHAPPY, &[], Wording::V026);
    assert_eq!(old.failed.as_ref().map(|step| step.number), Some(2));
    assert_order(&old.lines, &texts);
    let said = old.lines.join("\n");
    assert!(!said.contains("bar_step") && !said.contains("bar_teardown"), "{said}");

    let new = run(UNHAPPY, &[], Wording::V041);
    assert_eq!(new.failed.as_ref().map(|step| step.number), Some(2));
    assert_order(&new.lines, &texts);
    // It occurs only because the spec itself is printed.
    assert!(new.lines.join("\n").contains("bar_teardown"));
    assert!(new.lines[1].starts_with("Spec:\n{'steps': [{'echo': 'foo', 'teardown'"));
}

#[test]
fn texts_follow_the_stages_of_a_real_build() {
    let text = "steps:
  - echo: one
    teardown: one_teardown
  - mkimg: out.img
    size: 1M
  - echo: two
    teardown: two_teardown
  - mklabel: gpt
    device: out.img
  - error: three
    teardown: three_teardown
  - echo: four
    teardown: four_teardown
";
    let prepared = try_prepare(text, &[], |_| ()).unwrap();
    let names: Vec<&str> =
        prepared.lowered.plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["02-mkimg", "04-mklabel", "05-error"]);
    let mut narrator = vmdb::Narrator::new(prepared.lowered.narration.clone());
    assert_eq!(narrator.begin(), ["Load spec file spec.vmdb"]);
    assert_eq!(narrator.stage(0), ["one"]);
    assert_eq!(narrator.command(), None);
    assert_eq!(narrator.stage(1), ["two"]);
    // A failure here precedes the step with the third text.
    assert_eq!(
        narrator.clone().end(false),
        ["Something went wrong, cleaning up!", "two_teardown", "one_teardown"]
    );
    assert_eq!(narrator.stage(2), ["three"]);
    assert_eq!(narrator.command().as_deref(), Some("Exec: ['false']"));
    assert_eq!(
        narrator.end(false),
        ["Something went wrong, cleaning up!", "three_teardown", "two_teardown", "one_teardown"]
    );
    assert_eq!(
        prepared.place_of_stage(2).unwrap(),
        "spec.vmdb:10:5: step 5 (error)\n  10 |   - error: three\n     |     ^"
    );
}
