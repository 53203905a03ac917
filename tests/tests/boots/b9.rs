//! Builds artifacts of B9 in real guests with the program itself. The base image is the appliance's
//! tools root: a bare ext4 with a small Debian.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Output},
};

use crate::{
    harness::{Ground, ground},
    program::{stderr, vbuild},
};

const RECIPE: &str = include_str!("b9.b9");

fn b9(ground: &Ground, words: &[&str]) -> Command {
    let mut command = Command::new(tests::vbuild_binary());
    // Machine options follow the verb.
    let of_machine: Vec<OsString> =
        vbuild(ground, &["b9"]).get_args().skip(1).map(OsStr::to_owned).collect();
    let cut = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    let (before, behind) = words.split_at(cut);
    command.arg("b9").args(before).args(of_machine).args(behind);
    at_home(ground, &mut command);
    command
}

/// Runs the command in the project, with a parent directory as home.
fn at_home(ground: &Ground, command: &mut Command) {
    command.current_dir(project(ground)).env("HOME", ground.dir.path()).env_remove("TMPDIR");
    command.stdin(std::process::Stdio::null());
}

fn project(ground: &Ground) -> std::path::PathBuf {
    ground.path("project")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn filesystem(image: &Path) -> ext4_view::Ext4 {
    ext4_view::Ext4::load(Box::new(fs::read(image).unwrap())).unwrap()
}

fn told(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), stderr(output))
}

/// Rows 74, 91 to 94, 97 to 100, 102, 104, 106, 109, 111, 129 to 131, 140 and 146.
#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_built_and_a_failing_one_leaves_nothing() {
    let Some(ground) = ground("artifacts_are_built_and_a_failing_one_leaves_nothing") else {
        return;
    };
    let at = |name: &str| project(&ground).join(name);
    let prepared = ground.prepare("b9", Vec::new()).await;
    fs::create_dir_all(at("payload")).unwrap();
    fs::copy(&prepared.spec.drives[0].path, at("base.raw")).unwrap();
    drop(prepared);
    fs::write(at("payload/logo"), "a logo").unwrap();
    fs::write(at("it.b9"), RECIPE).unwrap();
    let build = ["build", "--no-network", "--no-cache", "-v", "-f", "it.b9"];
    let built = b9(&ground, &build).output().unwrap();
    let all = told(&built);
    // The last artifact fails.
    assert_eq!(built.status.code(), Some(1), "{all}");
    assert!(all.contains("Error creating 'VmImages' for instance 'fails-"), "{all}");
    assert!(all.contains("[ TRACE ] ") && all.contains("to be seen"), "{all}");
    assert!(!at("out/fails.raw").exists());
    assert_eq!(fs::read_dir(at("out/failed")).unwrap().count(), 0);

    let report = |name: &str| text(&at("out/report").join(name));
    assert_eq!(report("env"), "home=/root user=root\n");
    assert_eq!(report("who"), "0\nnobody\n");
    assert_eq!(report("arch"), "i686\n");
    assert_eq!(report("sources"), "644 words\n755 deep/script\n");
    assert_eq!(report("data"), "a logo\n");
    assert_eq!(report("old"), "here before\n");
    let owner = fs::metadata(at("out/report/env")).unwrap().uid();
    assert_eq!(owner, fs::metadata(at("it.b9")).unwrap().uid());

    // The image is modified, without files of the build, with minimum size plus 64 MiB.
    let image = at("out/root.raw");
    let root = filesystem(&image);
    assert_eq!(root.read_to_string("/etc/demo-base").unwrap(), "first\n");
    assert_eq!(root.read_to_string("/etc/words").unwrap(), "from the sources");
    for gone in ["/.vbuild-b9", "/mnt/payload", "/mnt/report", "/srv/data"] {
        assert!(!root.exists(gone).unwrap(), "{gone}");
    }
    let bytes = fs::metadata(&image).unwrap().len();
    assert!((64 << 20..1 << 30).contains(&bytes), "{bytes}");
    // The fixup has written to the image: its label changed.
    let label = |path: &Path| {
        let mut label = [0; 16];
        fs::File::open(path).unwrap().read_exact_at(&mut label, 1024 + 120).unwrap();
        String::from_utf8_lossy(&label).trim_end_matches('\0').to_owned()
    };
    assert_eq!(label(&image), "fixed");
    assert_eq!(text(&at("from-fixup")), format!("2 {bytes}\n"));
    let data = at("out/data.raw");
    assert_eq!(fs::metadata(&data).unwrap().len(), 32 << 20);
    let files = filesystem(&data);
    assert_eq!(files.read_to_string("/logo").unwrap(), "a logo");

    // The shared image can be inspected, and is unchanged.
    let listed = told(&b9_plain(&ground, &["list"]).output().unwrap());
    assert_eq!(listed.matches("\nbase ").count(), 1, "{listed}");
    let script =
        "cat /etc/demo-base; echo new > /etc/demo-base; echo \"$2\" > \"/mnt$1/said\"; exit 7";
    let here = project(&ground).canonicalize().unwrap();
    let here = here.to_str().unwrap();
    let words = ["run", "--no-network", "base", "--", "sh", "-c", script, "sh", here, "a 'b' -c"];
    let ran = b9(&ground, &words).output().unwrap();
    assert_eq!(ran.status.code(), Some(7), "{}", told(&ran));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "first\n");
    assert_eq!(text(&at("said")), "a 'b' -c\n");
}

