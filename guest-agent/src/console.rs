//! The few lines that the agent says on the machine's console. They are what is
//! left to read when there is no connection any more.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

/// The longest line, in bytes: names from the guest get into some of them.
const LINE_MAX_BYTES: usize = 400;

static CONSOLE: OnceLock<File> = OnceLock::new();

/// Opens the console. Until then, and in an agent that is no machine's, nothing
/// is said. The kernel's log takes the place of a console that is not there.
pub(crate) fn open() {
    let open = |path| {
        OpenOptions::new()
            .write(true)
            // A console that nobody reads must not hold the agent up.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
    };
    if let Ok(file) = open("/dev/console").or_else(|_| open("/dev/kmsg")) {
        let _ = CONSOLE.set(file);
    }
}

/// Says a line.
pub(crate) fn say(line: &str) {
    let Some(mut console) = CONSOLE.get() else { return };
    let mut text = String::from("vbuild-agent: ");
    text.extend(line.chars().map(|c| if c.is_control() { '?' } else { c }).take(LINE_MAX_BYTES));
    text.push('\n');
    // There is nobody else to tell.
    let _ = console.write_all(text.as_bytes());
}
