//! Generators of artifacts, assemblies, and source files.

use super::{Content, ImageTarget, Script, SourceFile, VmScript};
use crate::{haskell::terms, place::Text};

terms! {
    /// The value of a `.b9` file: artifacts, with variables and sources in scope.
    pub enum ArtifactGenerator = "ArtifactGenerator" {
        /// Adds sources to all enclosed artifacts.
        Sources = "Sources"(sources: Vec<ArtifactSource>, body: Vec<ArtifactGenerator>),
        /// Binds variables.
        Let = "Let"(bindings: Vec<(Text, Text)>, body: Vec<ArtifactGenerator>),
        /// Runs the body for every combination of values, the first variable slowest.
        LetX = "LetX"(bindings: Vec<(Text, Vec<Text>)>, body: Vec<ArtifactGenerator>),
        /// Runs the body for the first values of all variables, then for the second ones, and so
        /// on.
        Each = "Each"(bindings: Vec<(Text, Vec<Text>)>, body: Vec<ArtifactGenerator>),
        /// Like `Each`, written as a table: names, and rows of values.
        EachT = "EachT"(names: Vec<Text>, rows: Vec<Vec<Text>>, body: Vec<ArtifactGenerator>),
        /// An artifact.
        Artifact = "Artifact"(id: InstanceId, assembly: ArtifactAssembly),
        /// No artifact.
        EmptyArtifact = "EmptyArtifact",
    }
}

terms! {
    /// The name of an artifact.
    pub struct InstanceId = "InstanceId"("IID") {
        /// The name, a template.
        name: Text,
    }
}

terms! {
    /// How an artifact is assembled.
    pub enum ArtifactAssembly = "ArtifactAssembly" {
        /// cloud-init seeds made from the sources: base path, and a suffix per type.
        CloudInit = "CloudInit"(types: Vec<CloudInitType>, path: Text),
        /// Images, and a script that runs in them.
        VmImages = "VmImages"(targets: Vec<ImageTarget>, script: VmScript),
        /// The same, with a fixup script that then gets the images as files.
        VmImagesWithFixup = "VmImagesWithFixup"(
            targets: Vec<ImageTarget>,
            script: VmScript,
            fixup: Script,
        ),
    }
}

terms! {
    /// A type of cloud-init seed.
    #[derive(Copy, PartialEq, Eq)]
    pub enum CloudInitType = "CloudInitType" {
        /// An ISO9660 image.
        Iso = "CI_ISO",
        /// A FAT image.
        Vfat = "CI_VFAT",
        /// A directory.
        Dir = "CI_DIR",
    }
}

terms! {
    /// Source files of an artifact.
    pub enum ArtifactSource = "ArtifactSource" {
        /// A copy of a file: destination and source.
        FromFile = "FromFile"(destination: Text, source: SourceFile),
        /// A file with generated content.
        FromContent = "FromContent"(destination: Text, content: Content),
        /// Sets the permissions of the enclosed files: owner, group, others.
        SetPermissions = "SetPermissions"(
            owner: i64,
            group: i64,
            all: i64,
            body: Vec<ArtifactSource>,
        ),
        /// The base directory of the enclosed files' sources.
        FromDirectory = "FromDirectory"(directory: Text, body: Vec<ArtifactSource>),
        /// The base directory of the enclosed files' destinations.
        IntoDirectory = "IntoDirectory"(directory: Text, body: Vec<ArtifactSource>),
    }
}
