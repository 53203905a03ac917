//! Writes the few lines of the agent to the machine's console. They are all that can still be read
//! when the connection has ended.
//!
//! The lines go through the kernel's log, which is written immediately and in order. The buffer of
//! a terminal would be lost when the power is turned off.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::panic;
use std::sync::OnceLock;

use wire::CONSOLE_PREFIX;

/// The maximum length of a line, in characters: some lines contain names from the guest, and the
/// kernel accepts only about a thousand bytes.
const LINE_MAX_CHARS: usize = 400;

/// The log level of the lines (KERN_ERR), which a kernel that boots with `quiet` still shows.
const LEVEL: &str = "<3>";

/// The log level that every kernel shows (KERN_EMERG).
const HIGHEST_LEVEL: &str = "<0>";

/// The kernel's setting for messages from user space; by default it drops lines that come too fast.
const RATE_SWITCH: &str = "/proc/sys/kernel/printk_devkmsg";

static LOG: OnceLock<File> = OnceLock::new();

/// Opens the log. Before that, and in an agent that is an ordinary process, lines are discarded.
pub(crate) fn open() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = fs::write(RATE_SWITCH, "on");
        let _ = LOG.set(file);
    }
    // The standard error of PID 1 and its child has no reader, so panics go to the log, too.
    panic::set_hook(Box::new(|panic| say(&panic.to_string())));
}

/// Writes a line to the console.
pub(crate) fn say(line: &str) {
    write(LEVEL, line);
}

/// Writes a line for the host to the console, at a level that is always shown.
pub(crate) fn tell_host(line: &str) {
    write(HIGHEST_LEVEL, line);
}

fn write(level: &str, line: &str) {
    let Some(mut log) = LOG.get() else { return };
    let mut text = format!("{level}{CONSOLE_PREFIX}");
    text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_MAX_CHARS));
    text.push('\n');
    // One write makes one line. There is nowhere to report an error.
    let _ = log.write(text.as_bytes());
}
