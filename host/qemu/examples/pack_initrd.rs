//! Packs the initramfs of the boot tests: `pack_initrd OUT GUEST MODULE...`, where GUEST is a
//! statically linked `testguest` and the modules are in loading order.

use std::{env, fs, io::Write, path::Path};

use cpio::{NewcBuilder, newc::trailer};

/// File type bits of `mode` in an archive member.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [out, guest, modules @ ..] = &arguments[..] else {
        return Err("usage: pack_initrd OUT GUEST MODULE...".into());
    };
    let mut archive = fs::File::create(out)?;
    let mut inode = 1;
    let mut add = |builder: NewcBuilder, bytes: &[u8]| -> std::io::Result<()> {
        inode += 1;
        let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let mut member = builder.ino(inode).nlink(1).write(&mut archive, len);
        member.write_all(bytes)?;
        member.finish()?;
        Ok(())
    };
    for name in ["dev", "proc", "sys", "modules"] {
        add(NewcBuilder::new(name).mode(DIRECTORY), &[])?;
    }
    // The kernel opens this device for the standard streams of /init.
    add(NewcBuilder::new("dev/console").mode(DEVICE).rdev_major(5).rdev_minor(1), &[])?;
    add(NewcBuilder::new("init").mode(PROGRAM), &fs::read(guest)?)?;
    for (index, module) in modules.iter().enumerate() {
        let base = Path::new(module).file_name().ok_or("a module without a name")?;
        let name = format!("modules/{index:02}-{}", base.to_string_lossy());
        add(NewcBuilder::new(&name).mode(PROGRAM), &fs::read(module)?)?;
    }
    trailer(&mut archive)?;
    Ok(())
}
