//! Tests of the renderers with the events of a recorded build.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use engine::events::{CommandKind, OutputStream, StepKind};
use plan::Place;
use wire::ExitStatus;

use super::{super::failure::Failure, *};

/// A stream that the test can read afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const QUIET: Verbosity = Verbosity { quiet: true, output: false, debug: 0, wrap: false };
const USUAL: Verbosity = Verbosity { quiet: false, ..QUIET };
const VERBOSE: Verbosity = Verbosity { output: true, ..USUAL };

fn stamp() -> Stamp {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_250);
    Stamp { elapsed: Duration::from_millis(12_340), wall }
}

fn script(status: ExitStatus) -> Vec<Event> {
    vec![
        Event::StageStarted { index: 0, name: "install.d".into() },
        Event::ScriptStarted {
            kind: CommandKind::Script,
            phase: "install.d".into(),
            script: "10-x".into(),
            origin: Some("debian".into()),
            place: Place::Image,
        },
        Event::OutputLine { stream: OutputStream::Stdout, line: "\u{1b}[31mhello\u{1b}[0m".into() },
        Event::ScriptFinished {
            kind: CommandKind::Script,
            phase: "install.d".into(),
            script: "10-x".into(),
            status,
            elapsed: Duration::from_millis(1500),
            cpu: Duration::from_millis(700),
        },
    ]
}

fn remarks() -> Vec<Event> {
    vec![
        Event::Message { text: "Elements: debian vm".into() },
        Event::Warning { text: "the drive is nearly full".into() },
        Event::OutputWritten {
            path: "d.qcow2".into(),
            bytes: 300 << 20,
            virtual_bytes: Some(2 << 30),
            elapsed: Duration::from_secs(9),
        },
    ]
}

fn plain(verbosity: Verbosity, events: &[Event]) -> (String, String) {
    let (out, err) = (Shared::default(), Shared::default());
    let palette = Palette { on: false };
    let mut plain = plain::Plain {
        out: out.clone(),
        err: err.clone(),
        verbosity,
        out_palette: palette,
        err_palette: palette,
    };
    for event in events {
        plain.event(&stamp(), event);
    }
    (out.text(), err.text())
}

#[test]
fn plain_lines_are_those_of_virt_dib() {
    let events = [script(ExitStatus::Code(0)), remarks()].concat();
    let (out, err) = plain(USUAL, &events);
    assert_eq!(
        out,
        "[  12.3] Running: install.d/10-x\n\
         vbuild: Elements: debian vm\n\
         [  12.3] Wrote d.qcow2: 300.0 MiB, a disk of 2.0 GiB, in 9.0 s\n"
    );
    assert_eq!(err, "vbuild: warning: the drive is nearly full\n");
}

#[test]
fn verbose_shows_what_scripts_write_without_what_steers_terminals() {
    let (out, _) = plain(VERBOSE, &script(ExitStatus::Code(0)));
    assert_eq!(out, "[  12.3] Running: install.d/10-x\nhello\n");
}

#[test]
fn what_confines_a_process_is_for_those_who_look_closer() {
    let confined = [Event::Confined {
        process: "QEMU".into(),
        holds: "QEMU: landlock 7".into(),
        landlock: Some(7),
        lacks: Vec::new(),
    }];
    let detailed = Verbosity { debug: 1, ..USUAL };
    for verbosity in [VERBOSE, detailed] {
        assert_eq!(plain(verbosity, &confined).0, "[  12.3] Confined: QEMU: landlock 7\n");
    }
    assert_eq!(plain(USUAL, &confined).0, "");
    let out = Shared::default();
    let renderer = json::Json { out: out.clone(), output: false };
    drop(with_renderer(Box::new(renderer), &confined));
    let line: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
    assert_eq!((&line["event"], &line["landlock"]), (&"confined".into(), &7.into()));
}

#[test]
fn quiet_leaves_warnings() {
    let (out, err) = plain(QUIET, &[script(ExitStatus::Code(0)), remarks()].concat());
    assert_eq!(out, "");
    assert!(err.contains("nearly full"));
}

fn with_renderer(renderer: Box<dyn Render>, events: &[Event]) -> Ui {
    let ui = Ui::with(vec![renderer], Some("/l/build.log".into()));
    for event in events {
        ui.event(event);
    }
    ui
}

#[test]
fn a_failed_script_is_told_with_everything_known() {
    let err = Shared::default();
    let palette = Palette { on: false };
    let renderer = plain::Plain {
        out: Shared::default(),
        err: err.clone(),
        verbosity: QUIET,
        out_palette: palette,
        err_palette: palette,
    };
    let ui = with_renderer(Box::new(renderer), &script(ExitStatus::Code(3)));
    let error = CommandError::message(Kind::Build, "install.d/10-x failed")
        .context("the image was not built")
        .hint("look at it");
    ui.failed(&error);
    ui.succeeded();
    assert_eq!(
        err.text(),
        "vbuild: error: the image was not built
  because: install.d/10-x failed
  script:  install.d/10-x
  element: debian
  ran in:  the image
  ended:   exit status 3
  its last output:
    | hello
  the whole log: /l/build.log
  hint: look at it
"
    );
}

