//! Images: the plans of `images.json`, expressed as the tools that B9 runs. `tests/b9/results.py`
//! builds the cases with results for real.

use serde_json::{Value, json};

use super::run;
use crate::{
    Environment, ImageStep, Images, Instance, SizeChange, check, expand, ext4_features,
    haskell::{Term, read},
    seed::{SeedFile, iso, vfat},
    share_index::{Revision, newest},
    types::{
        ArtifactAssembly, ArtifactGenerator, CloudInitType, ImageDestination, ImageSource,
        ImageType, Partition,
    },
};

/// What a B9 build would run, and the files it would leave.
#[derive(Default)]
struct Build {
    commands: Vec<String>,
    outputs: Vec<String>,
    revisions: Vec<Revision>,
    /// `ext4_attributes` of the configuration.
    attributes: Option<Vec<String>>,
}

/// The name of B9's build file for a source.
fn build_file(path: &str, suffix: &str) -> String {
    let name = path.rsplit('/').next().unwrap();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    format!("BUILD/{stem}.{suffix}")
}

/// A size as B9 passes it to tools: in the largest exact unit.
fn size(bytes: u64) -> String {
    let kib = bytes / 1024;
    match kib {
        kib if kib % (1 << 20) == 0 => format!("{}G", kib >> 20),
        kib if kib % (1 << 10) == 0 => format!("{}M", kib >> 10),
        kib => format!("{kib}K"),
    }
}

/// Image files in these cases have a size of one byte.
const STUB_KIB: u64 = 1;

impl Build {
    fn instance(&mut self, instance: &Instance) -> Result<(), String> {
        match &instance.assembly {
            ArtifactAssembly::CloudInit(types, path) => self.seed(types, path, instance),
            assembly => self.images(Images::of(assembly).unwrap()),
        }
    }

    fn seed(
        &mut self,
        types: &[CloudInitType],
        path: &str,
        instance: &Instance,
    ) -> Result<(), String> {
        let files: Vec<SeedFile> = instance
            .sources
            .iter()
            .map(|source| SeedFile {
                path: source.destination.text.clone(),
                mode: 0o644,
                bytes: Vec::new(),
            })
            .collect();
        for kind in types {
            match kind {
                CloudInitType::Iso => {
                    iso(&files).unwrap();
                    self.outputs.push(format!("{path}.iso"));
                }
                CloudInitType::Vfat => {
                    vfat(&files).unwrap();
                    self.outputs.push(format!("{path}.vfat"));
                }
                CloudInitType::Dir => {
                    self.outputs.extend(files.iter().map(|file| format!("{path}/{}", file.path)));
                }
            }
        }
        Ok(())
    }

    fn images(&mut self, images: Images<'_>) -> Result<(), String> {
        let mut files: Vec<String> = Vec::new();
        for target in images.targets {
            files.push(match &target.source {
                ImageSource::EmptyImage(label, ..) => build_file(label, "raw"),
                ImageSource::CopyOnWrite(image) | ImageSource::SourceImage(image, ..) => {
                    build_file(&image.path, "raw")
                }
                ImageSource::From(name, _) => {
                    let found = newest(&self.revisions, name);
                    let shown = name.shown().one_line();
                    let found = found.ok_or(format!(
                        "b9c: B9 internal error: Nothing found for SharedImageName {shown}."
                    ))?;
                    build_file(&found.image_file(), "raw")
                }
            });
        }
        for step in images.steps() {
            self.step(&step, images, &files);
        }
        Ok(())
    }

