//! Tests of lowering artifacts to plans.

use plan::{Digest, DiskBase, Step, UploadEntry};

use super::*;
use crate::{
    Environment, Instance, expand, haskell,
    types::{ArtifactGenerator, VmScript},
};

fn instance(text: &str) -> Instance {
    let generator: ArtifactGenerator = haskell::read(text, 0).unwrap();
    expand(&generator, &Environment::default()).unwrap().remove(0)
}

fn lowered(text: &str) -> Result<Plan, Fault> {
    let instance = instance(text);
    let images = Images::of(&instance.assembly).unwrap();
    let base = |source: &ImageSource| match source {
        ImageSource::EmptyImage(..) => None,
        _ => Some(DiskBase {
            path: "/base".into(),
            offset: 0,
            bytes: 100 << 20,
            sha256: Digest::of(b"base"),
        }),
    };
    let share = || Share { directory: "/home/a/p".into(), entries: Vec::new() };
    let shares = match images.script {
        VmScript::Run(_, shares, _) => shares.iter().map(|_| share()).collect(),
        VmScript::None => Vec::new(),
    };
    let format = crate::types::ImageType::QCow2;
    let request = Request {
        id: &instance.id,
        images,
        bases: images.targets.iter().map(|target| base(&target.source)).collect(),
        filesystems: Vec::new(),
        sources: Vec::<UploadEntry>::new(),
        shares,
        current: Some(share()),
        outputs: images
            .targets
            .iter()
            .enumerate()
            .map(|(n, _)| Some(Output { path: format!("/out/{n}").into(), format }))
            .collect(),
        attributes: None,
        script_timeout_s: Some(60),
        step_timeout_s: Some(30),
    };
    lower(&request)
}

fn titles(plan: &Plan) -> Vec<String> {
    assert_eq!(plan::check(plan), []);
    let stages = plan.stages.iter();
    let titles = stages.flat_map(|stage| {
        stage.steps.iter().map(|step| format!("{}: {}", stage.name, step.title()))
    });
    titles
        .filter(|title| !title.ends_with("change files") && !title.contains("the tools of"))
        .collect()
}

