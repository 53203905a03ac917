//! The artifact in which `b9c run` runs a command: a temporary copy of a shared image, with the
//! working directory in it.

use crate::{
    place::{Place, Text},
    types::{
        ArtifactAssembly, CpuArch, ImageDestination, ImageResize, ImageSource, ImageTarget,
        MountPoint, Script, SharedDirectory, VmScript,
    },
};

/// Parent of the working directory's mount point, which is the working directory's own path below
/// it.
const WORKING_FOLDER: &str = "/mnt";

/// The artifact for a session in a shared image; `folder` is the absolute path of the working
/// directory, if it is shared.
#[must_use]
pub fn visit(name: &str, folder: Option<&str>) -> (Text, ArtifactAssembly) {
    let text = |text: String| Text { text, at: Place::default() };
    let target = ImageTarget {
        destination: ImageDestination::Transient,
        source: ImageSource::From(text(name.to_owned()), ImageResize::KeepSize),
        mount_point: MountPoint::At(text("/".to_owned())),
    };
    let share = |folder: &str| {
        let place = MountPoint::At(text(format!("{WORKING_FOLDER}{folder}")));
        SharedDirectory::ReadWrite(text(folder.to_owned()), place)
    };
    let shares = folder.map(share).into_iter().collect();
    let script = VmScript::Run(CpuArch::X86, shares, Script::NoOp);
    (text(format!("run-{name}")), ArtifactAssembly::VmImages(vec![target], script))
}
