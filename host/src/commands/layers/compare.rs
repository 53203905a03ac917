//! Compares two images. Each is described in a machine of its own; the descriptions are compared on
//! the host.

use std::{
    fmt::Write as _,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use base_image::AllowedBacking;

use super::{
    args::CompareLayersArgs,
    build,
    description::{self, Comparison, Difference, Differences},
};
use crate::{
    build::{bases, options, pipeline, runtime},
    commands::context::{Outcome, ProcessContext},
    error::{CommandError, Kind},
    explain,
    machine::build_dir::BuildDir,
    run_context::RunContext,
    settings::Settings,
    ui::{self, Ui, bytes},
};

/// Runs `vbuild layers compare-layers`.
///
/// # Errors
/// Fails if one of the images cannot be read or described.
pub(super) fn run(context: &ProcessContext, args: &CompareLayersArgs) -> Outcome {
    compare(context, args).map_err(|error| match error.kind {
        Kind::Unconfined | Kind::Interrupted => error,
        _ => CommandError { kind: Kind::NotCompared, ..error },
    })
}

fn compare(context: &ProcessContext, args: &CompareLayersArgs) -> Outcome {
    let machine = &args.machine;
    let source = &args.source;
    let appliance =
        options::appliance_settings(&machine.accel, &machine.packages, source, &args.cache_dir);
    let settings = Settings {
        vcpus: machine.processors.smp.unwrap_or(appliance.vcpus),
        memory_mib: machine.memory.memsize.unwrap_or(appliance.memory_mib),
        network: false,
        ..appliance
    };
    let mut view = ui::Settings::of(&args.output, args.output.logfile.clone());
    // Standard output contains only the differences.
    view.verbosity.quiet = true;
    let ui = Arc::new(Ui::open(&view, &context.console)?);
    let (one, other) = runtime::run(&ui, async |ctx| {
        let root = args.root.as_deref();
        let allowed = args.backing.allowed();
        let one = describe(&args.one, root, &allowed, &settings, &ctx).await?;
        Ok((one, describe(&args.other, root, &allowed, &settings, &ctx).await?))
    })?;
    let compared = description::compare(BufReader::new(&one.file), BufReader::new(&other.file));
    let comparison = compared.map_err(|(which, error)| {
        let image = [&one.image, &other.image][which].display();
        CommandError::new(Kind::Build, error)
            .context(format!("the description of {image} cannot be used"))
    })?;
    let report = report(&comparison);
    context.console.print(&report)?;
    Ok(u8::from(args.exit_code && !report.is_empty()))
}

/// A description of an image, and the directory that contains it.
struct Described {
    image: PathBuf,
    file: File,
    _directory: BuildDir,
}

async fn describe(
    path: &Path,
    root: Option<&str>,
    allowed: &AllowedBacking,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<Described, CommandError> {
    let image = named(path);
    let directory = BuildDir::of(settings)?;
    let kept = match image.exists() {
        true => None,
        false => kept_layer(&image, settings, directory.path())?,
    };
    let file = kept.as_deref().unwrap_or(&image);
    let found = base_image::open(file, None, allowed, &bases::folder(&settings.cache_dir))
        .map_err(|error| CommandError::from(error).maybe_hint(not_built(&image)))?;
    let to = directory.path().join("description");
    let name = image.display().to_string();
    let plan = layers::inspect(&name, build::disk_base(&found), root, &to);
    // The description is a file that the machine sends, so it must be made each time.
    let settings = Settings {
        stage_cache: crate::settings::StageCache { enabled: false, ..settings.stage_cache.clone() },
        ..settings.clone()
    };
    pipeline::build(&plan, &settings, ctx).await?;
    let file = File::open(to.join("manifest")).map_err(|error| {
        CommandError::new(Kind::Build, error)
            .context(format!("cannot read the description of {}", image.display()))
    })?;
    Ok(Described { image, file, _directory: directory })
}

/// Returns the path of an image: the layer of that name in the build directory, if `path` is
/// missing or a directory, else `path`.
fn named(path: &Path) -> PathBuf {
    let layer = path.file_name().map(|name| {
        let name = format!("{}.qcow2", name.to_string_lossy());
        Path::new(::layers::BUILD_FOLDER).join(name)
    });
    match layer {
        Some(layer) if (!path.exists() || path.is_dir()) && layer.is_file() => layer,
        _ => path.to_owned(),
    }
}

/// Restores the disk from the store as a layer of the project's last build left it. Builds write
/// only the last layer to a file; the store has the others. `None` if the image is not such a
/// layer.
fn kept_layer(
    image: &Path,
    settings: &Settings,
    directory: &Path,
) -> Result<Option<PathBuf>, CommandError> {
    let Some(layer) = image.file_stem().and_then(|stem| stem.to_str()) else { return Ok(None) };
    let here = std::env::current_dir().map_err(|error| CommandError::new(Kind::Host, error))?;
    let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = here.join(folder.unwrap_or(Path::new(".")));
    let project = match folder.ends_with(::layers::BUILD_FOLDER) {
        true => folder.parent().unwrap_or(&folder).to_owned(),
        false => folder,
    };
    let project = std::fs::canonicalize(&project).unwrap_or(project);
    let Some(build) = project.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    if !project.join(layer).is_dir() {
        return Ok(None);
    }
    explain::restore_layer(settings, build, layer, directory)
}

/// Returns a hint about an image that does not exist.
fn not_built(image: &Path) -> Option<String> {
    let name = image.file_stem().unwrap_or_default().to_string_lossy();
    (!image.exists()).then(|| {
        format!(
            "`{name}` is no layer that the last build here has kept: `vbuild layers` keeps all but \
             those with `nocache`, unless --no-cache is given"
        )
    })
}

/// Returns the differences as text, which is empty if there are none.
fn report(comparison: &Comparison) -> String {
    let mut text = String::new();
    list(&mut text, "packages", &comparison.packages, |name, before, after| {
        match (before, after) {
            (Some(before), Some(after)) => format!("~ {name} {before} -> {after}"),
            (Some(before), None) => format!("- {name} {before}"),
            (None, Some(after)) => format!("+ {name} {after}"),
            (None, None) => String::new(),
        }
    });
    let size = |facts: &str| bytes(description::size(facts));
    list(&mut text, "files", &comparison.files, |path, before, after| match (before, after) {
        (Some(before), Some(after)) => format!("~ {path} ({})", changes(before, after)),
        (Some(before), None) => format!("- {path} ({})", size(before)),
        (None, Some(after)) => format!("+ {path} ({})", size(after)),
        (None, None) => String::new(),
    });
    if !text.is_empty() {
        let [before, after] = comparison.totals;
        let _ = writeln!(
            text,
            "sizes\n  {} files, {} -> {} files, {}",
            before.files,
            bytes(before.bytes),
            after.files,
            bytes(after.bytes)
        );
    }
    text
}

fn list(
    text: &mut String,
    title: &str,
    differences: &Differences,
    line: impl Fn(&str, Option<&str>, Option<&str>) -> String,
) {
    if differences.count == 0 {
        return;
    }
    let _ = writeln!(text, "{title}");
    for Difference { name, before, after } in &differences.listed {
        let _ = writeln!(text, "  {}", line(name, before.as_deref(), after.as_deref()));
    }
    let more = differences.count - differences.listed.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
}

/// Lists the facts about a file that differ.
fn changes(before: &str, after: &str) -> String {
    const NAMES: [&str; 6] = ["type", "mode", "owner", "group", "size", "content"];
    let pairs = before.split('\t').zip(after.split('\t'));
    let words: Vec<String> = NAMES
        .iter()
        .zip(pairs)
        .filter(|(_, (before, after))| before != after)
        .map(|(name, (before, after))| match *name {
            "content" => "content".to_owned(),
            name => format!("{name} {before} -> {after}"),
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_by_kind() {
        let one = "d\t0755\t0\t0\t0\t-\t/etc\nf\t0644\t0\t0\t5\taa\t/etc/a\nf\t0644\t0\t0\t5\tbb\t/etc/b\n\
                   package\tbash\tamd64\t5.1\npackage\told\tall\t1\nend\n";
        let other = "d\t0755\t0\t0\t0\t-\t/etc\nf\t0600\t0\t0\t9\tcc\t/etc/a\nf\t0644\t0\t0\t7\tdd\t/etc/c\n\
                     package\tbash\tamd64\t5.2\nend\n";
        let compare = |one: &str, other: &str| {
            report(&description::compare(one.as_bytes(), other.as_bytes()).unwrap())
        };
        assert_eq!(
            compare(one, other),
            "packages\n  ~ bash:amd64 5.1 -> 5.2\n  - old:all 1\n\
             files\n  ~ /etc/a (mode 0644 -> 0600, size 5 -> 9, content)\n  - /etc/b (5 B)\n  + /etc/c (7 B)\n\
             sizes\n  3 files, 10 B -> 3 files, 16 B\n"
        );
        assert_eq!(compare(one, one), "");
    }
}
