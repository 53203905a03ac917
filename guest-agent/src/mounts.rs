//! Mounts: converts options of mount(8) to flags of mount(2), mounts and unmounts, reads the mount
//! table, and freezes and thaws filesystems.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use wire::{Failure, MountEntry, MountSpec};

use crate::failure::{Doing, failure};
use crate::{modules, sys};

/// An absent string argument of mount(2).
const NONE: Option<&str> = None;

/// The per-mount flags, which a bind accepts only in a second call.
const PER_MOUNT: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME);

/// The parsed options of a mount.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MsFlags,
    propagation: MsFlags,
    data: String,
}

/// Returns the flag of an option, and whether to set (true) or clear it.
fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "silent" => (MsFlags::MS_SILENT, true),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        "move" => (MsFlags::MS_MOVE, true),
        "remount" => (MsFlags::MS_REMOUNT, true),
        "defaults" => (MsFlags::empty(), true),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MsFlags> {
    let (name, recursive) =
        option.strip_prefix('r').map_or((option, MsFlags::empty()), |n| (n, MsFlags::MS_REC));
    let kind = match name {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

fn parse(options: &[String]) -> Options {
    let mut parsed =
        Options { flags: MsFlags::empty(), propagation: MsFlags::empty(), data: String::new() };
    for option in options.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()) {
        if let Some(kind) = propagation(option) {
            parsed.propagation |= kind;
        } else if let Some((bits, set)) = flag(option) {
            parsed.flags.set(bits, set);
        } else {
            if !parsed.data.is_empty() {
                parsed.data.push(',');
            }
            parsed.data.push_str(option);
        }
    }
    parsed
}

/// Performs a mount, and creates its mount point if it does not exist.
pub(crate) fn mount(spec: &MountSpec) -> Result<(), Failure> {
    let action = || format!("mount `{}` on `{}`", spec.source, spec.target);
    if !spec.target.starts_with('/') {
        return Err(failure(action(), "the mount point is no absolute path"));
    }
    let options = parse(&spec.options);
    let is_new = !options.flags.contains(MsFlags::MS_REMOUNT);
    if is_new {
        make_mount_point(spec, options.flags).doing(action)?;
    }
    if options.flags.contains(MsFlags::MS_BIND) && is_new {
        bind(spec, &options).doing(action)?;
    } else if !spec.fstype.is_empty() || !is_new || options.flags.contains(MsFlags::MS_MOVE) {
        mount_filesystem(spec, &options)?;
    } else if options.propagation.is_empty() {
        return Err(failure(action(), "neither a filesystem type nor a bind is given"));
    }
    if !options.propagation.is_empty() {
        nix::mount::mount(NONE, spec.target.as_str(), NONE, options.propagation, NONE)
            .doing(action)?;
    }
    Ok(())
}

fn mount_filesystem(spec: &MountSpec, options: &Options) -> Result<(), Failure> {
    let call = || {
        let fstype = Some(spec.fstype.as_str()).filter(|fstype| !fstype.is_empty());
        let data = Some(options.data.as_str()).filter(|data| !data.is_empty());
        let source = Some(spec.source.as_str());
        nix::mount::mount(source, spec.target.as_str(), fstype, options.flags, data)
    };
    let result = match call() {
        // The kernel does not know the type. Its module may exist nevertheless, in a root in which
        // the kernel finds no modprobe.
        Err(Errno::ENODEV) if modules::load(std::slice::from_ref(&spec.fstype)).is_ok() => call(),
        other => other,
    };
    result.doing(|| match spec.fstype.as_str() {
        "" => format!("mount `{}` on `{}`", spec.source, spec.target),
        fstype => format!("mount `{}` as {fstype} on `{}`", spec.source, spec.target),
    })
}

fn bind(spec: &MountSpec, options: &Options) -> nix::Result<()> {
    let target = spec.target.as_str();
    let kind = options.flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
    nix::mount::mount(Some(spec.source.as_str()), target, NONE, kind, NONE)?;
    let per_mount = options.flags & PER_MOUNT;
    if per_mount.is_empty() {
        return Ok(());
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | per_mount;
    nix::mount::mount(NONE, target, NONE, flags, NONE).inspect_err(|_| {
        // No bind is better than one with more rights than requested.
        let _ = umount2(target, MntFlags::MNT_DETACH);
    })
}

fn make_mount_point(spec: &MountSpec, flags: MsFlags) -> std::io::Result<()> {
    let target = Path::new(&spec.target);
    if fs::metadata(target).is_ok() {
        return Ok(());
    }
    let source_is_file = || {
        fs::metadata(&spec.source).is_ok_and(|source| {
            let kind = source.file_type();
            kind.is_file() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
        })
    };
    if flags.contains(MsFlags::MS_BIND) && source_is_file() {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        return File::create(target).map(drop);
    }
    fs::create_dir_all(target)
}

/// Unmounts a mount point, after everything that is mounted below it.
pub(crate) fn unmount(path: &str, lazy: bool) -> Result<(), Failure> {
    let flags =
        MntFlags::UMOUNT_NOFOLLOW | if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    let below = format!("{}/", path.trim_end_matches('/'));
    let targets: Vec<String> = list()?
        .into_iter()
        .map(|entry| entry.target)
        .filter(|target| target == path || target.starts_with(&below))
        .collect();
    if targets.is_empty() {
        return Err(failure(format!("unmount `{path}`"), "it is not mounted"));
    }
    // The last mount is unmounted first, as it may be on top of the others.
    targets.iter().rev().try_for_each(|target| {
        umount2(target.as_str(), flags).doing(|| format!("unmount `{target}`"))
    })
}

/// Returns the mount table.
pub(crate) fn list() -> Result<Vec<MountEntry>, Failure> {
    let table = fs::read_to_string("/proc/self/mountinfo").doing(|| "read the mount table")?;
    Ok(table.lines().filter_map(parse_line).collect())
}

/// Parses a line of mountinfo; see proc(5).
pub(crate) fn parse_line(line: &str) -> Option<MountEntry> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (device, root, target) = (fields.next()?, fields.next()?, fields.next()?);
    let options = fields.next()?;
    let mut fields = after.split(' ');
    let (fstype, source) = (fields.next()?, fields.next()?);
    Some(MountEntry {
        source: unescape(source),
        root: unescape(root),
        target: unescape(target),
        fstype: unescape(fstype),
        options: options.to_owned(),
        device: device.to_owned(),
    })
}

/// Decodes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => plain.push(char::from(code)),
            None => plain.push('\\'),
        }
        rest = if code.is_some_and(|c| c.is_ascii()) { &after[3..] } else { after };
    }
    plain + rest
}

