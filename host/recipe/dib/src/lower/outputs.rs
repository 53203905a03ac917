//! The outputs of a plan: files written on the host.

use std::path::{Path, PathBuf};

use plan::{Checksum, DiskName, ImageOutput, Outputs, Step, TreeOutput};

use crate::{
    block_device::{DiskDeclaration, IMAGE_DISK},
    guest,
    lower::{Build, steps},
    options::MadeFrom,
};

/// The image files of disks, and the options of all outputs.
pub(crate) fn outputs(build: &Build<'_>) -> Outputs {
    let mut images = Vec::new();
    if build.has_final_image() {
        for format in &build.options.formats {
            if format.made_from == MadeFrom::Disk {
                images.push(ImageOutput {
                    disk: DiskName::new(IMAGE_DISK).expect("a constant name"),
                    format: format.name.clone(),
                    path: output_path(build, &format.extension),
                    compress: !build.options.uncompressed,
                    // A raw image is the disk itself and needs no conversion.
                    options: build
                        .options
                        .qemu_img_options
                        .clone()
                        .filter(|_| format.name != "raw"),
                });
            }
        }
    }
    if !build.ramdisk {
        images.extend(build.devices.disks.iter().filter_map(kept_disk));
    }
    let checksums: Vec<Checksum> =
        if build.ramdisk { Vec::new() } else { build.settings.checksums.clone() };
    Outputs {
        images,
        checksums,
        overwrite: build.settings.overwrite,
        epoch: build.options.source_date_epoch,
    }
}

/// The output of a local_loop with a directory: its raw file is kept there, as in the original.
/// This is how a build produces data disks.
fn kept_disk(disk: &DiskDeclaration) -> Option<ImageOutput> {
    let directory = disk.directory.as_ref()?;
    Some(ImageOutput {
        disk: disk.name.clone(),
        format: "raw".to_owned(),
        path: Path::new(directory).join(format!("{}.raw", disk.name)),
        compress: false,
        options: None,
    })
}

fn output_path(build: &Build<'_>, extension: &str) -> PathBuf {
    build.directory.join(format!("{}.{extension}", build.image_name))
}

/// The directory for outputs that are not images.
pub(crate) fn side_directory(build: &Build<'_>) -> PathBuf {
    output_path(build, "d")
}

/// The steps that archive the tree.
pub(crate) fn tree_steps(build: &Build<'_>) -> Vec<Step> {
    if build.ramdisk {
        return Vec::new();
    }
    build
        .options
        .formats
        .iter()
        .filter(|format| format.made_from == MadeFrom::Tree)
        .map(|format| {
            let mut exclude = vec!["proc/*".to_owned(), "sys/*".to_owned()];
            if format.name == "squashfs" {
                // The root filesystem gets a devtmpfs at boot.
                exclude.push("dev/*".to_owned());
            }
            Step::ExportTree {
                root: steps::path(guest::MNT),
                exclude,
                output: TreeOutput {
                    format: format.name.clone(),
                    path: output_path(build, &format.extension),
                    target: build.options.docker_target.clone(),
                },
            }
        })
        .collect()
}
