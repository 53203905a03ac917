//! The option for the backing files that images may have.

use std::path::PathBuf;

use base_image::AllowedBacking;
use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};

/// The option for allowed backing files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(crate) struct BackingArgs {
    /// Allow images to have a backing file in their folder, or FILE wherever it is
    ///
    /// A qcow2 image can name another file as its backing file, and this name was chosen by whoever
    /// made the image. An image that vbuild itself created over its base opens without this option;
    /// any other is refused. Without a value, the option allows regular files in the folder of the
    /// image; with =FILE it allows that file. It may be given several times.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = any_path())]
    pub(crate) allow_backing: Vec<PathBuf>,
}

/// Returns the parser for a path; the path is empty if the option has no value.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl BackingArgs {
    /// Returns the allowed backing files.
    pub(crate) fn allowed(&self) -> AllowedBacking {
        let (beside, files) =
            self.allow_backing.iter().cloned().partition::<Vec<_>, _>(|f| f.as_os_str().is_empty());
        AllowedBacking { beside: !beside.is_empty(), files }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        backing: BackingArgs,
        image: Option<PathBuf>,
    }

    #[test]
    fn the_folder_and_files() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(parse("x image").backing.allowed(), AllowedBacking::default());
        let line = parse("x --allow-backing image");
        assert_eq!(line.backing.allowed(), AllowedBacking { beside: true, files: Vec::new() });
        assert_eq!(line.image, Some("image".into()), "a value needs its `=`");
        let line = parse("x --allow-backing=a --allow-backing=../b");
        let files = vec!["a".into(), "../b".into()];
        assert_eq!(line.backing.allowed(), AllowedBacking { beside: false, files });
    }
}