/// Two independent artifacts, and one that starts from the output of the first.
const SIDE_BY_SIDE: &str = r#"Let []
  [ Each [("name", ["one", "two"])]
      [ Artifact (IID "${name}") (VmImages
          [ ImageTarget (LocalFile (Image "out/${name}.raw" Raw Ext4) (ResizeImage (ImageSize 24 MB)))
              (EmptyImage "${name}" Ext4 Raw (ImageSize 16 MB)) NotMounted ] NoVmScript) ]
  , Artifact (IID "three") (VmImages
      [ ImageTarget (LocalFile (Image "out/three.raw" Raw Ext4) (Resize (ImageSize 20 MB)))
          (SourceImage (Image "out/one.raw" Raw Ext4) NoPT KeepSize) NotMounted ] NoVmScript) ]"#;

/// An unchanged artifact needs no machine, as `--machine-readable` shows, with independent
/// artifacts and a configured shared cache.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_unchanged_takes_no_machine() {
    let Some(ground) = ground("what_is_unchanged_takes_no_machine") else { return };
    let at = |name: &str| project(&ground).join(name);
    fs::create_dir_all(project(&ground)).unwrap();
    fs::write(at("it.b9"), SIDE_BY_SIDE).unwrap();
    let cache = ground.settings.cache_dir.clone();
    let own_store = cache.join("store");
    let _ = fs::remove_dir_all(&own_store);
    let build = || {
        let words = [
            "build",
            "--no-network",
            "--jobs",
            "2",
            "--machine-readable=file:events",
            "--remote-cache",
            "shared",
            "--remote-unsigned",
            "-f",
            "it.b9",
        ];
        let built = b9(&ground, &words).output().unwrap();
        assert!(built.status.success(), "{}", told(&built));
        let events = text(&at("events"));
        let count = |event: &str| events.matches(&format!("\"event\":\"{event}\"")).count();
        let names: Vec<usize> = ["one", "two", "three"]
            .map(|name| events.find(&format!("\"name\":\"{name}\"")).unwrap())
            .to_vec();
        assert!(names.is_sorted(), "in the order of the files: {events}");
        (count("machine-starting"), count("stage-cached"))
    };
    fs::create_dir_all(at("shared")).unwrap();
    let (machines, _) = build();
    assert!(machines >= 3, "{machines}");
    let bytes = |name: &str| {
        let image = fs::read(at(name)).unwrap();
        let blocks = u32::from_le_bytes(image[1028..1032].try_into().unwrap());
        let block = 1024_u64 << u32::from_le_bytes(image[1048..1052].try_into().unwrap());
        (image.len(), u64::from(blocks) * block)
    };
    for name in ["one", "two"] {
        // The image has grown, but its filesystem has not.
        assert_eq!(bytes(&format!("out/{name}.raw")), (24 << 20, 16 << 20), "{name}");
    }
    assert_eq!(bytes("out/three.raw"), (20 << 20, 20 << 20));
    fs::remove_dir_all(at("out")).unwrap();
    let (machines, cached) = build();
    assert_eq!(machines, 0, "nothing is built again");
    assert!(cached >= 5, "{cached}");
    assert_eq!(bytes("out/three.raw"), (20 << 20, 20 << 20));
}

/// Runs the program without a machine.
fn b9_plain(ground: &Ground, words: &[&str]) -> Command {
    let mut command = Command::new(tests::vbuild_binary());
    command.arg("b9").args(words);
    at_home(ground, &mut command);
    command
}
