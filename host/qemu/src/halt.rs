//! Determines why a machine ended, from everything observed. It is pure, so every combination can
//! be tested without a guest.

use std::os::unix::process::ExitStatusExt;

use machine::HaltReason;

use crate::{process::Exit, qmp::Notice};

/// Maximum characters of QEMU's standard error in a message.
const COMPLAINT_MAX_CHARS: usize = 2000;

/// Observations of a running machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Whether vbuild ended it on purpose.
    pub(crate) killed: bool,
    /// QEMU's events, in order.
    pub(crate) notices: Vec<Notice>,
    /// The failure of the vsock device, if any.
    pub(crate) vsock_failure: Option<String>,
    /// Whether the console shows a kernel panic.
    pub(crate) console_panic: bool,
}

/// The reason, from the observations and QEMU's exit.
pub(crate) fn reason(seen: &Seen, exit: &Exit) -> HaltReason {
    // vbuild kills a stopped machine, but this is not the reason of its end.
    for notice in &seen.notices {
        if let Notice::IoError { .. } = notice {
            return HaltReason::Lost(io_error(notice));
        }
    }
    if seen.killed {
        return HaltReason::Killed;
    }
    if let Some(cause) = &seen.vsock_failure {
        return HaltReason::Lost(format!("the vsock device failed: {cause}"));
    }
    if seen.notices.contains(&Notice::Panicked) {
        return HaltReason::Panic;
    }
    let shutdown = seen.notices.iter().find_map(|notice| match notice {
        Notice::Shutdown { reason } => Some(reason.as_str()),
        _ => None,
    });
    match shutdown {
        Some("guest-shutdown") => HaltReason::PowerOff,
        Some("guest-panic") => HaltReason::Panic,
        // With panic=-1 the kernel reboots on a panic; only the console distinguishes this from a
        // normal reboot.
        Some("guest-reset") if seen.console_panic => HaltReason::Panic,
        Some("guest-reset") => HaltReason::Reboot,
        Some(other) => HaltReason::Lost(format!("QEMU shut down for `{other}`")),
        None => HaltReason::Lost(ending(exit)),
    }
}

/// The message about a failed drive.
pub(crate) fn io_error(notice: &Notice) -> String {
    match notice {
        Notice::IoError { no_space: true, node, .. } => {
            format!("the host has no space left for the image of `{}`", drive_of(node))
        }
        Notice::IoError { node, operation, reason, .. } => {
            format!("the host failed to {operation} the image of `{}`: {reason}", drive_of(node))
        }
        other => format!("{other:?}"),
    }
}

/// The serial in a node name from `argv::node_name`.
fn drive_of(node: &str) -> &str {
    let serial = node.strip_prefix("drive-").unwrap_or(node);
    serial.split('.').next().unwrap_or(serial)
}

/// A description of QEMU's exit if it gave no reason.
pub(crate) fn ending(exit: &Exit) -> String {
    let how = match &exit.status {
        Err(cause) => format!("QEMU is gone: {cause}"),
        Ok(status) => match (status.code(), status.signal()) {
            (_, Some(signal)) => format!("QEMU was ended by signal {signal}"),
            (Some(code), _) => format!("QEMU ended with status {code}"),
            _ => "QEMU ended".to_owned(),
        },
    };
    let complaint = exit.complaint.trim();
    if complaint.is_empty() {
        return how;
    }
    let skip = complaint.chars().count().saturating_sub(COMPLAINT_MAX_CHARS);
    let end: String = complaint.chars().skip(skip).collect();
    format!("{how}: {end}")
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    fn exit(raw: i32, complaint: &str) -> Exit {
        Exit { status: Ok(ExitStatus::from_raw(raw)), complaint: complaint.to_owned() }
    }

    fn shutdown(reason: &str) -> Seen {
        let reason = reason.to_owned();
        Seen { notices: vec![Notice::Shutdown { reason }], ..Seen::default() }
    }

    #[test]
    fn ordinary_ends() {
        let fine = exit(0, "");
        assert_eq!(reason(&shutdown("guest-shutdown"), &fine), HaltReason::PowerOff);
        assert_eq!(reason(&shutdown("guest-reset"), &fine), HaltReason::Reboot);
        let panicked = Seen { console_panic: true, ..shutdown("guest-reset") };
        assert_eq!(reason(&panicked, &fine), HaltReason::Panic);
        let device = Seen { notices: vec![Notice::Panicked], ..Seen::default() };
        assert_eq!(reason(&device, &fine), HaltReason::Panic);
        let failed = Seen { vsock_failure: Some("why".to_owned()), ..Seen::default() };
        let lost = HaltReason::Lost("the vsock device failed: why".to_owned());
        assert_eq!(reason(&failed, &exit(9, "")), lost);
        let killed = Seen { killed: true, ..Seen::default() };
        assert_eq!(reason(&killed, &exit(9, "")), HaltReason::Killed);
    }

    #[test]
    fn a_full_disk_of_the_host_is_named_even_after_the_kill() {
        let error = Notice::IoError {
            node: "drive-scratch.2".to_owned(),
            operation: "write".to_owned(),
            no_space: true,
            reason: "No space left on device".to_owned(),
        };
        let seen = Seen { killed: true, notices: vec![error], ..Seen::default() };
        assert_eq!(
            reason(&seen, &exit(9, "")),
            HaltReason::Lost("the host has no space left for the image of `scratch`".to_owned())
        );
    }

    #[test]
    fn other_ends_tell_what_is_known() {
        let lost = |seen: &Seen, exit: &Exit| match reason(seen, exit) {
            HaltReason::Lost(text) => text,
            other => panic!("{other:?}"),
        };
        let nothing = Seen::default();
        assert_eq!(lost(&nothing, &exit(11, "")), "QEMU was ended by signal 11");
        let text = lost(&nothing, &exit(1 << 8, "qemu: no such kernel\n"));
        assert_eq!(text, "QEMU ended with status 1: qemu: no such kernel");
        let text = lost(&shutdown("host-signal"), &exit(0, ""));
        assert_eq!(text, "QEMU shut down for `host-signal`");
        let long = lost(&nothing, &exit(1 << 8, &"x".repeat(100_000)));
        assert!(long.len() < COMPLAINT_MAX_CHARS + 100);
    }
}
