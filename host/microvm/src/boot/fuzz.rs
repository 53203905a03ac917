//! The body of the fuzz target for kernel images.

use std::{fs::File, os::unix::fs::FileExt};

use vm_memory::GuestAddress;

use super::{Payload, load};
use crate::{
    layout::ACPI_START,
    memory::{self, create_file},
};

/// Enough for the fixed addresses and a small kernel; allocated lazily.
const MEMORY_BYTES: u64 = 32 << 20;

fn file(bytes: &[u8]) -> Option<File> {
    let file = create_file(u64::try_from(bytes.len()).ok()?).ok()?;
    file.write_all_at(bytes, 0).ok()?;
    Some(file)
}

/// Loads the bytes as a kernel.
pub(crate) fn run(bytes: &[u8]) {
    let memory = memory::create(MEMORY_BYTES);
    let (Ok(memory), Some(mut kernel), Some(mut initrd)) = (memory, file(bytes), file(b"070701"))
    else {
        return;
    };
    let payload = Payload {
        kernel: &mut kernel,
        initrd: &mut initrd,
        cmdline: "quiet",
        rsdp: GuestAddress(ACPI_START),
    };
    // Success and error are both valid; anything else is a bug.
    let _ = load(&memory, payload);
}