/// Freezes filesystems in order. If one of them cannot be frozen, those already frozen are thawed.
pub(crate) fn freeze(paths: &[String]) -> Result<(), Failure> {
    for (index, path) in paths.iter().enumerate() {
        let freeze_one = || Ok(sys::freeze(File::open(path)?)?);
        let frozen: std::io::Result<()> = freeze_one();
        if let Err(error) = frozen {
            for path in paths[..index].iter().rev() {
                let _ = thaw_one(path);
            }
            return Err(error).doing(|| format!("freeze `{path}`"));
        }
    }
    Ok(())
}

/// Thaws filesystems in reverse order, all of them even if one fails. Returns the first failure.
pub(crate) fn thaw(paths: &[String]) -> Result<(), Failure> {
    let mut results = Vec::new();
    for path in paths.iter().rev() {
        results.push(thaw_one(path));
    }
    results.into_iter().collect()
}

fn thaw_one(path: &str) -> Result<(), Failure> {
    let action = || format!("thaw `{path}`");
    sys::thaw(File::open(path).doing(action)?).doing(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> Options {
        parse(&[options.to_owned()])
    }

    #[test]
    fn options_become_flags_data_and_propagation() {
        let options = parsed("ro,nosuid,mode=0755,rprivate,size=1m");
        assert_eq!(options.flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert_eq!(options.propagation, MsFlags::MS_PRIVATE | MsFlags::MS_REC);
        assert_eq!(options.data, "mode=0755,size=1m");
        assert_eq!(parsed("ro,rw").flags, MsFlags::empty());
        assert_eq!(parsed("rbind").flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(parsed("remount,relatime").propagation, MsFlags::empty());
        assert_eq!(parsed("defaults").data, "");
    }

    #[test]
    fn mountinfo_is_parsed_with_optional_fields_and_escapes() {
        let line = "36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 - ext3 /dev/ro\\134ot rw";
        let entry = parse_line(line).unwrap();
        assert_eq!((entry.root.as_str(), entry.target.as_str()), ("/mnt1", "/a b"));
        assert_eq!((entry.fstype.as_str(), entry.source.as_str()), ("ext3", "/dev/ro\\ot"));
        assert_eq!((entry.options.as_str(), entry.device.as_str()), ("rw,noatime", "98:0"));
        assert_eq!(parse_line("36 35 98:0 / /"), None);
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("\\377ü\\"), "\\377ü\\");
    }

    #[test]
    fn a_mount_without_a_type_is_refused_before_anything_is_made() {
        let spec = MountSpec { target: "relative".into(), ..MountSpec::default() };
        assert!(mount(&spec).unwrap_err().reason.contains("absolute"));
    }

    #[test]
    fn the_own_mount_table_has_a_root() {
        assert!(list().unwrap().iter().any(|entry| entry.target == "/"));
    }
}
