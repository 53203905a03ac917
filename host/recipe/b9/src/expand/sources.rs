//! The source files of an artifact: destination, origin, permissions.

use crate::{
    environment::Environment,
    haskell::Term,
    place::{Fault, Place, Text},
    types::{ArtifactSource, Content, SourceConversion},
};

/// A file to generate for an artifact.
#[derive(Debug, Clone)]
pub struct InstanceSource {
    /// Its path, relative to the artifact's directory.
    pub destination: Text,
    /// The origin of its content.
    pub origin: Origin,
    /// Permissions of owner, group and others, if given.
    pub permissions: Option<Permissions>,
}

impl InstanceSource {
    /// The destination as a normalized path below the artifact's directory.
    ///
    /// # Errors
    /// Fails if it is outside of that directory.
    pub fn path(&self) -> Result<String, Fault> {
        crate::paths::relative(&self.destination).ok_or_else(|| {
            let message = format!(
                "the destination `{}` is not within the artifact's directory",
                self.destination.text
            );
            Fault::new(self.destination.at, message)
        })
    }
}

/// Permissions as given; the digits are not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// The digits of owner, group and others.
    pub digits: [i64; 3],
    /// The position in the recipe for error messages about the permissions, if known.
    pub at: Option<Place>,
}

impl Permissions {
    /// The mode of a file.
    ///
    /// # Errors
    /// Fails if a digit is not in the range 0 to 7.
    pub fn mode(self) -> Result<u32, Fault> {
        let mut mode = 0;
        for (digit, who) in self.digits.into_iter().zip(["owner", "group", "all"]) {
            let bits = u32::try_from(digit).ok().filter(|bits| *bits <= 7).ok_or_else(|| {
                Fault::new(self.at, format!("Bad '{who}' permission {digit}: 0 to 7 is possible"))
            })?;
            mode = mode << 3 | bits;
        }
        Ok(mode)
    }
}

/// The origin of a file's content.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A host file; its path is again a template.
    File {
        /// The path of the host file.
        path: Text,
        /// How its text is converted.
        conversion: SourceConversion,
    },
    /// Generated content.
    Content(Content),
}

/// Directories and permissions that enclosing sources set.
#[derive(Debug, Clone, Default)]
struct Around {
    from: String,
    into: String,
    permissions: Option<Permissions>,
}

/// All sources in scope of an artifact, outer ones first.
pub(super) fn gather(
    sources: &[&[ArtifactSource]],
    environment: &Environment,
) -> Result<Vec<InstanceSource>, Fault> {
    let mut gathered = Vec::new();
    for source in sources.iter().copied().flatten() {
        gather_one(source, &Around::default(), environment, &mut gathered)?;
    }
    Ok(gathered)
}

fn gather_one(
    source: &ArtifactSource,
    around: &Around,
    environment: &Environment,
    gathered: &mut Vec<InstanceSource>,
) -> Result<(), Fault> {
    let mut add = |destination: &Text, origin| -> Result<(), Fault> {
        let path = environment.expand(destination)?;
        let destination = path.with(join(&around.into, &path));
        let permissions = around.permissions;
        gathered.push(InstanceSource { destination, origin, permissions });
        Ok(())
    };
    let (inner, body) = match source {
        ArtifactSource::FromFile(destination, file) => {
            let path = environment.expand(&file.path)?;
            let path = path.with(join(&around.from, &path));
            return add(destination, Origin::File { path, conversion: file.conversion });
        }
        ArtifactSource::FromContent(destination, content) => {
            return add(destination, Origin::Content(content.clone()));
        }
        ArtifactSource::SetPermissions(owner, group, all, body) => {
            let at = place_of(body);
            if around.permissions.is_some() {
                let message = format!(
                    "B9 internal error: Permission for source already defined:\n{}",
                    source.shown().laid_out()
                );
                return Err(
                    Fault::new(at, message).hint("SetPermissions cannot stand in SetPermissions")
                );
            }
            let permissions = Some(Permissions { digits: [*owner, *group, *all], at });
            (Around { permissions, ..around.clone() }, body)
        }
        ArtifactSource::FromDirectory(directory, body) => {
            let from = join(&around.from, &environment.expand(directory)?);
            (Around { from, ..around.clone() }, body)
        }
        ArtifactSource::IntoDirectory(directory, body) => {
            let into = join(&around.into, &environment.expand(directory)?);
            (Around { into, ..around.clone() }, body)
        }
    };
    body.iter().try_for_each(|source| gather_one(source, &inner, environment, gathered))
}

/// A position near a list of sources.
fn place_of(sources: &[ArtifactSource]) -> Option<Place> {
    sources.iter().find_map(|source| match source {
        ArtifactSource::FromFile(text, _)
        | ArtifactSource::FromContent(text, _)
        | ArtifactSource::FromDirectory(text, _)
        | ArtifactSource::IntoDirectory(text, _) => Some(text.at),
        ArtifactSource::SetPermissions(_, _, _, body) => place_of(body),
    })
}

/// Joins two paths; an absolute second path replaces the first.
fn join(directory: &str, path: &str) -> String {
    if directory.is_empty() || path.starts_with('/') {
        path.to_owned()
    } else if directory.ends_with('/') {
        format!("{directory}{path}")
    } else {
        format!("{directory}/{path}")
    }
}
