//! The memory of a machine as a file of vbuild, and machines that are saved and restored.
//!
//! QEMU calls both a migration. Its stream has the state of processors and devices; the guest's
//! memory is not in it (capability `x-ignore-shared`), because vbuild made the file that is the
//! memory and copies its data itself: the stream would have every page, and reading a page of a
//! hole allocates it.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use machine::{MachineError, SavedMachine, Start};
use nix::sys::memfd::{MFdFlags, memfd_create};
use qapi::qmp::{
    MigrationCapability, MigrationCapabilityStatus, MigrationInfo, MigrationStatus, cont,
    device_add, migrate, migrate_incoming, migrate_set_capabilities, query_migrate, stop,
};

use crate::{
    argv::VSOCK_PORT,
    qmp::{Qmp, QmpError},
};

/// QEMU's name of the descriptor with the stream.
const STREAM: &str = "state";
/// Maximum size of the stream. Without the guest's memory it has about 1 MiB, most of it firmware.
const STREAM_MAX_BYTES: u64 = 64 << 20;
/// Pause between two questions for the progress of a migration, which takes some 20 ms.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Time limit of a migration. A busy host needs a second.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);

/// A new memory of a machine, filled from the saved one if there is one.
///
/// # Errors
/// Fails if the host has no memory left, or if the saved memory has another size.
pub(crate) fn memory(bytes: u64, start: &Start) -> io::Result<File> {
    let memory = File::from(memfd_create(c"guest-memory", MFdFlags::MFD_CLOEXEC)?);
    memory.set_len(bytes)?;
    if let Start::Restore(saved) = start {
        let saved = File::open(saved.memory())?;
        if saved.metadata()?.len() != bytes {
            return Err(io::Error::other("the saved memory has another size"));
        }
        sparse::copy_data(&saved, &memory)?;
    }
    Ok(memory)
}

/// Saves a machine; it stays stopped.
pub(crate) async fn save(
    qmp: &Qmp,
    memory: &Arc<File>,
    into: &SavedMachine,
) -> Result<(), MachineError> {
    let (reader, writer) =
        io::pipe().map_err(MachineError::io("make a pipe for the machine's state"))?;
    let path = into.state();
    let reading = tokio::task::spawn_blocking(move || read_state(reader, &File::create(path)?));
    migrate_out(qmp, writer).await.map_err(|cause| MachineError::Vmm {
        action: "save the state of the machine".to_owned(),
        reason: cause.to_string(),
    })?;
    let read = reading.await.map_err(io::Error::other).flatten();
    read.map_err(MachineError::io("write the state of the machine"))?;
    let (memory, path) = (Arc::clone(memory), into.memory());
    let copying = tokio::task::spawn_blocking(move || {
        let file = File::create(path)?;
        file.set_len(memory.metadata()?.len())?;
        sparse::copy_data(&memory, &file)
    });
    let copied = copying.await.map_err(io::Error::other).flatten();
    copied.map_err(MachineError::io("write the memory of the machine"))
}

async fn migrate_out(qmp: &Qmp, stream: PipeWriter) -> Result<(), QmpError> {
    qmp.execute(stop {}).await?;
    leave_memory_out(qmp).await?;
    qmp.send_named(STREAM, stream.as_fd()).await?;
    // QEMU has its own now, and the reader must see the end.
    drop(stream);
    let (uri, channels, detach, resume) = (Some(format!("fd:{STREAM}")), None, None, None);
    qmp.execute(migrate { uri, channels, detach, resume }).await?;
    completed(qmp).await
}

/// Restores the devices of a machine that was started with `-S -incoming defer`, plugs its vsock
/// device, and runs it.
pub(crate) async fn restore(qmp: &Qmp, from: &SavedMachine) -> Result<(), MachineError> {
    let refused = |cause: QmpError| MachineError::Vmm {
        action: "restore the state of a saved machine".to_owned(),
        reason: cause.to_string(),
    };
    let path = from.state();
    let state =
        File::open(&path).map_err(MachineError::io(format!("open `{}`", path.display())))?;
    let (reader, writer) =
        io::pipe().map_err(MachineError::io("make a pipe for the machine's state"))?;
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = writer;
        io::copy(&mut state.take(STREAM_MAX_BYTES), &mut writer).map(drop)
    });
    migrate_in(qmp, reader).await.map_err(refused)?;
    let written = writing.await.map_err(io::Error::other).flatten();
    written.map_err(MachineError::io("pass on the state of a saved machine"))?;
    let device = device_add {
        driver: "vhost-user-vsock-pci".to_owned(),
        id: Some("vsock".to_owned()),
        bus: Some(VSOCK_PORT.to_owned()),
        arguments: [("chardev".to_owned(), "vsock".into())].into_iter().collect(),
    };
    qmp.execute(device).await.map_err(refused)?;
    qmp.execute(cont {}).await.map(drop).map_err(refused)
}

async fn migrate_in(qmp: &Qmp, stream: PipeReader) -> Result<(), QmpError> {
    leave_memory_out(qmp).await?;
    qmp.send_named(STREAM, stream.as_fd()).await?;
    drop(stream);
    let (uri, channels, exit_on_error) = (Some(format!("fd:{STREAM}")), None, None);
    qmp.execute(migrate_incoming { uri, channels, exit_on_error }).await?;
    completed(qmp).await
}

async fn leave_memory_out(qmp: &Qmp) -> Result<(), QmpError> {
    let capability = MigrationCapability::x_ignore_shared;
    let capabilities = vec![MigrationCapabilityStatus { capability, state: true }];
    qmp.execute(migrate_set_capabilities { capabilities }).await.map(drop)
}

/// Waits for the end of a migration.
async fn completed(qmp: &Qmp) -> Result<(), QmpError> {
    let asking = async {
        loop {
            let MigrationInfo { status, error_desc, .. } = qmp.execute(query_migrate {}).await?;
            match status {
                Some(MigrationStatus::completed) => return Ok(()),
                Some(MigrationStatus::failed | MigrationStatus::cancelled) => {
                    let reason = error_desc.unwrap_or_else(|| "the migration failed".to_owned());
                    return Err(QmpError::Refused(reason));
                }
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(MIGRATION_LIMIT, asking).await.map_err(|_| QmpError::NoAnswer)?
}

fn read_state(from: PipeReader, mut into: &File) -> io::Result<()> {
    let mut limited = from.take(STREAM_MAX_BYTES);
    io::copy(&mut limited, &mut into)?;
    match limited.limit() {
        0 => Err(io::Error::other("the state is larger than any machine's")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn memory_is_copied_by_its_data_and_only_at_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let saved = SavedMachine(dir.path().to_owned());
        let start = Start::Restore(saved.clone());
        let file = File::create(saved.memory()).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"here", 5 << 20).unwrap();
        let restored = memory(8 << 20, &start).unwrap();
        let mut bytes = [0; 4];
        restored.read_exact_at(&mut bytes, 5 << 20).unwrap();
        assert_eq!(&bytes, b"here");
        assert!(memory(4 << 20, &start).is_err());
        assert_eq!(sparse::next_data(&memory(8 << 20, &Start::Boot).unwrap(), 0).unwrap(), None);
    }
}
