//! The few lines that the agent says on the machine's console. They are what is
//! left to read when there is no connection any more.
//!
//! They go through the kernel's log: that is written at once and in order, where
//! a terminal's buffer would be lost with the power.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::panic;
use std::sync::OnceLock;

use wire::CONSOLE_PREFIX;

/// The longest line, in characters: names from the guest get into some of them,
/// and the kernel takes no more than about a thousand bytes.
const LINE_MAX_CHARS: usize = 400;

/// The level of the lines (KERN_ERR): a kernel that boots with `quiet` shows it.
const LEVEL: &str = "<3>";

/// The level that no kernel hides (KERN_EMERG).
const HIGHEST_LEVEL: &str = "<0>";

/// Where the kernel drops lines that come too fast, unless told otherwise.
const RATE_SWITCH: &str = "/proc/sys/kernel/printk_devkmsg";

static LOG: OnceLock<File> = OnceLock::new();

/// Opens the log. Until then, and in an agent that is no machine's, nothing is said.
pub(crate) fn open() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = fs::write(RATE_SWITCH, "on");
        let _ = LOG.set(file);
    }
    // The standard error of PID 1 and its child has no reader.
    panic::set_hook(Box::new(|panic| say(&panic.to_string())));
}

/// Writes a line to the console.
pub(crate) fn say(line: &str) {
    write(LEVEL, line);
}

/// Writes a line for the host to the console, at whatever level that shows.
pub(crate) fn tell_host(line: &str) {
    write(HIGHEST_LEVEL, line);
}

fn write(level: &str, line: &str) {
    let Some(mut log) = LOG.get() else { return };
    let mut text = format!("{level}{CONSOLE_PREFIX}");
    text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_MAX_CHARS));
    text.push('\n');
    // In one write, which is one line. Errors cannot be reported anywhere.
    let _ = log.write(text.as_bytes());
}
