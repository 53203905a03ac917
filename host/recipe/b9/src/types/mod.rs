//! All constructors of B9 4.0.0, with their arguments in order.
//!
//! [`terms!`] generates parsing and printing from one list; the meaning of a value is documented
//! where it is used.

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
