//! `apt: install`: packages in the image.

use plan::Value;

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering},
};

/// Installs packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apt {
    /// The tag of the root filesystem.
    pub tag: String,
    /// Names of the packages.
    pub packages: Vec<String>,
    /// Whether recommended packages are installed too.
    pub recommends: bool,
    /// Whether downloaded packages are removed.
    pub clean: bool,
}

impl StepKind for Apt {
    fn read(fields: &mut Fields<'_>) -> Self {
        let operation = fields.text("apt");
        if !operation.is_empty() && operation != "install" {
            let message = format!("the key `apt` is `{operation}`");
            fields.fault("apt", message, Some("the one operation is `install`"));
        }
        Self {
            tag: fields.required_alias(&["tag", "fs-tag"]),
            packages: fields.list_or("packages", &[]),
            recommends: fields.flag_or("recommends", true),
            clean: fields.flag_or("clean", true),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("tag", &self.tag)?;
        let run = |lowering: &Lowering<'_>, what: &str, words: &[&str]| {
            let argv: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
            lowering.in_image(&root, what, argv).env("DEBIAN_FRONTEND", "noninteractive")
        };
        let mut install = vec!["apt-get", "-y", "--no-show-progress"];
        if !self.recommends {
            install.push("--no-install-recommends");
        }
        install.push("install");
        let mut commands = vec![run(lowering, "apt-get update", &["apt-get", "update"])];
        if !lowering.got_eatmydata {
            let words = [&install[..], &["eatmydata"]].concat();
            commands.push(run(lowering, "install eatmydata", &words));
            lowering.got_eatmydata = true;
        }
        if !self.packages.is_empty() {
            let packages: Vec<&str> = self.packages.iter().map(String::as_str).collect();
            let words = [&["eatmydata"], &install[..], &packages].concat();
            commands.push(run(lowering, "install packages", &words));
        }
        if self.clean {
            commands.push(run(lowering, "apt-get clean", &["apt-get", "clean"]));
        }
        lowering.image_stage(&root, commands);
        Ok(())
    }
}
