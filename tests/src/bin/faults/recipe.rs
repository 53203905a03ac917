//! The recipes: their folders, command lines and outputs.

use std::{
    collections::BTreeSet,
    fmt, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    ground::{Ground, MIRROR_NAME},
    references::References,
    tree::{self, Tree},
};

/// The kind of recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Recipe {
    /// Elements of diskimage-builder.
    Elements,
    /// Elements, including one that downloads from the mirror.
    ElementsFetched,
    /// A vmdb2 spec.
    Spec,
    /// A vmdb2 spec that downloads.
    SpecFetched,
    /// Layers over the image of the spec.
    Layers,
}

impl Recipe {
    pub(crate) const ALL: [Self; 5] =
        [Self::Elements, Self::ElementsFetched, Self::Spec, Self::SpecFetched, Self::Layers];

    /// Whether scripts of the recipe download from the mirror.
    pub(crate) fn has_network(self) -> bool {
        matches!(self, Self::ElementsFetched | Self::SpecFetched)
    }
}

/// Options of a build that do not affect its tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Whether a helper drive is used.
    pub(crate) drive: bool,
    /// Whether TMPDIR is set.
    pub(crate) temporary: bool,
    /// Whether the store contains the results of an earlier build.
    pub(crate) warm: bool,
    /// Whether machines start from memory that has been saved; otherwise the build saves it first.
    pub(crate) restored: bool,
    /// The number in the late part of the recipe; it is 0 in the undisturbed reference build.
    pub(crate) late: u32,
    /// Whether outputs of an earlier build exist.
    pub(crate) earlier: bool,
    /// The formats of a build with elements.
    pub(crate) formats: &'static [Format],
    pub(crate) checksums: bool,
    /// Whether layers are merged into one image instead of an overlay.
    pub(crate) flatten: bool,
    /// The source of the base image of layers.
    pub(crate) base: Base,
}

impl Options {
    /// Returns the content of the late file.
    pub(crate) fn late_text(&self) -> String {
        format!("{:05}\n", self.late)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [
            (self.drive, "drive"),
            (self.temporary, "TMPDIR"),
            (self.warm, "warm"),
            (self.restored, "restored"),
            (self.flatten, "flat"),
        ];
        for (_, word) in said.iter().filter(|(is, _)| *is) {
            write!(f, "{word} ")?;
        }
        write!(f, "{:?}", self.base)
    }
}

/// Output formats of a build with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
    Tar,
}

impl Format {
    pub(crate) const SETS: [&[Self]; 4] = [
        &[Self::Tar],
        &[Self::Raw, Self::Tar],
        &[Self::Qcow2],
        &[Self::Qcow2, Self::Tar, Self::Raw],
    ];

    fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Tar => "tar",
        }
    }
}

/// The source of a base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    File,
    /// Another build by vbuild.
    Recipe,
    /// A download from the mirror.
    Url,
}

/// A build with its folder.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) recipe: Recipe,
    pub(crate) options: Options,
}

