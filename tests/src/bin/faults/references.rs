//! Reference data of undisturbed builds: trees, durations, and store contents. Each is created when
//! the first round needs it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, write::GzEncoder};

use crate::{
    ground::Ground,
    mirror::Mirror,
    recipe::{Base, Format, Options, Recipe, Site, look},
    run::{Pace, Run},
    tree::{self, Tree},
};

/// Size of the file on the mirror that scripts download.
const PAYLOAD_BYTES: u32 = 300_000;

/// The reference data of a recipe.
#[derive(Debug)]
struct Reference {
    trees: BTreeMap<&'static str, Tree>,
    store: PathBuf,
}

/// All reference data of the rounds.
#[derive(Debug)]
pub(crate) struct References {
    pub(crate) mirror: Mirror,
    /// The digest of the file that scripts download.
    pub(crate) payload: String,
    known: BTreeMap<Recipe, Reference>,
    /// The latest pace of each recipe, with an empty store (`false`) and with a filled one
    /// (`true`).
    paces: BTreeMap<(Recipe, bool), Pace>,
    base: Option<(PathBuf, String)>,
}

/// Returns the sort of tree that a format has. Trees of archives and of filesystems differ: only
/// the latter have lost+found.
fn sort(format: Format) -> &'static str {
    match format {
        Format::Tar => "archive",
        Format::Raw | Format::Qcow2 => "filesystem",
    }
}

impl References {
    /// Starts without reference data.
    pub(crate) fn new(_ground: &Ground) -> Result<Self> {
        let mirror = Mirror::open()?;
        // Incompressible bytes that are the same each time.
        let mut state = 1u32;
        let payload: Vec<u8> = (0..PAYLOAD_BYTES)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        let digest = tree::digest(&payload);
        mirror.add("/payload", payload);
        Ok(Self {
            mirror,
            payload: digest,
            known: BTreeMap::new(),
            paces: BTreeMap::new(),
            base: None,
        })
    }

    /// Creates the reference data for rounds with a recipe.
    pub(crate) fn prepare(&mut self, recipe: Recipe, ground: &Ground) -> Result<()> {
        if recipe == Recipe::Layers {
            self.prepare(Recipe::Spec, ground)?;
        }
        if self.known.contains_key(&recipe) {
            return Ok(());
        }
        let folder = ground.common(&format!("{recipe:?}"));
        let options = Options {
            drive: false,
            temporary: false,
            warm: false,
            restored: true,
            late: 0,
            earlier: false,
            formats: &[Format::Raw, Format::Tar],
            checksums: false,
            flatten: true,
            base: Base::File,
        };
        let site = Site { folder, recipe, options };
        fs::create_dir_all(site.output())?;
        ground.furnish_cache(&site.cache(), true)?;
        site.write_recipe(ground, self)?;
        let run = Run::start(site.command(ground, self)?, &site)?;
        let ended = run.finish()?;
        ensure!(
            ended.status.success(),
            "the undisturbed build of {recipe:?} failed: {}",
            ended.said
        );
        self.paces.insert((recipe, false), ended.pace);
        let mut trees = BTreeMap::new();
        for name in site.names() {
            let format = if name.ends_with(".tar") { Format::Tar } else { Format::Raw };
            let path = site.output().join(&name);
            trees.insert(sort(format), look(&path, format, &site.folder)?);
        }
        if recipe == Recipe::Spec {
            self.serve_base(site.output().join("image.raw"))?;
        }
        self.known.insert(recipe, Reference { trees, store: site.store() });
        Ok(())
    }

    /// Publishes an image as the base of layers.
    fn serve_base(&mut self, image: PathBuf) -> Result<()> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&fs::read(&image)?)?;
        let packed = packed.finish()?;
        self.base = Some((image, tree::digest(&packed)));
        self.mirror.add("/base.raw.gz", packed);
        Ok(())
    }

    /// Returns the base image of layers.
    pub(crate) fn base(&self) -> Result<&Path> {
        self.base.as_ref().map(|base| base.0.as_path()).context("there is no base image yet")
    }

    /// Returns the digest of the base image on the mirror.
    pub(crate) fn base_digest(&self) -> Result<&str> {
        self.base.as_ref().map(|base| base.1.as_str()).context("there is no base image yet")
    }

    fn known(&self, recipe: Recipe) -> Result<&Reference> {
        self.known.get(&recipe).with_context(|| format!("{recipe:?} was not built yet"))
    }

    /// Returns the tree of an undisturbed build.
    pub(crate) fn tree(&self, recipe: Recipe, format: Format) -> Result<&Tree> {
        let trees = &self.known(recipe)?.trees;
        trees.get(sort(format)).with_context(|| format!("{recipe:?} has no {}", sort(format)))
    }

    /// Copies the store contents of the undisturbed build to another store.
    pub(crate) fn warm(&self, recipe: Recipe, store: &Path) -> Result<()> {
        let from = &self.known(recipe)?.store;
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .args([from.as_path(), store])
            .status()?;
        ensure!(copied.success(), "cannot copy {}", from.display());
        Ok(())
    }

    /// Returns the pace of an undisturbed build.
    pub(crate) fn pace(&self, recipe: Recipe, warm: bool) -> Pace {
        let known = self.paces.get(&(recipe, warm)).or_else(|| self.paces.get(&(recipe, false)));
        known.copied().unwrap_or_default()
    }

    /// Records the pace of a build with a filled store.
    pub(crate) fn note_pace(&mut self, recipe: Recipe, pace: Pace) {
        self.paces.insert((recipe, true), pace);
    }
}
