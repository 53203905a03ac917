//! Conversions of output formats to the types of the front ends.

/// Converts a format to the type of the front end for elements.
pub(crate) fn for_dib(format: &output::Format) -> dib::FormatChoice {
    dib::FormatChoice {
        name: format.name.to_owned(),
        extension: format.suffix.to_owned(),
        made_from: match format.origin {
            output::Origin::Disk => dib::MadeFrom::Disk,
            output::Origin::Tree => dib::MadeFrom::Tree,
        },
    }
}

/// Converts a format to the type of the front end for vmdb2 specs.
pub(crate) fn for_vmdb(format: &output::Format) -> vmdb::FormatChoice {
    vmdb::FormatChoice {
        name: format.name.to_owned(),
        suffix: format.suffix.to_owned(),
        is_of_tree: format.origin == output::Origin::Tree,
    }
}
