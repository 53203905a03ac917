//! Lowers options and elements to a plan.

mod outputs;
mod resolve;
mod stages;
mod steps;

use std::collections::BTreeSet;

use plan::{Disk, DiskName, DiskRole, DiskSize, FORMAT_VERSION, Plan};

use crate::{block_device::ConfigOrigin, error::DibError, options::DibOptions, source::Located};

pub(crate) use resolve::Build;

/// A plan, with facts about it for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// The plan.
    pub plan: Plan,
    /// The elements as requested, with those added by default.
    pub requested: Vec<String>,
    /// The elements of the image, sorted by name.
    pub elements: Vec<String>,
    /// The user's variables that scripts will see, by name.
    pub variables: Vec<String>,
    /// Variables that files of the elements use, by name.
    pub mentioned: BTreeSet<String>,
    /// The origin of the block-device configuration.
    pub block_device_config: ConfigOrigin,
    /// Warnings for the user, beside those of [`Located`].
    pub warnings: Vec<String>,
}

/// Size of the scratch disk. It is sparse and holds the writable layer of the tools root and the
/// tree with its copies in layers. 64 GiB exceeds any image built with elements and costs nothing.
const SCRATCH_BYTES: u64 = 64 << 30;

/// Lowers a build to a plan.
///
/// # Errors
/// Fails on errors in options, elements, hooks and layout, checked in this order.
pub fn lower(options: &DibOptions, located: &Located) -> Result<Lowered, DibError> {
    let build = Build::resolve(options, located)?;
    let mut disks = vec![Disk {
        name: DiskName::scratch(),
        role: DiskRole::Scratch,
        size: DiskSize::Bytes(options.scratch_bytes.unwrap_or(SCRATCH_BYTES)),
        block_bytes: 512,
        base: None,
    }];
    for declaration in &build.devices.disks {
        disks.push(Disk {
            name: declaration.name.clone(),
            role: DiskRole::Target,
            size: match declaration.bytes {
                Some(bytes) => DiskSize::Bytes(bytes.next_multiple_of(512)),
                None => build.size.disk.clone(),
            },
            block_bytes: declaration.block_bytes,
            base: None,
        });
    }
    let plan = Plan {
        format_version: FORMAT_VERSION,
        name: build.image_name.clone(),
        recipe: crate::RECIPE.to_owned(),
        architecture: build.settings.architecture,
        disks,
        stages: stages::stages(&build)?,
        outputs: outputs::outputs(&build),
        helper_at: steps::path(crate::guest::HELPER),
    };
    Ok(Lowered {
        plan,
        requested: build.requested.clone(),
        elements: build.elements.iter().map(|element| element.name.clone()).collect(),
        variables: build.settings.variables.keys().cloned().collect(),
        mentioned: build.hooks.mentioned.clone(),
        block_device_config: build.config.origin.clone(),
        warnings: build.warnings.clone(),
    })
}

#[cfg(test)]
mod scripts_tests;
#[cfg(test)]
mod tests;
