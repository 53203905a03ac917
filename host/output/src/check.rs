//! Checks outputs before the build whose results they are.

use crate::{OutputError, format::Target, place, tools};

/// Checks before the build what would make an output fail after it: options, missing programs,
/// disks that are too large, outputs that overwrite each other, and paths that cannot be written.
/// If `are_made`, missing output directories are permitted, since they will be created.
///
/// # Errors
/// Returns all errors, not only the first.
pub fn check(targets: &[Target], are_made: bool) -> Result<(), Vec<OutputError>> {
    let mut complaints = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        if targets[..index].iter().any(|t| t.path == target.path) {
            complaints.push(OutputError::SamePath(target.path.clone()));
        }
        complaints.extend(place::check_file(&target.path, &target.checksums, are_made).err());
        let (format, max) = (target.format.name, target.format.max_bytes);
        if let Some(bytes) = target.disk_bytes.filter(|bytes| *bytes > max) {
            complaints.push(OutputError::TooLarge { format, bytes, max });
        }
        match (target.format.needs)(target) {
            Ok(Some(need)) if tools::find(need.tool).is_none() => {
                let needed_for = need.reason;
                complaints.push(OutputError::MissingTool { tool: need.tool.into(), needed_for });
            }
            Ok(_) => {}
            Err(e) => complaints.push(e),
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::format;

    #[test]
    fn disks_that_are_too_large_are_refused_before_they_are_built() {
        for (name, bytes) in [("vhd", 3 << 40), ("vmdk", 3 << 40), ("vhdx", 65 << 40)] {
            let target = |bytes| Target {
                disk_bytes: Some(bytes),
                ..Target::new(format(name).unwrap(), "a.image")
            };
            check(&[target(1 << 40)], false).unwrap();
            let complaints = check(&[target(bytes)], false).unwrap_err();
            assert!(matches!(complaints[..], [OutputError::TooLarge { .. }]), "{complaints:?}");
        }
    }

    #[test]
    fn two_outputs_of_one_name_are_refused() {
        let raw = format("raw").unwrap();
        let complaints = check(&[Target::new(raw, "a.raw"), Target::new(raw, "a.raw")], false);
        assert!(matches!(complaints.unwrap_err()[..], [OutputError::SamePath(_)]));
    }
}
