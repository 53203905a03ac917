//! Undisturbed builds: what their trees are, how long they take, and what they leave
//! in the store. Each is made when the first round needs it.

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

/// The file that the mirror has for scripts.
const PAYLOAD_BYTES: u32 = 300_000;

/// What is known of a recipe.
#[derive(Debug)]
struct Reference {
    trees: BTreeMap<&'static str, Tree>,
    store: PathBuf,
}

/// Everything that rounds compare with.
#[derive(Debug)]
pub(crate) struct References {
    pub(crate) mirror: Mirror,
    /// The digest of the mirror's file.
    pub(crate) payload: String,
    known: BTreeMap<Recipe, Reference>,
    /// How builds from nothing and from a filled store went lately.
    paces: BTreeMap<(Recipe, bool), Pace>,
    base: Option<(PathBuf, String)>,
}

/// Trees of archives and of filesystems differ: one has no lost+found.
fn sort(format: Format) -> &'static str {
    match format {
        Format::Tar => "archive",
        Format::Raw | Format::Qcow2 => "filesystem",
    }
}

impl References {
    /// None yet.
    pub(crate) fn new(_ground: &Ground) -> Result<Self> {
        let mirror = Mirror::open()?;
        // Bytes that do not compress, the same each time.
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

    /// Makes what rounds with a recipe need.
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
            late: 0,
            earlier: false,
            formats: &[Format::Raw, Format::Tar],
            checksums: false,
            flatten: true,
            base: Base::File,
        };
        let site = Site { folder, recipe, options };
        fs::create_dir_all(site.output())?;
        ground.furnish_cache(&site.cache())?;
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

    /// Lets layers stand on an image.
    fn serve_base(&mut self, image: PathBuf) -> Result<()> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&fs::read(&image)?)?;
        let packed = packed.finish()?;
        self.base = Some((image, tree::digest(&packed)));
        self.mirror.add("/base.raw.gz", packed);
        Ok(())
    }

    /// The image that layers stand on.
    pub(crate) fn base(&self) -> Result<&Path> {
        self.base.as_ref().map(|base| base.0.as_path()).context("there is no base image yet")
    }

    /// The digest of what the mirror has of it.
    pub(crate) fn base_digest(&self) -> Result<&str> {
        self.base.as_ref().map(|base| base.1.as_str()).context("there is no base image yet")
    }

    fn known(&self, recipe: Recipe) -> Result<&Reference> {
        self.known.get(&recipe).with_context(|| format!("{recipe:?} was not built yet"))
    }

    /// The tree of an undisturbed build.
    pub(crate) fn tree(&self, recipe: Recipe, format: Format) -> Result<&Tree> {
        let trees = &self.known(recipe)?.trees;
        trees.get(sort(format)).with_context(|| format!("{recipe:?} has no {}", sort(format)))
    }

    /// Puts what the undisturbed build has left in the store into another one.
    pub(crate) fn warm(&self, recipe: Recipe, store: &Path) -> Result<()> {
        let from = &self.known(recipe)?.store;
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .args([from.as_path(), store])
            .status()?;
        ensure!(copied.success(), "cannot copy {}", from.display());
        Ok(())
    }

    /// How such a build goes when it is not disturbed.
    pub(crate) fn pace(&self, recipe: Recipe, warm: bool) -> Pace {
        let known = self.paces.get(&(recipe, warm)).or_else(|| self.paces.get(&(recipe, false)));
        known.copied().unwrap_or_default()
    }

    /// Notes how one went that was warm.
    pub(crate) fn note_pace(&mut self, recipe: Recipe, pace: Pace) {
        self.paces.insert((recipe, true), pace);
    }
}