impl Site {
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.cache().join("store")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.folder.join("temporary")
    }

    /// Returns the folder of the helper drive.
    pub(crate) fn drives(&self) -> PathBuf {
        self.folder.join("drives")
    }

    pub(crate) fn drive(&self) -> PathBuf {
        self.drives().join("drive.img")
    }

    /// Returns the path of vbuild's log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Returns the folder of running machines.
    pub(crate) fn run(&self) -> PathBuf {
        if self.options.temporary { self.temporary() } else { self.cache().join("run") }
    }

    /// Writes the recipe with its late part.
    pub(crate) fn write_recipe(&self, ground: &Ground, references: &References) -> Result<()> {
        let from = ground.recipes.as_path();
        let place = self.folder.join("recipe");
        let (name, late) = match self.recipe {
            Recipe::Elements | Recipe::ElementsFetched => {
                ("elements", "numbers/finalise.d/50-late")
            }
            Recipe::Spec => ("spec", "base.vmdb"),
            Recipe::SpecFetched => ("spec", "fetched.vmdb"),
            Recipe::Layers => ("project", "20_late/late"),
        };
        let copied = Command::new("cp").arg("-R").args([&from.join(name), &place]).status()?;
        ensure!(copied.success(), "cannot copy {}", from.join(name).display());
        let late = place.join(late);
        let text = fs::read_to_string(&late)?;
        fs::write(&late, text.replace("00000", self.options.late_text().trim_end()))?;
        if self.recipe != Recipe::Layers {
            return Ok(());
        }
        match self.options.base {
            Base::File => symlink(references.base()?, place.join("base.raw"))?,
            Base::Recipe => {
                fs::copy(from.join("spec/base.vmdb"), place.join("base.vmdb"))?;
                let text = "base:\n  recipe: vmdb\n  arguments: [base.vmdb]\n";
                fs::write(place.join("vbuild.yaml"), text)?;
            }
            Base::Url => {}
        }
        Ok(())
    }

    /// Returns the command line of the build.
    pub(crate) fn command(&self, ground: &Ground, references: &References) -> Result<Command> {
        let mut command = ground.command(&self.folder);
        let Options { drive, temporary, formats, checksums, flatten, base, .. } = self.options;
        let mirror = format!("{MIRROR_NAME}:{}", references.mirror.port);
        match self.recipe {
            Recipe::Elements | Recipe::ElementsFetched => {
                let formats: Vec<&str> = formats.iter().map(|format| format.suffix()).collect();
                command.args(["-p", "recipe", "-p"]).arg(&ground.elements);
                command.args(["--skip-base", "--mkfs-journal-size", "8", "--size", "200M"]);
                command.args(["--name", "output/image", "-t", &formats.join(",")]);
                command.args(["--logfile", "log", "tiny-os", "numbers"]);
                if self.recipe.has_network() {
                    command.arg("fetched");
                    command.arg("--envvar").arg(format!("FAULTS_MIRROR={mirror}"));
                    command.arg("--envvar").arg(format!("FAULTS_SHA256={}", references.payload));
                }
            }
            Recipe::Spec | Recipe::SpecFetched => {
                let name = if self.recipe == Recipe::Spec { "base" } else { "fetched" };
                command.arg("vmdb").arg(format!("recipe/{name}.vmdb"));
                command.args(["--output", "output/image.raw", "--log", "log"]);
                if self.recipe.has_network() {
                    command.arg("--variable").arg(format!("mirror={mirror}"));
                    command.arg("--variable").arg(format!("sha256={}", references.payload));
                }
            }
            Recipe::Layers => {
                command.args(["layers", "recipe", "--logfile", "log"]);
                command
                    .args(["-o", if flatten { "output/image.raw" } else { "output/image.qcow2" }]);
                match base {
                    Base::File => _ = command.args(["--base", "recipe/base.raw"]),
                    Base::Recipe => {}
                    Base::Url => {
                        let port = references.mirror.port;
                        let digest = references.base_digest()?;
                        let url = format!("http://127.0.0.1:{port}/base.raw.gz#sha256={digest}");
                        command.args(["--base", &url]);
                    }
                }
            }
        }
        command.arg("--cache-dir").arg(self.cache()).args(ground.machine());
        if self.recipe.has_network() {
            command.arg("--allow-host").arg(format!("{mirror}=127.0.0.1"));
        } else {
            command.arg("--no-network");
        }
        if checksums && (self.recipe != Recipe::Layers || flatten) {
            command.arg("--checksum=sha256");
        }
        if drive {
            command.arg("--drive").arg(self.drive());
        }
        if temporary {
            command.env("TMPDIR", self.temporary());
        }
        Ok(command)
    }

    /// Returns the output files of the build, with the formats to read them.
    fn outputs(&self) -> Vec<(String, Format)> {
        match self.recipe {
            Recipe::Elements | Recipe::ElementsFetched => {
                let formats = self.options.formats.iter();
                formats.map(|format| (format!("image.{}", format.suffix()), *format)).collect()
            }
            Recipe::Layers if !self.options.flatten => {
                vec![("image.qcow2".into(), Format::Qcow2), ("20_late.qcow2".into(), Format::Qcow2)]
            }
            _ => vec![("image.raw".into(), Format::Raw)],
        }
    }

    /// Returns the names of outputs and of their checksum files.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let outputs = self.outputs().into_iter().map(|(name, _)| name);
        let overlay = self.recipe == Recipe::Layers && !self.options.flatten;
        let checksums = self.options.checksums && !overlay;
        outputs
            .flat_map(|name| {
                let checksum = checksums.then(|| format!("{name}.sha256"));
                std::iter::once(name).chain(checksum)
            })
            .collect()
    }

    /// Compares every output with the tree of an undisturbed build.
    pub(crate) fn compare(&self, references: &References) -> Result<()> {
        for (name, format) in self.outputs() {
            self.compare_one(&name, format, references)
                .with_context(|| format!("output/{name}"))?;
        }
        Ok(())
    }

    /// Like [`Self::compare`], for one output by name.
    pub(crate) fn compare_named(&self, name: &str, references: &References) -> Result<()> {
        let output = self.outputs().into_iter().find(|(other, _)| other == name);
        let (name, format) = output.with_context(|| format!("{name} is no output"))?;
        self.compare_one(&name, format, references)
    }

    fn compare_one(&self, name: &str, format: Format, references: &References) -> Result<()> {
        let path = self.output().join(name);
        let found = look(&path, format, &self.folder)?;
        let late = self.options.late_text();
        // A spec's create-file writes its text without a final newline.
        let is_spec = matches!(self.recipe, Recipe::Spec | Recipe::SpecFetched);
        let late = if is_spec { late.trim_end() } else { &late };
        tree::compare(&found, references.tree(self.recipe, format)?, late.as_bytes())
    }
}

/// Reads the tree of an output.
pub(crate) fn look(path: &Path, format: Format, folder: &Path) -> Result<Tree> {
    match format {
        Format::Raw => tree::of_disk(path),
        Format::Qcow2 => tree::of_image(path, folder),
        Format::Tar => tree::of_archive(path),
    }
}