#[test]
fn json_lines_have_the_keys_of_virt_dib() {
    let out = Shared::default();
    let renderer = json::Json { out: out.clone(), output: true };
    let ui = with_renderer(Box::new(renderer), &[script(ExitStatus::Code(0)), remarks()].concat());
    ui.failed(&CommandError::message(Kind::Build, "no"));
    let text = out.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        ["progress", "message", "output", "progress", "info", "warning", "message", "error"]
    );
    for line in &lines {
        assert!(line["message"].is_string());
        assert!(line["timestamp"].as_str().unwrap().ends_with("+00:00"));
    }
    assert_eq!(lines[1]["event"], "script-started");
    assert_eq!(lines[1]["element"], "debian");
    assert_eq!(lines[3]["seconds"], 1.5);
    assert_eq!(lines[7]["exit_status"], 1);
}

#[test]
fn the_log_has_times_in_utc_and_a_table_for_each_phase() {
    let out = Shared::default();
    let mut log = log::Log::new(out.clone());
    let finished =
        Event::StageFinished { index: 0, name: "install.d".into(), elapsed: Duration::ZERO };
    for event in script(ExitStatus::Code(0)).iter().chain([&finished]) {
        log.event(&stamp(), event);
    }
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "2001-09-09 01:46:40.250 | Running: install.d/10-x");
    assert_eq!(lines[2], "2001-09-09 01:46:40.250 | hello");
    assert!(lines.iter().any(|line| line.ends_with(" PROFILING -----------------------")));
    let row = format!("| dib-run-parts {:<40} {:>10}", "10-x", "1.500");
    assert!(lines.iter().any(|line| line.ends_with(&row)), "{text}");
}

#[test]
fn the_log_holds_nothing_back_that_a_kill_would_lose() {
    let out = Shared::default();
    let mut log = log::Log::new(std::io::BufWriter::new(out.clone()));
    let [started, ..] = &script(ExitStatus::Code(0))[..] else { panic!("it has started") };
    log.event(&stamp(), started);
    assert!(out.text().ends_with("Stage: install.d\n"), "{}", out.text());
}

#[test]
fn the_live_view_takes_every_event() {
    let events = [script(ExitStatus::Code(0)), script(ExitStatus::Signal(9)), remarks()].concat();
    let mut view = live::Live::hidden(VERBOSE);
    for event in &events {
        view.event(&stamp(), event);
    }
    view.closing(&stamp(), &["the end".into()]);
}

/// Text that sets the clipboard (OSC 52) and the title, clears the screen by C1, turns
/// the direction of writing around, and overwrites what stands before it.
const EVIL: &str = "a\u{1b}]52;c;cm0=\u{7}\u{1b}]0;t\u{7}\u{1b}[2K\u{9b}2J\u{202e}\u{7f}\rb";

fn evil_events() -> Vec<Event> {
    let text = || EVIL.to_owned();
    vec![
        Event::BuildStarted { name: text(), stages: 1 },
        Event::MachineReady { boot: Duration::ZERO, kernel: text(), restored: true },
        Event::StageStarted { index: 0, name: text() },
        Event::StepStarted { kind: StepKind::Other, title: text() },
        Event::ScriptStarted {
            kind: CommandKind::Script,
            phase: text(),
            script: text(),
            origin: Some(text()),
            place: Place::Image,
        },
        Event::OutputLine { stream: OutputStream::Stdout, line: text() },
        Event::Connection { host: text(), port: 1, sent: 0, received: 0, refused: Some(text()) },
        Event::OutputWritten {
            path: EVIL.into(),
            bytes: 0,
            virtual_bytes: None,
            elapsed: Duration::ZERO,
        },
        Event::Message { text: text() },
        Event::Warning { text: text() },
    ]
}

#[test]
fn nothing_that_a_guest_wrote_steers_the_terminal() {
    let error = CommandError::message(Kind::Build, EVIL)
        .context(EVIL)
        .hint(format!("the end of the guest's console:\n{EVIL}\n{EVIL}"));
    let complaint = Complaint {
        failure: Some(Failure {
            phase: EVIL.into(),
            script: EVIL.into(),
            origin: Some(EVIL.into()),
            place: "the image",
            status: None,
            refused: vec![EVIL.into()],
            tail: vec![EVIL.into()],
        }),
        tool_output: vec![EVIL.into()],
        log: Some(EVIL.into()),
        ..Complaint::of(&error)
    };
    // What stands before a carriage return is not hidden by what stands behind it.
    assert_eq!(complaint.lines()[0], "a b");
    let out = Shared::default();
    let off = Palette { on: false };
    let verbosity = Verbosity { debug: 2, ..VERBOSE };
    let (plain_out, err) = (out.clone(), out.clone());
    let plain = plain::Plain { out: plain_out, err, verbosity, out_palette: off, err_palette: off };
    let renderers: Vec<Box<dyn Render>> = vec![
        Box::new(plain),
        Box::new(log::Log::new(out.clone())),
        Box::new(json::Json { out: out.clone(), output: true }),
    ];
    for mut renderer in renderers {
        evil_events().iter().for_each(|event| renderer.event(&stamp(), event));
        renderer.failed(&stamp(), &complaint);
    }
    let text = out.text();
    assert!(text.lines().count() > 40, "{text:?}");
    let steers = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert_eq!(text.chars().find(|c| steers(*c)), None, "{text:?}");
}
