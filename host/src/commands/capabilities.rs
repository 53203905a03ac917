//! `vbuild --machine-readable` without elements: prints the capabilities of this vbuild, one per
//! line, in virt-dib's format.

use std::io::{ErrorKind, Write as _};

use super::context::Outcome;
use crate::{
    cli::{MachineReadable, format_names},
    error::{CommandError, Kind},
    ui::{Console, open_channel},
};

/// Prints the list of capabilities to the channel.
///
/// # Errors
/// Fails if the channel cannot be opened or written.
pub(crate) fn run(console: &Console, channel: &MachineReadable) -> Outcome {
    let list = list();
    match channel {
        MachineReadable::Plain | MachineReadable::Stdout => console.print(&list)?,
        other => {
            let mut channel = open_channel(other)?;
            match channel.write_all(list.as_bytes()).and_then(|()| channel.flush()) {
                // As everywhere in vbuild, a reader that has gone away is not a failure.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    return Err(CommandError::new(Kind::Host, error)
                        .context("cannot write to the channel of --machine-readable"));
                }
                _ => {}
            }
        }
    }
    Ok(0)
}

fn list() -> String {
    let outputs = format_names().into_iter().map(|name| format!("output:{name}\n"));
    std::iter::once("vbuild\n".to_owned()).chain(outputs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_comes_first_and_outputs_are_sorted() {
        let list = list();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines[0], "vbuild");
        assert!(lines[1..].is_sorted());
        assert!(lines.contains(&"output:qcow2"));
    }
}
