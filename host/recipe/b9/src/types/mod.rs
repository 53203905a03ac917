//! The constructors of B9 4.0.0, all of them, with their arguments in order.
//!
//! Reading and printing are made from the same list, by [`terms!`]; what a value means
//! is told where it is used.

mod content;
mod generator;
mod image;
mod script;
mod shared_image;

pub use content::{
    Ast, CloudConfig, Content, ErlangPropList, SourceConversion, SourceFile, YamlLiteral,
};
pub use generator::{
    ArtifactAssembly, ArtifactGenerator, ArtifactSource, CloudInitType, InstanceId,
};
pub use image::{
    FileSystem, Image, ImageDestination, ImageResize, ImageSize, ImageSource, ImageTarget,
    ImageType, MountPoint, Partition, SizeUnit,
};
pub use script::{CmdVerbosity, CpuArch, Script, SharedDirectory, VmScript};
pub use shared_image::{SharedImage, SharedImageBuildId, SharedImageDate, SharedImageName};
