//! What a `.b9si` file says of a shared image.

use super::{FileSystem, ImageType};
use crate::{haskell::terms, place::Text};

terms! {
    /// A revision of a shared image.
    pub struct SharedImage = "SharedImage"("SharedImage") {
        /// Its name.
        name: SharedImageName,
        /// When the build that made it began.
        date: SharedImageDate,
        /// Which build made it.
        build_id: SharedImageBuildId,
        /// The format of its file.
        image_type: ImageType,
        /// What is on it.
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
    /// The number of a build.
    pub struct SharedImageBuildId = "SharedImageBuildId"("SharedImageBuildId") {
        /// The number.
        text: Text,
    }
}
