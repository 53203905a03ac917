//! Generators of artifacts, what they assemble, and the files that go into them.

use super::{Content, ImageTarget, Script, SourceFile, VmScript};
use crate::{haskell::terms, place::Text};

terms! {
    /// The value of a `.b9` file: artifacts, and the variables and sources that they see.
    pub enum ArtifactGenerator = "ArtifactGenerator" {
        /// Adds sources to all artifacts within.
        Sources = "Sources"(sources: Vec<ArtifactSource>, body: Vec<ArtifactGenerator>),
        /// Binds variables.
        Let = "Let"(bindings: Vec<(Text, Text)>, body: Vec<ArtifactGenerator>),
        /// Runs the body for every combination of values, the first variable slowest.
        LetX = "LetX"(bindings: Vec<(Text, Vec<Text>)>, body: Vec<ArtifactGenerator>),
        /// Runs the body for the first values of all variables, then for the second ones.
        Each = "Each"(bindings: Vec<(Text, Vec<Text>)>, body: Vec<ArtifactGenerator>),
        /// As `Each`, as a table: names, and rows of values.
        EachT = "EachT"(names: Vec<Text>, rows: Vec<Vec<Text>>, body: Vec<ArtifactGenerator>),
        /// An artifact.
        Artifact = "Artifact"(id: InstanceId, assembly: ArtifactAssembly),
        /// Generates no artifact.
        EmptyArtifact = "EmptyArtifact",
    }
}

terms! {
    /// The name of an artifact.
    pub struct InstanceId = "InstanceId"("IID") {
        /// A template.
        name: Text,
    }
}

terms! {
    /// What an artifact is made of.
    pub enum ArtifactAssembly = "ArtifactAssembly" {
        /// Seeds for cloud-init, made of the sources: at a path, with a suffix each.
        CloudInit = "CloudInit"(types: Vec<CloudInitType>, path: Text),
        /// Images, and a script that runs in them.
        VmImages = "VmImages"(targets: Vec<ImageTarget>, script: VmScript),
        /// The same, with a script that then gets the images as files.
        VmImagesWithFixup = "VmImagesWithFixup"(
            targets: Vec<ImageTarget>,
            script: VmScript,
            fixup: Script,
        ),
    }
}

terms! {
    /// A form of a cloud-init seed.
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
    /// Files that are generated for an artifact.
    pub enum ArtifactSource = "ArtifactSource" {
        /// A copy of a file: destination and source.
        FromFile = "FromFile"(destination: Text, source: SourceFile),
        /// A file of generated content.
        FromContent = "FromContent"(destination: Text, content: Content),
        /// Sets the permissions of the files within: owner, group, all.
        SetPermissions = "SetPermissions"(
            owner: i64,
            group: i64,
            all: i64,
            body: Vec<ArtifactSource>,
        ),
        /// The directory that sources of the files within are relative to.
        FromDirectory = "FromDirectory"(directory: Text, body: Vec<ArtifactSource>),
        /// The directory that destinations of the files within are relative to.
        IntoDirectory = "IntoDirectory"(directory: Text, body: Vec<ArtifactSource>),
    }
}
