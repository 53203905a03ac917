//! The initramfs: the agent as `/init`, the modules that it must load to access disks, and the list
//! with their loading order.
//!
//! It consists of two concatenated archives, which the kernel unpacks as one. The modules are
//! written once per appliance; the agent's archive is small and written for each version of the
//! agent.

use std::io::{self, Write};

use crate::modules::Module;

/// The list of modules that the agent loads: one absolute path per line, in loading order.
pub const MODULE_LIST: &str = "etc/vbuild/modules";

/// File type bits of a mode: regular file, directory, character device.
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;

/// Padding between archives. The kernel requires a multiple of four bytes for the second; a page is
/// always sufficient.
const PADDING_BYTES: usize = 4096;

/// Builds a newc archive. Times and inode numbers are fixed, so that the same files give the same
/// bytes.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other("a file is too large for an initramfs"))?;
        let mut writer = cpio::newc::Builder::new(path)
            .ino(self.inode)
            .mode(mode)
            .nlink(1)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(&mut self.bytes, size);
        writer.write_all(data)?;
        writer.finish().map(drop)
    }

    fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, S_IFDIR | 0o755, (0, 0), &[])
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entry(path, S_IFREG | mode, (0, 0), data)
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        cpio::newc::trailer(&mut self.bytes)?;
        self.bytes.resize(self.bytes.len().next_multiple_of(PADDING_BYTES), 0);
        Ok(self.bytes)
    }
}

/// Builds the archive with the modules and their list.
///
/// # Errors
/// Fails if a module is larger than 4 GiB.
pub(crate) fn modules_archive(modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["etc", "etc/vbuild", "lib", "lib/modules"] {
        archive.directory(directory)?;
    }
    let mut list = String::new();
    for module in modules {
        let path = format!("lib/modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.bytes)?;
        list.push('/');
        list.push_str(&path);
        list.push('\n');
    }
    archive.file(MODULE_LIST, 0o644, list.as_bytes())?;
    archive.finish()
}

/// Builds the archive with the agent and its first mount points.
///
/// # Errors
/// Fails if the agent is larger than 4 GiB.
pub(crate) fn agent_archive(agent: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "run", "tmp"] {
        archive.directory(directory)?;
    }
    // The kernel opens this for init's standard streams, before anything is mounted.
    archive.entry("dev/console", S_IFCHR | 0o600, (5, 1), &[])?;
    archive.entry("dev/null", S_IFCHR | 0o666, (1, 3), &[])?;
    archive.file("init", 0o755, agent)?;
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut names = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return names;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut data = Vec::new();
            io::Read::read_to_end(&mut reader, &mut data).unwrap();
            bytes = reader.finish().unwrap();
            names.push((name, mode, data));
        }
    }

    #[test]
    fn the_archives_hold_what_the_kernel_and_the_agent_look_for() {
        let module = |name: &str| Module {
            name: name.to_owned(),
            path: String::new(),
            bytes: vec![1, 2, 3],
        };
        let modules = modules_archive(&[module("virtio"), module("virtio_blk")]).unwrap();
        let entries = names(&modules);
        let list = entries.iter().find(|(name, ..)| name == MODULE_LIST).unwrap();
        assert_eq!(list.2, b"/lib/modules/virtio.ko\n/lib/modules/virtio_blk.ko\n");
        let agent = agent_archive(b"agent").unwrap();
        let entries = names(&agent);
        let init = entries.iter().find(|(name, ..)| name == "init").unwrap();
        assert_eq!((init.1, init.2.as_slice()), (S_IFREG | 0o755, b"agent".as_slice()));
        assert_eq!(agent.len() % 4, 0);
        assert_eq!(agent, agent_archive(b"agent").unwrap());
    }
}
