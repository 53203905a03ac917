//! Expands the templates in the strings of an assembly.

use crate::{
    environment::Environment,
    place::{Fault, Text},
    types::{
        ArtifactAssembly, Image, ImageDestination, ImageSource, ImageTarget, MountPoint, Script,
        SharedDirectory, VmScript,
    },
};

/// Expands the assembly, except for the fixup.
pub(super) fn expand(
    assembly: &ArtifactAssembly,
    environment: &Environment,
) -> Result<ArtifactAssembly, Fault> {
    let it = Expander(environment);
    Ok(match assembly {
        ArtifactAssembly::CloudInit(types, path) => {
            ArtifactAssembly::CloudInit(types.clone(), it.text(path)?)
        }
        ArtifactAssembly::VmImages(targets, script) => {
            ArtifactAssembly::VmImages(it.targets(targets)?, it.vm_script(script)?)
        }
        ArtifactAssembly::VmImagesWithFixup(targets, script, fixup) => {
            let targets = it.targets(targets)?;
            ArtifactAssembly::VmImagesWithFixup(targets, it.vm_script(script)?, fixup.clone())
        }
    })
}

struct Expander<'e>(&'e Environment);

impl Expander<'_> {
    fn text(&self, text: &Text) -> Result<Text, Fault> {
        self.0.expand(text)
    }

    fn targets(&self, targets: &[ImageTarget]) -> Result<Vec<ImageTarget>, Fault> {
        targets
            .iter()
            .map(|target| {
                Ok(ImageTarget {
                    destination: self.destination(&target.destination)?,
                    source: self.source(&target.source)?,
                    mount_point: self.mount_point(&target.mount_point)?,
                })
            })
            .collect()
    }

    fn mount_point(&self, mount_point: &MountPoint) -> Result<MountPoint, Fault> {
        Ok(match mount_point {
            MountPoint::At(path) => MountPoint::At(self.text(path)?),
            MountPoint::NotMounted => MountPoint::NotMounted,
        })
    }

    fn image(&self, image: &Image) -> Result<Image, Fault> {
        Ok(Image { path: self.text(&image.path)?, ..image.clone() })
    }

    fn destination(&self, destination: &ImageDestination) -> Result<ImageDestination, Fault> {
        use ImageDestination::{LiveInstallerImage, LocalFile, Share, Transient};
        Ok(match destination {
            Share(name, image_type, resize) => Share(self.text(name)?, *image_type, *resize),
            LiveInstallerImage(name, directory, resize) => {
                LiveInstallerImage(self.text(name)?, self.text(directory)?, *resize)
            }
            LocalFile(image, resize) => LocalFile(self.image(image)?, *resize),
            Transient => Transient,
        })
    }

    fn source(&self, source: &ImageSource) -> Result<ImageSource, Fault> {
        use ImageSource::{CopyOnWrite, EmptyImage, From, SourceImage};
        Ok(match source {
            EmptyImage(label, filesystem, image_type, size) => {
                EmptyImage(self.text(label)?, *filesystem, *image_type, *size)
            }
            CopyOnWrite(image) => CopyOnWrite(self.image(image)?),
            SourceImage(image, partition, resize) => {
                SourceImage(self.image(image)?, *partition, *resize)
            }
            From(name, resize) => From(self.text(name)?, *resize),
        })
    }

    fn vm_script(&self, script: &VmScript) -> Result<VmScript, Fault> {
        Ok(match script {
            VmScript::None => VmScript::None,
            VmScript::Run(arch, shares, script) => {
                let shares =
                    shares.iter().map(|share| self.share(share)).collect::<Result<_, _>>()?;
                VmScript::Run(*arch, shares, self.script(script)?)
            }
        })
    }

    fn share(&self, share: &SharedDirectory) -> Result<SharedDirectory, Fault> {
        Ok(match share {
            SharedDirectory::ReadWrite(directory, at) => {
                SharedDirectory::ReadWrite(self.text(directory)?, self.mount_point(at)?)
            }
            SharedDirectory::ReadOnly(directory, at) => {
                SharedDirectory::ReadOnly(self.text(directory)?, self.mount_point(at)?)
            }
            SharedDirectory::Sources(at) => SharedDirectory::Sources(self.mount_point(at)?),
        })
    }

    fn script(&self, script: &Script) -> Result<Script, Fault> {
        Ok(match script {
            Script::In(directory, body) => Script::In(self.text(directory)?, self.body(body)?),
            Script::As(user, body) => Script::As(self.text(user)?, self.body(body)?),
            Script::IgnoreErrors(ignore, body) => Script::IgnoreErrors(*ignore, self.body(body)?),
            Script::Verbosity(verbosity, body) => Script::Verbosity(*verbosity, self.body(body)?),
            Script::Begin(body) => Script::Begin(self.body(body)?),
            Script::Run(command, arguments) => {
                let arguments =
                    arguments.iter().map(|text| self.text(text)).collect::<Result<_, _>>()?;
                Script::Run(self.text(command)?, arguments)
            }
            Script::NoOp => Script::NoOp,
        })
    }

    fn body(&self, body: &[Script]) -> Result<Vec<Script>, Fault> {
        body.iter().map(|script| self.script(script)).collect()
    }
}
