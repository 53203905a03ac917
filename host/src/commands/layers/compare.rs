//! Comparing two images: each is described in a machine of its own, and the
//! descriptions are compared here.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base_image::AllowedBacking;

use super::{CompareLayersArgs, build, starting_image};
use crate::{
    commands::{Context, Outcome, machine_run, resolve},
    error::{CommandError, Kind},
    pipeline::{self, Ctx},
    settings::Settings,
    ui::{self, Ui, bytes},
};

/// Descriptions are lines of some hundred bytes for each file.
const MANIFEST_MAX_BYTES: u64 = 4 << 30;
/// Differences of one kind that are listed; all are counted.
const LISTED_MAX: usize = 10_000;

/// Compares.
///
/// # Errors
/// An image that cannot be read.
pub(super) fn run(context: &Context, args: &CompareLayersArgs) -> Outcome {
    let machine = &args.machine;
    let source = &args.source;
    let appliance =
        resolve::appliance_settings(&machine.accel, &machine.packages, source, &args.cache_dir);
    let settings = Settings {
        vcpus: machine.processors.smp.unwrap_or(appliance.vcpus),
        memory_mib: machine.memory.memsize.unwrap_or(appliance.memory_mib),
        network: false,
        ..appliance
    };
    let mut view = ui::Settings::of(&args.output, args.output.logfile.clone());
    // Standard output is for what differs alone.
    view.verbosity.quiet = true;
    let ui = Arc::new(Ui::open(&view, &context.console)?);
    let (one, other) = machine_run::run(&ui, async |ctx| {
        let root = args.root.as_deref();
        let allowed = args.backing.allowed();
        let one = describe(&args.one, root, &allowed, &settings, &ctx).await?;
        Ok((one, describe(&args.other, root, &allowed, &settings, &ctx).await?))
    })?;
    let report = report(&one, &other);
    context.console.print(&report);
    Ok(u8::from(!report.is_empty()))
}

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Content {
    /// By path: what the manifest says before it.
    files: BTreeMap<String, String>,
    /// By name and architecture.
    packages: BTreeMap<String, String>,
}

async fn describe(
    path: &Path,
    root: Option<&str>,
    allowed: &AllowedBacking,
    settings: &Settings,
    ctx: &Ctx,
) -> Result<Content, CommandError> {
    let image = named(path);
    let found = base_image::open(&image, None, allowed, &starting_image::folder(settings))
        .map_err(starting_image::failure)?;
    let directory = pipeline::make_build_dir(settings)?;
    let to = directory.path().join("description");
    let name = image.display().to_string();
    let plan = layers::inspect(&name, build::disk_base(&found), root, &to);
    // A description is a file that is fetched, so it is made each time.
    let settings = Settings {
        stage_cache: crate::settings::StageCache { enabled: false, ..settings.stage_cache.clone() },
        ..settings.clone()
    };
    pipeline::build(&plan, &settings, ctx).await?;
    let file = to.join("manifest");
    let read = || -> std::io::Result<String> {
        if std::fs::metadata(&file)?.len() > MANIFEST_MAX_BYTES {
            return Err(std::io::Error::other("it is too large"));
        }
        std::fs::read_to_string(&file)
    };
    let text = read().map_err(|error| {
        CommandError::new(Kind::Build, error)
            .context(format!("cannot read the description of {}", image.display()))
    })?;
    parse(&text).ok_or_else(|| {
        let text = format!("the description of {} is not whole", image.display());
        CommandError::message(Kind::Build, text)
    })
}

/// A file, or the layer of that name that was built here.
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

/// Reads a description; `None` for one that is cut off.
fn parse(text: &str) -> Option<Content> {
    let mut content = Content::default();
    for line in text.lines() {
        if line == "end" {
            return Some(content);
        }
        if let Some(package) = line.strip_prefix("package\t") {
            let (name, version) = package.rsplit_once('\t')?;
            content.packages.insert(name.replace('\t', ":"), version.to_owned());
        } else {
            let (facts, path) = line.rsplit_once('\t')?;
            content.files.insert(path.to_owned(), facts.to_owned());
        }
    }
    None
}

/// What differs, as text; nothing when they are equal.
fn report(one: &Content, other: &Content) -> String {
    let mut text = String::new();
    let packages = differences(&one.packages, &other.packages);
    let files = differences(&one.files, &other.files);
    let size = |facts: &str| facts.split('\t').nth(4).and_then(|n| n.parse().ok()).unwrap_or(0_u64);
    list(&mut text, "packages", &packages, |name, before, after| match (before, after) {
        (Some(before), Some(after)) => format!("~ {name} {before} -> {after}"),
        (Some(before), None) => format!("- {name} {before}"),
        (None, Some(after)) => format!("+ {name} {after}"),
        (None, None) => String::new(),
    });
    list(&mut text, "files", &files, |path, before, after| match (before, after) {
        (Some(before), Some(after)) => format!("~ {path} ({})", changes(before, after)),
        (Some(before), None) => format!("- {path} ({})", bytes(size(before))),
        (None, Some(after)) => format!("+ {path} ({})", bytes(size(after))),
        (None, None) => String::new(),
    });
    if !text.is_empty() {
        let total =
            |content: &Content| content.files.values().map(|facts| size(facts)).sum::<u64>();
        let (before, after) = (total(one), total(other));
        let _ = writeln!(
            text,
            "sizes\n  {} files, {} -> {} files, {}",
            one.files.len(),
            bytes(before),
            other.files.len(),
            bytes(after)
        );
    }
    text
}

type Difference<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

fn differences<'a>(
    one: &'a BTreeMap<String, String>,
    other: &'a BTreeMap<String, String>,
) -> Vec<Difference<'a>> {
    let gone_or_changed = one.iter().filter_map(|(name, before)| {
        let after = other.get(name).map(String::as_str);
        (after != Some(before.as_str())).then_some((name.as_str(), Some(before.as_str()), after))
    });
    let new = other.iter().filter(|(name, _)| !one.contains_key(*name));
    let new = new.map(|(name, after)| (name.as_str(), None, Some(after.as_str())));
    let mut all: Vec<_> = gone_or_changed.chain(new).collect();
    all.sort_unstable();
    all
}

fn list(
    text: &mut String,
    title: &str,
    differences: &[Difference<'_>],
    line: impl Fn(&str, Option<&str>, Option<&str>) -> String,
) {
    if differences.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}");
    for (name, before, after) in differences.iter().take(LISTED_MAX) {
        let _ = writeln!(text, "  {}", line(name, *before, *after));
    }
    if let Some(more) = differences.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        let _ = writeln!(text, "  and {more} more");
    }
}

/// Which facts about a file differ.
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
        let (one, other) = (parse(one).unwrap(), parse(other).unwrap());
        assert_eq!(
            report(&one, &other),
            "packages\n  ~ bash:amd64 5.1 -> 5.2\n  - old:all 1\n\
             files\n  ~ /etc/a (mode 0644 -> 0600, size 5 -> 9, content)\n  - /etc/b (5 B)\n  + /etc/c (7 B)\n\
             sizes\n  3 files, 10 B -> 3 files, 16 B\n"
        );
        assert_eq!(report(&one, &one), "");
        assert_eq!(parse("f\t0644\t0\t0\t5\taa\t/etc/a\n"), None, "cut off");
    }
}
