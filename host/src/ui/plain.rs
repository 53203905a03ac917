//! The plain view for pipes and files, in the format of virt-dib's lines:
//! `[  12.3] Running: install.d/10-x`.

use std::io::Write;

use engine::events::Event;

use super::{
    complaint::Complaint,
    render::{Render, Stamp, Verbosity},
    text::{Palette, Tone, wrap},
    words::{self, Weight},
};

/// A renderer that writes progress to one stream, and warnings and errors to another.
#[derive(Debug)]
pub(crate) struct Plain<O, E> {
    /// The stream for progress and remarks.
    pub(crate) out: O,
    /// The stream for warnings and errors.
    pub(crate) err: E,
    /// How much is shown.
    pub(crate) verbosity: Verbosity,
    /// The colours of `out`.
    pub(crate) out_palette: Palette,
    /// The colours of `err`.
    pub(crate) err_palette: Palette,
}

impl<O: Write + Send, E: Write + Send> Plain<O, E> {
    // A closed pipe is no reason to fail a build, so write errors are ignored here and below.
    fn say(&mut self, tone: Option<Tone>, text: &str) {
        let text = match tone {
            Some(tone) => self.out_palette.paint(tone, text),
            None => text.to_owned(),
        };
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    fn complain(&mut self, tone: Tone, text: &str) {
        let text = self.err_palette.paint(tone, text);
        let _ = writeln!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    fn wrapped(&self, text: String) -> String {
        if self.verbosity.wrap { wrap(&text) } else { text }
    }
}

impl<O: Write + Send, E: Write + Send> Render for Plain<O, E> {
    fn event(&mut self, at: &Stamp, event: &Event) {
        let Some((weight, line)) = words::line(event) else { return };
        if !self.verbosity.shows(weight) {
            return;
        }
        match weight {
            Weight::Output => self.say(None, line.as_str()),
            Weight::Remark => {
                let text = self.wrapped(format!("vbuild: {line}"));
                self.say(Some(Tone::Remark), &text);
            }
            Weight::Warning => {
                let text = self.wrapped(format!("vbuild: warning: {line}"));
                self.complain(Tone::Warning, &text);
            }
            Weight::Trace | Weight::Detail | Weight::Closer | Weight::Progress => {
                let text = self.wrapped(format!("[{:6.1}] {line}", at.elapsed.as_secs_f64()));
                self.say(Some(Tone::Progress), &text);
            }
        }
    }

    fn closing(&mut self, _at: &Stamp, lines: &[String]) {
        if self.verbosity.shows(Weight::Remark) {
            for line in lines {
                self.say(None, line);
            }
        }
    }

    fn failed(&mut self, _at: &Stamp, complaint: &Complaint) {
        let mut lines = complaint.lines().into_iter();
        if let Some(first) = lines.next() {
            let text = self.wrapped(format!("vbuild: error: {first}"));
            self.complain(Tone::Error, &text);
        }
        for line in lines {
            let _ = writeln!(self.err, "{line}");
        }
        let _ = self.err.flush();
    }
}