    fn step(&mut self, step: &ImageStep, images: Images<'_>, files: &[String]) {
        let mut say = |command: String| self.commands.push(command);
        match step {
            ImageStep::Copy { target, image, partition } => {
                assert_eq!(*partition, Partition::NoPt);
                let from = image.image_type.name();
                say(format!(
                    "qemu-img convert -q -f {from} -O raw {} {}",
                    image.path.text, files[*target]
                ));
            }
            ImageStep::CopyShared { target, name } => {
                let found = newest(&self.revisions, name).unwrap();
                let from = format!("CACHE/local-repo/b9_shared_images/{}", found.image_file());
                let format = found.image_type().name();
                say(format!("qemu-img convert -q -f {format} -O raw {from} {}", files[*target]));
            }
            ImageStep::Create { target, bytes } => {
                say(format!("qemu-img create -f raw {} {}", files[*target], size(*bytes)));
            }
            ImageStep::Format { target, filesystem, label } => {
                let mut words =
                    vec!["mkfs.ext4".to_owned(), "-F".into(), "-L".into(), label.text.clone()];
                if filesystem.is_ext4() {
                    words.extend(ext4_features(*filesystem, self.attributes.as_deref()));
                } else {
                    words[0] = "mkfs.vfat".into();
                }
                words.extend(["-q".into(), files[*target].clone()]);
                say(words.join(" "));
            }
            ImageStep::Resize { target, change } => {
                let file = &files[*target];
                let check = format!("e2fsck -p {file}");
                match change {
                    SizeChange::Container(bytes) => {
                        say(format!("qemu-img resize -q {file} {}", size(*bytes)))
                    }
                    SizeChange::Filesystem(bytes) => {
                        say(check);
                        say(format!("resize2fs -f {file} {}", size(*bytes)));
                    }
                    SizeChange::Minimum => {
                        say(check);
                        say(format!("resize2fs -f -M {file}"));
                    }
                    SizeChange::MinimumPlus(bytes) => {
                        say(check.clone());
                        say(format!("resize2fs -f -M {file}"));
                        say(check);
                        say(format!("resize2fs -f {file} {}", size(STUB_KIB * 1024 + bytes)));
                    }
                }
            }
            ImageStep::Script => say("SCRIPT".into()),
            ImageStep::Fixup => say("FIXUP".into()),
            ImageStep::Export { target } => {
                self.export(&images.targets[*target].destination, *target, images, files)
            }
        }
    }

    fn export(
        &mut self,
        destination: &ImageDestination,
        target: usize,
        images: Images<'_>,
        files: &[String],
    ) {
        let from = &files[target];
        let convert = |format: ImageType, to: &str| {
            let options = match format {
                ImageType::Raw => return None,
                ImageType::QCow2 => "compat=1.1,lazy_refcounts=on",
                ImageType::Vmdk => "adapter_type=lsilogic",
            };
            Some(format!(
                "qemu-img convert -q -f raw -O {} -o {options} {from} {to}",
                format.name()
            ))
        };
        match destination {
            ImageDestination::LocalFile(image, _) => {
                self.commands.extend(convert(image.image_type, &image.path));
                self.outputs.push(image.path.text.clone());
            }
            ImageDestination::Share(name, format, _) => {
                let to = from.replace(".raw", &format!(".{}", format.name()));
                self.commands.extend(convert(*format, &to));
                let filesystem = match &images.targets[target].source {
                    ImageSource::SourceImage(image, ..) => image.filesystem,
                    _ => unreachable!("no case shares another source"),
                };
                self.revisions.push(Revision::new(
                    name,
                    "2030-01-01-00:00:00",
                    "ID",
                    *format,
                    filesystem,
                ));
            }
            ImageDestination::LiveInstallerImage(name, directory, _) => {
                let folder = format!("{}/machines/{}/disks/raw", directory.text, name.text);
                self.commands.push(format!("qemu-img info -f raw {folder}/0.raw"));
                self.outputs
                    .extend(["0.raw", "0.size", "VERSION"].map(|file| format!("{folder}/{file}")));
            }
            ImageDestination::Transient => {}
        }
    }
}

/// The expected commands without those that vbuild does differently: mounts and containers are the
/// script; seeds are made in process.
fn comparable(expected: &Value) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for command in expected["commands"].as_array().unwrap() {
        let command = command.as_str().unwrap();
        match command.split(' ').next().unwrap() {
            "systemd-nspawn" => commands.push("SCRIPT".into()),
            "mount" | "umount" | "genisoimage" | "truncate" | "mkfs.vfat" | "mcopy" => {}
            _ => commands.push(command.into()),
        }
    }
    commands
}

