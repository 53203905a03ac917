//! Lowers B9 4.0.0 to a plan: artifacts of disk images and cloud-init seeds, generated from Haskell
//! terms.
//!
//! ```text
//! .b9 ── haskell ──► generator ── expand ──► instances ── content ──► files
//!                        │                       └─ assemblies ── lower ──► plan
//!                        └─ reformat
//! ```
//!
//! This crate decides everything that can be known before a machine boots: the artifacts, the
//! values of variables, the content of generated files, and the operations on each image. What B9
//! does on the host with sudo and a container becomes steps of the plan.
//!
//! Architecture invariant: reads only the files that a recipe names, through [`Inputs`]; runs
//! nothing and writes nothing.

mod check;
mod config;
mod content;
mod environment;
mod erlang;
mod expand;
mod fixup;
pub mod fuzzing;
mod haskell;
mod images;
mod layout;
mod lower;
mod number;
mod paths;
mod place;
mod script;
pub mod seed;
pub mod share_index;
mod template;
pub mod types;
mod visit;
mod yaml;

pub use check::{Findings, check};
pub use config::{
    CachePath, Config, ConfigError, IniError, LogLevel, NEW_FILE as NEW_CONFIG_FILE, Repository,
    read_config, with_repository,
};
pub use content::{Inputs, Renderer};
pub use environment::Environment;
pub use expand::{Instance, InstanceSource, Origin, Permissions, expand};
pub use fixup::{SCRIPT_BYTES_MAX, named_files};
pub use haskell::{Bytes, FILE_BYTES_MAX, NESTING_MAX};
pub use images::{ImageStep, Images, SizeChange, ext4_features};
pub use lower::{Output, Request, Share, lower, lower_session};
pub use place::{Fault, File, Files, Place, Text};
pub use script::{runs_anything, to_bash, to_container_bash};
pub use template::TemplateError;
pub use types::ArtifactGenerator;
pub use visit::visit;

use haskell::Term as _;

/// Parses the files of a build and joins their artifacts in file order; no variable of one file is
/// visible in another.
///
/// # Errors
/// Fails on the first error in the first invalid file.
pub fn read(files: &Files) -> Result<ArtifactGenerator, Fault> {
    let mut generators = Vec::new();
    for (number, file) in files.0.iter().enumerate() {
        generators.push(haskell::read(&file.text, u32::try_from(number).unwrap_or(u32::MAX))?);
    }
    Ok(ArtifactGenerator::Let(Vec::new(), generators))
}

/// The text of a file in B9's layout, without a final newline.
///
/// # Errors
/// Fails like [`read`].
pub fn reformatted(files: &Files, number: usize) -> Result<String, Fault> {
    let text = files.0.get(number).map_or("", |file| &file.text);
    let generator = haskell::read(text, u32::try_from(number).unwrap_or(u32::MAX))?;
    Ok(reformat(&generator))
}

fn reformat(generator: &ArtifactGenerator) -> String {
    generator.shown().laid_out()
}

#[cfg(test)]
mod vectors;
