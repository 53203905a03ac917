//! The content of a `.b9si` file, which describes a shared image.

use super::{FileSystem, ImageType};
use crate::{haskell::terms, place::Text};

terms! {
    /// A revision of a shared image.
    pub struct SharedImage = "SharedImage"("SharedImage") {
        /// The name of the shared image.
        name: SharedImageName,
        /// The start time of the build that created it.
        date: SharedImageDate,
        /// The id of the build that created it.
        build_id: SharedImageBuildId,
        /// The format of its file.
        image_type: ImageType,
        /// The type of the filesystem in the image.
        filesystem: FileSystem,
    }
}

terms! {
    /// The name of a shared image.
    pub struct SharedImageName = "SharedImageName"("SharedImageName") {
        /// The name.
        text: Text,
    }
}

terms! {
    /// A date: `YYYY-MM-DD-HH:MM:SS` in UTC.
    pub struct SharedImageDate = "SharedImageDate"("SharedImageDate") {
        /// The date.
        text: Text,
    }
}

terms! {
    /// The id of a build.
    pub struct SharedImageBuildId = "SharedImageBuildId"("SharedImageBuildId") {
        /// The id.
        text: Text,
    }
}
