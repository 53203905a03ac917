//! The files that a plan writes, as targets of the `output` crate.

use output::Target;
use plan::Plan;

/// Returns the targets of a plan: disk outputs first, in the plan's order, then outputs of trees.
pub(crate) fn of_plan(plan: &Plan) -> Vec<Target> {
    let checksums = checksums(plan);
    let (epoch, architecture) = (plan.outputs.epoch, plan.architecture.oci());
    let disks = plan.outputs.images.iter().filter_map(|image| {
        let format = output::format(&image.format)?;
        let disk = plan.disks.iter().find(|disk| disk.name == image.disk)?;
        Some(Target {
            disk_bytes: match disk.size {
                plan::DiskSize::Bytes(bytes) => Some(bytes),
                plan::DiskSize::FactKib(_) => None,
            },
            compress: image.compress,
            options: image.options.clone(),
            checksums: checksums.clone(),
            identity: identity(epoch, &image.path),
            ..Target::new(format, &image.path)
        })
    });
    let trees = plan.steps().filter_map(|step| {
        let plan::Step::ExportTree { output: tree, .. } = step else { return None };
        let format = output::format(&tree.format)?;
        Some(Target {
            checksums: checksums.clone(),
            container: tree.target.clone(),
            architecture: architecture.to_owned(),
            identity: identity(epoch, &tree.path),
            ..Target::new(format, &tree.path)
        })
    });
    disks.chain(trees).collect()
}

/// Returns the identity of an output. With an epoch it is derived from the epoch and the file's
/// name, so that it is the same in every build; otherwise it is random.
pub(crate) fn identity(epoch: Option<u64>, path: &std::path::Path) -> output::Identity {
    let Some(epoch) = epoch else { return output::Identity::random() };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    output::Identity::fixed(format!("{epoch}/{name}").as_bytes(), epoch)
}

/// Returns the kinds of checksums that are written beside each output.
pub(crate) fn checksums(plan: &Plan) -> Vec<output::Checksum> {
    plan.outputs
        .checksums
        .iter()
        .map(|checksum| match checksum {
            plan::Checksum::Md5 => output::Checksum::Md5,
            plan::Checksum::Sha256 => output::Checksum::Sha256,
            plan::Checksum::Sha512 => output::Checksum::Sha512,
        })
        .collect()
}

/// Whether a target is written from a disk; other targets are written from a tree.
pub(crate) fn is_disk(target: &Target) -> bool {
    target.format.origin == output::Origin::Disk
}