/// The case's own plan if it equals that of the build.
fn outcome(case: &Value) -> Result<Value, String> {
    let input = &case["input"];
    let generator: ArtifactGenerator =
        read(input["b9"].as_str().unwrap(), 0).map_err(|fault| fault.to_string())?;
    let run = [("build_id", "ID")];
    let instances =
        expand(&generator, &Environment::new(&[], &run)).map_err(|fault| fault.to_string())?;
    if let Some(fault) = check(&instances).faults.first() {
        return Err(fault.to_string());
    }
    let attributes =
        input["global"].as_str().and_then(|line| line.strip_prefix("ext4_attributes: "));
    let attributes = attributes.map(|list| read::<Vec<crate::Text>>(list, 0).unwrap());
    let attributes = attributes.map(|all| all.into_iter().map(|text| text.text).collect());
    let mut build = Build { attributes, ..Build::default() };
    for instance in &instances {
        build.instance(instance)?;
    }
    build.outputs.sort();
    let mut cache: Vec<String> =
        build.revisions.iter().flat_map(|r| [r.description_file(), r.image_file()]).collect();
    cache.sort();
    let expected = &case["expect"];
    let mut found = json!({ "rc": 0, "commands": build.commands, "outputs": build.outputs });
    if !cache.is_empty() {
        found["cache"] = json!(cache);
    }
    let same_commands = expected.is_object() && comparable(expected) == build.commands;
    if same_commands {
        found["commands"] = expected["commands"].clone();
    }
    Ok(found)
}

#[test]
fn plan_cases() {
    // Cases in which B9 is wrong, with vbuild's result.
    let differing = [
        ("resizing a file system that is not ext4 fails", "cannot resize image: VFAT"),
        (
            "EmptyImage: empty ext4_attributes (the value of a fresh config file) swallows the next option",
            "mkfs.ext4 -F -L lbl -q",
        ),
        ("EmptyImage NoFileSystem", "[\"qemu-img create -f raw BUILD/lbl.raw 1M\"]"),
        ("EmptyImage VFAT", "mkfs.vfat"),
        ("EmptyImage: text after the last dot of the label is lost in the file name", "-L data.v1"),
        ("two EmptyImages with one label share one file", "\"o1.raw\",\"o2.raw\""),
        (
            "two targets from one source file share one build file",
            "a.raw BUILD/a.raw\",\"qemu-img convert",
        ),
        (
            "a transient image is seen again by the next artifact with the same source name",
            "a.raw BUILD/a.raw\",\"qemu-img convert",
        ),
        (
            "Share twice under one name in one build: second image is dropped",
            "already shared in this build",
        ),
        ("CopyOnWrite of a qcow2 image", "qemu-img convert -q -f qcow2 -O raw a.qcow2"),
        ("CopyOnWrite of a raw image", "qemu-img convert -q -f raw -O raw a.raw"),
        ("no image on / and a script", "requires that a disk image for the root-"),
        ("two images on /", "requires that only one disk image for the root-"),
        // The behaviour on failure is tested in a machine, see tests/b9.sh.
        ("failing script: images are exported all the same, unresized", "\"SCRIPT\",\"e2fsck"),
        ("failing tool: build goes on and succeeds", "resize2fs -f -M"),
        (
            "fixup runs after resize and before export; failure stops the export",
            "resize2fs -f -M BUILD/a.raw\",\"FIXUP\"",
        ),
        ("fixup runs although the script failed", "\"SCRIPT\",\"FIXUP\""),
        ("missing source image", "nope.raw"),
        ("CloudInit: ISO, VFAT and directory", "out/seed/d/f"),
        ("CloudInit without sources: directory form", "\"outputs\":[]"),
    ];
    let count = run("images", |case| case["kind"] == "plan", &differing, outcome);
    assert_eq!(count, 44);
}