const FULL: &str = "Artifact (IID \"a\") (VmImagesWithFixup
  [ ImageTarget (LocalFile (Image \"r\" QCow2 Ext4) (ShrinkToMinimumAndIncrease (ImageSize 64 MB)))
      (SourceImage (Image \"b\" Raw Ext4) NoPT (Resize (ImageSize 1 GB))) (MountPoint \"/\")
  , ImageTarget (LocalFile (Image \"d\" Vmdk Ext4) (Resize (ImageSize 16 MB)))
      (EmptyImage \"data\" Ext4 Raw (ImageSize 32 MB)) (MountPoint \"/srv/data\") ]
  (VmScript I386 [SharedDirectory \"s\" (MountPoint \"/srv\"), SharedSources (MountPoint \"/src\")] (Run \"true\" []))
  (Run \"ls\" [\"$1\"]))";

#[test]
fn everything_is_a_stage() {
    let plan = lowered(FULL).unwrap();
    assert_eq!(
        titles(&plan),
        [
            "images: find what stands on image0",
            "images: create the disk layout",
            "images: set length-kib.image1",
            "source sizes: resize image 0",
            "places: look for bash",
            "places: make mount points",
            "script: upload the script",
            "script: upload shared directory 0",
            "script: upload shared directory 1",
            "script: note the time",
            "script: prepare resolv.conf",
            "script: VmScript",
            "script: end left-over processes",
            "script: restore resolv.conf",
            "script: gather what was written",
            "tidy: remove mount points",
            "tidy: discard free blocks",
            "sizes: resize image 0",
            "sizes: resize image 1",
            "fixup: upload the fixup",
            "fixup: upload the current directory",
            "fixup: what the script wrote",
            "fixup: note the time",
            "fixup: fixup",
            "fixup: gather what was written",
            "shared directories: fetch /home/a/p",
            "shared directories: fetch /home/a/p",
        ]
    );
    let sizes: Vec<&DiskSize> = plan.disks.iter().map(|disk| &disk.size).collect();
    assert_eq!(sizes[1..], [&DiskSize::Bytes((1 << 30) + (64 << 20)), &DiskSize::Bytes(32 << 20)]);
    let script = plan.stage("script").unwrap();
    let binds: Vec<(&str, bool)> =
        script.context.binds.iter().map(|bind| (bind.to.as_str(), bind.read_only)).collect();
    assert_eq!(
        binds,
        [
            ("/build/b9/images/0/.vbuild-b9", true),
            ("/build/b9/images/0/src", true),
            ("/build/b9/images/0/srv", false),
            ("/build/b9/images/0/srv/data", false),
        ]
    );
    assert_eq!((script.timeout_s, plan.stages[0].timeout_s), (Some(60), Some(30)));
    let argv = script.steps.iter().find_map(|step| match step {
        Step::Run(run) if run.what == "VmScript" => Some(run.argv.clone()),
        _ => None,
    });
    let words = ["setarch", "i686", "chroot", "/build/b9/images/0", "bash", "/.vbuild-b9/run.sh"];
    assert_eq!(argv.unwrap(), words.map(Value::from));
}

#[test]
fn without_a_script_nothing_is_mounted() {
    let plan = lowered(
        "Artifact (IID \"a\") (VmImages [ImageTarget Transient (SourceImage (Image \"b\" Raw VFAT) NoPT KeepSize) (MountPoint \"/\")] (VmScript X86_64 [] (Begin [])))",
    )
    .unwrap();
    assert_eq!(titles(&plan), ["images: create the disk layout"]);
    assert_eq!(plan.stages.len(), 1);
}

/// Row 75, before any machine boots.
#[test]
fn an_image_is_not_cut() {
    let text = "Artifact (IID \"a\") (VmImages [ImageTarget Transient (SourceImage (Image \"b\" Raw VFAT) NoPT (ResizeImage (ImageSize 99 MB))) NotMounted] NoVmScript)";
    let fault = lowered(text).unwrap_err();
    assert!(fault.message.contains("would cut off data: image 0 has 104857600"), "{fault}");
    assert!(lowered(&text.replace("99 MB", "100 MB")).is_ok());
}

/// The filesystem of a shared image is known once the image is found.
#[test]
fn only_ext4_changes_its_size() {
    let instance = instance(
        "Artifact (IID \"a\") (VmImages [ImageTarget Transient (From \"s\" ShrinkToMinimum) NotMounted] NoVmScript)",
    );
    let lowered = |filesystem: FileSystem| {
        let base = DiskBase {
            path: "/base".into(),
            offset: 0,
            bytes: 100 << 20,
            sha256: Digest::of(b"base"),
        };
        lower(&Request {
            id: &instance.id,
            images: Images::of(&instance.assembly).unwrap(),
            bases: vec![Some(base)],
            filesystems: vec![filesystem],
            sources: Vec::new(),
            shares: Vec::new(),
            current: None,
            outputs: vec![None],
            attributes: None,
            script_timeout_s: None,
            step_timeout_s: None,
        })
    };
    assert!(lowered(FileSystem::Ext4).is_ok());
    let fault = lowered(FileSystem::Vfat).unwrap_err();
    assert!(fault.message.ends_with("cannot resize image: VFAT"), "{fault}");
}

/// Row 85: two images of one label are two disks.
#[test]
fn one_label_may_stand_on_two_images() {
    let target = "ImageTarget Transient (EmptyImage \"d\" Ext4 Raw (ImageSize 8 MB)) NotMounted";
    let plan = lowered(&format!("Artifact (IID \"a\") (VmImages [{target}, {target}] NoVmScript)"));
    titles(&plan.unwrap());
}

/// Row 67: `ResizeImage` leaves the filesystem unchanged, and the script sees the original size.
#[test]
fn a_new_filesystem_is_not_larger_than_said() {
    let text = |resize: &str, mount: &str, script: &str| {
        format!(
            "Artifact (IID \"a\") (VmImages [ImageTarget (LocalFile (Image \"o\" Raw Ext4) ({resize} (ImageSize 100 MB))) (EmptyImage \"l\" Ext4 Raw (ImageSize 64 MB)) {mount}{}] {script})",
            if script == "NoVmScript" {
                ""
            } else {
                ", ImageTarget Transient (CopyOnWrite (Image \"b\" Raw Ext4)) (MountPoint \"/\")"
            }
        )
    };
    let shrinks = |text: &str| {
        let plan = lowered(text).unwrap();
        let stage = plan.stages.iter().find(|stage| stage.name == "source sizes");
        stage.is_some_and(|stage| format!("{stage:?}").contains("filesystem:67108864"))
    };
    let script = "(VmScript X86_64 [] (Run \"df\" []))";
    assert!(shrinks(&text("ResizeImage", "NotMounted", "NoVmScript")));
    assert!(!shrinks(&text("Resize", "NotMounted", "NoVmScript")));
    assert!(shrinks(&text("Resize", "(MountPoint \"/d\")", script)));
    assert!(!shrinks(&text("Resize", "NotMounted", script)));
}

/// An image resized at its start still gets the size that its destination sets.
#[test]
fn an_image_is_as_large_as_it_is_said_last() {
    let text = "Artifact (IID \"a\") (VmImages [ImageTarget (LocalFile (Image \"o\" Raw Ext4) (ResizeImage (ImageSize 300 MB))) (SourceImage (Image \"b\" Raw Ext4) NoPT (Resize (ImageSize 200 MB))) NotMounted] NoVmScript)";
    let plan = lowered(text).unwrap();
    let last = plan.stages.last().unwrap().steps.last().unwrap();
    let Step::SetFact { fact, value } = last else { panic!("{last:?}") };
    assert_eq!(
        (fact.as_str(), value),
        ("length-kib.image0", &Value::Text((300 << 10).to_string()))
    );
}
