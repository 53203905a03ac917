//! Revisions of shared images: file names, order, and which are kept.

use crate::{
    haskell::{self, Term},
    place::{Fault, Place, Text},
    types::{
        FileSystem, ImageType, SharedImage, SharedImageBuildId, SharedImageDate, SharedImageName,
    },
};

/// The directory of shared images, in the cache and in repositories.
pub const FOLDER: &str = "b9_shared_images";
/// The suffix of a revision's description file.
pub const SUFFIX: &str = "b9si";

/// A revision of a shared image. Revisions are ordered by name, date and build; the newest is the
/// greatest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// The image's name.
    pub name: String,
    /// The start time of the build.
    pub date: String,
    /// The id of the build.
    pub build_id: String,
    image_type: Comparable<ImageType>,
    filesystem: Comparable<FileSystem>,
}

/// Excludes a value without an order of its own from comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Comparable<T>(T);

impl<T: Term + Eq> PartialOrd for Comparable<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Term + Eq> Ord for Comparable<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.shown().one_line().cmp(&other.0.shown().one_line())
    }
}

impl Revision {
    /// The revision that a build creates.
    #[must_use]
    pub fn new(
        name: &str,
        date: &str,
        build_id: &str,
        image_type: ImageType,
        filesystem: FileSystem,
    ) -> Self {
        Self {
            name: name.to_owned(),
            date: date.to_owned(),
            build_id: build_id.to_owned(),
            image_type: Comparable(image_type),
            filesystem: Comparable(filesystem),
        }
    }

    /// Parses a `.b9si` file.
    ///
    /// # Errors
    /// Fails if it is not a description of a revision, or if its names are not valid in file names.
    pub fn read(text: &str) -> Result<Self, Fault> {
        let image: SharedImage = haskell::read(text, 0)?;
        for part in [&image.name.text, &image.build_id.text] {
            let odd = part.is_empty() || part.starts_with('.') || part.contains(['/', '\0', '\n']);
            if odd {
                let message = format!("`{}` cannot be part of a file's name", part.text);
                return Err(Fault::new(part.at, message));
            }
        }
        Ok(Self::new(
            &image.name.text,
            &image.date.text,
            &image.build_id.text,
            image.image_type,
            image.filesystem,
        ))
    }

    /// The content of its `.b9si` file.
    #[must_use]
    pub fn text(&self) -> String {
        let text = |text: &str| Text { text: text.to_owned(), at: Place::default() };
        let image = SharedImage {
            name: SharedImageName { text: text(&self.name) },
            date: SharedImageDate { text: text(&self.date) },
            build_id: SharedImageBuildId { text: text(&self.build_id) },
            image_type: self.image_type.0,
            filesystem: self.filesystem.0,
        };
        image.shown().laid_out()
    }

    /// The format of its image file.
    #[must_use]
    pub fn image_type(&self) -> ImageType {
        self.image_type.0
    }

    /// The type of the filesystem in the revision's image.
    #[must_use]
    pub fn filesystem(&self) -> FileSystem {
        self.filesystem.0
    }

    /// The name of its image file.
    #[must_use]
    pub fn image_file(&self) -> String {
        format!("{}_{}.{}", self.name, self.build_id, self.image_type.0.name())
    }

    /// The name of its description file.
    #[must_use]
    pub fn description_file(&self) -> String {
        format!("{}_{}.{SUFFIX}", self.name, self.build_id)
    }
}

/// The newest revision of a shared image.
#[must_use]
pub fn newest<'r>(revisions: &'r [Revision], name: &str) -> Option<&'r Revision> {
    revisions.iter().filter(|revision| revision.name == name).max()
}

/// The revisions of a shared image beyond the newest `keep`.
#[must_use]
pub fn superfluous<'r>(revisions: &'r [Revision], name: &str, keep: usize) -> Vec<&'r Revision> {
    let mut of_name: Vec<&Revision> =
        revisions.iter().filter(|revision| revision.name == name).collect();
    of_name.sort();
    let extra = of_name.len().saturating_sub(keep);
    of_name.truncate(extra);
    of_name
}

/// The table that B9's `list` prints.
#[must_use]
pub fn table(revisions: &[Revision]) -> Vec<String> {
    let mut rows: Vec<[&str; 3]> =
        revisions.iter().map(|r| [r.name.as_str(), &r.date, &r.build_id]).collect();
    rows.sort_unstable();
    rows.insert(0, ["Name", "Date", "ID"]);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2].map(|column| width(column).unwrap_or(0));
    let cell = |(text, width): (&str, usize)| format!("{text:width$}");
    rows.iter()
        .map(|row| row.iter().copied().zip(widths).map(cell).collect::<Vec<_>>().join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, date: &str, id: &str) -> Revision {
        Revision::new(name, date, id, ImageType::QCow2, FileSystem::Ext4)
    }

    /// Row 140.
    #[test]
    fn a_description_is_read_and_written() {
        let one = revision("base", "2030-01-02-03:04:05", "0A-0B");
        let text = one.text();
        assert_eq!(
            text,
            "SharedImage\n  (SharedImageName \"base\")\n  (SharedImageDate \"2030-01-02-03:04:05\")\n  (SharedImageBuildId \"0A-0B\")\n  QCow2\n  Ext4"
        );
        assert_eq!(Revision::read(&text).unwrap(), one);
        assert_eq!(
            (one.image_file(), one.description_file()),
            ("base_0A-0B.qcow2".into(), "base_0A-0B.b9si".into())
        );
        assert!(Revision::read(&text.replace("base", "../base")).is_err());
        assert!(Revision::read(&text.replace("0A-0B", "/etc/x")).is_err());
    }

    /// Rows 141 and 142.
    #[test]
    fn the_newest_is_the_greatest() {
        let all = [
            revision("a", "2030-01-02-00:00:00", "2"),
            revision("b", "2031-01-01-00:00:00", "9"),
            revision("a", "2030-01-02-00:00:00", "1"),
            revision("a", "2029-12-31-23:59:59", "7"),
        ];
        assert_eq!(newest(&all, "a").unwrap().build_id, "2");
        assert_eq!(newest(&all, "c"), None);
        let ids = |keep| {
            superfluous(&all, "a", keep).iter().map(|r| r.build_id.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(ids(2), ["7"]);
        assert_eq!(ids(0), ["7", "1", "2"]);
        assert_eq!(ids(5), Vec::<&str>::new());
    }

    #[test]
    fn the_table_is_padded() {
        let all = [
            revision("longer", "2030-01-02-00:00:00", "22"),
            revision("a", "2030-01-02-00:00:00", "1"),
        ];
        assert_eq!(
            table(&all),
            [
                "Name   Date                ID",
                "a      2030-01-02-00:00:00 1 ",
                "longer 2030-01-02-00:00:00 22"
            ]
        );
    }
}
