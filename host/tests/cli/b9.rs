//! The samples of `tests/b9` and b9c's command line against the whole program, without a
//! machine: seeds are made, plans are looked at, and a program that stands for ssh reaches a
//! repository.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A configuration without sections of containers.
const CONFIG: &str = "[global]\nverbosity: Just LogInfo\nlog_file: Nothing\n\
    build_dir_root: Nothing\nkeep_temp_dirs: False\nunique_build_dirs: True\n\
    repository: Nothing\nrepository_cache: Nothing\nmax_cached_shared_images: Just 2\n\
    default_timeout_seconds: 30\ntimeout_factor: 2\n";

/// A project with the samples and what they need.
pub(crate) struct Project {
    _folder: tempfile::TempDir,
    pub(crate) home: PathBuf,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

impl Project {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/b9");
        copy(&samples, &home.join("project"));
        for name in ["vbuild", "b9c"] {
            symlink(env!("CARGO_BIN_EXE_vbuild"), home.join(name)).unwrap();
        }
        fs::create_dir(home.join(".b9")).unwrap();
        fs::write(home.join(".b9/b9.conf"), CONFIG).unwrap();
        Self { _folder: folder, home }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.home.join("project").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn run_in(&self, folder: &Path, words: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.home.join("bin").display());
        Command::new(self.home.join(words[0]))
            .args(&words[1..])
            .current_dir(folder)
            .env_clear()
            .envs([("HOME", self.home.to_str().unwrap()), ("PATH", path.as_str())])
            .output()
            .unwrap()
    }

    /// Exit status, standard output and standard error.
    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.run_in(&self.at(""), words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    pub(crate) fn good(&self, words: &[&str]) -> String {
        let (status, out, err) = self.run(words);
        assert_eq!(status, 0, "{words:?}\n{out}\n{err}");
        out
    }

    #[track_caller]
    pub(crate) fn bad(&self, words: &[&str]) -> String {
        let (status, out, err) = self.run(words);
        assert_eq!(status, 1, "{words:?}\n{out}\n{err}");
        err
    }

    /// The plan of an artifact.
    fn plan(&self, words: &[&str]) -> Value {
        let line = [&["vbuild", "plan", "--json", "b9"], words].concat();
        serde_json::from_str(&self.good(&line)).unwrap()
    }

    /// A raw disk, as the samples expect it as `in/base.raw`.
    fn make_base(&self) {
        fs::create_dir_all(self.at("in")).unwrap();
        fs::write(self.at("in/base.raw"), vec![7; 1 << 20]).unwrap();
    }

    /// A folder without what a build has made for itself.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn stages(plan: &Value) -> Vec<String> {
    list(&plan["stages"]).iter().map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
}

/// Sizes of the target disks.
fn sizes(plan: &Value) -> Vec<u64> {
    let disks = list(&plan["disks"]);
    let targets = disks.iter().filter(|disk| disk["role"] == "target");
    targets.map(|disk| disk["size"]["bytes"].as_u64().unwrap()).collect()
}

/// Formats and paths below the project.
fn outputs(project: &Project, plan: &Value) -> Vec<(String, String)> {
    let top = format!("{}/", project.at("").display()).replace("//", "/");
    list(&plan["outputs"]["images"])
        .iter()
        .map(|image| {
            let path = image["path"].as_str().unwrap();
            let path = path.strip_prefix(&top).unwrap_or(path);
            (image["format"].as_str().unwrap().to_owned(), path.to_owned())
        })
        .collect()
}

#[test]
fn sample_01_is_one_filesystem_grown() {
    let project = Project::new();
    let plan = project.plan(&["-f", "01-empty-disk.b9"]);
    assert_eq!(stages(&plan), ["images", "sizes"]);
    assert_eq!(sizes(&plan), [96 << 20]);
    assert_eq!(outputs(&project, &plan), [("qcow2".into(), "out/01/blank.qcow2".into())]);
    assert_eq!(plan["outputs"]["images"][0]["options"], "compat=1.1,lazy_refcounts=on");
    // A step may take the default, times the factor.
    assert_eq!(plan["stages"][0]["timeout_s"], 60);
}

/// Rows 46, 59 to 61, 115 and 120.
#[test]
fn sample_02_makes_seeds() {
    let project = Project::new();
    let out = project.good(&["b9c", "build", "-f", "02-seed.b9", "-l", "log"]);
    let folder = "out/02/web-01.lab.example.test";
    assert_eq!(project.names(folder), ["meta-data", "network-config", "user-data"]);
    for name in project.names(folder) {
        assert_eq!(
            project.read(&format!("{folder}/{name}")),
            project.read(&format!("expected/02/{name}")),
            "{name}"
        );
        let mode = fs::metadata(project.at(folder).join(&name)).unwrap().permissions().mode();
        let expected = if name == "network-config" { 0o600 } else { 0o644 };
        assert_eq!(mode & 0o7777, expected, "{name}");
    }
    for suffix in ["iso", "vfat"] {
        let bytes = fs::read(project.at(&format!("{folder}.{suffix}"))).unwrap();
        assert!(bytes.windows(6).any(|part| part == b"cidata"), "{suffix}");
    }
    for line in [
        "[ INFO  ] ",
        "CREATED CI_ISO IMAGE: 'web-01.lab.example.test'",
        "CREATED CI_VFAT IMAGE: 'web-01.lab.example.test'",
        "CREATED CI_DIR: 'web-01.lab.example.test'",
        "DURATION: ",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(project.read("log").contains("CREATED CI_DIR"));
    assert!(!project.names("").iter().any(|name| name.starts_with("BUILD-")));
    let again = fs::read(project.at(&format!("{folder}.iso"))).unwrap();
    project.good(&["vbuild", "b9", "-q", "build", "-f", "02-seed.b9"]);
    assert!(again == fs::read(project.at(&format!("{folder}.iso"))).unwrap(), "the same bytes");
}

#[test]
fn sample_03_merges_configurations() {
    let project = Project::new();
    project.good(&["b9c", "build", "-f", "03-merge-config.b9"]);
    for env in ["test", "prod"] {
        for name in ["app.yaml", "sys.config", "logo.b64"] {
            let made = project.read(&format!("out/03/{env}/{name}"));
            assert_eq!(made, project.read(&format!("expected/03/{env}/{name}")), "{env}/{name}");
        }
        assert_eq!(project.names(&format!("out/03/{env}/etc")), ["banner.txt", "raw.txt"]);
        assert!(project.at(&format!("out/03/{env}.iso")).is_file());
    }
}

#[test]
fn sample_04_installs() {
    let project = Project::new();
    project.make_base();
    let plan = project.plan(&["-f", "04-install.b9"]);
    let all = ["images", "source sizes", "places", "script", "tidy", "sizes", "shared directories"];
    assert_eq!(stages(&plan), all);
    assert_eq!(sizes(&plan), [(1 << 30) + (64 << 20), 32 << 20]);
    let expected = [("qcow2", "out/04/root.qcow2"), ("vmdk", "out/04/data.vmdk")];
    assert_eq!(outputs(&project, &plan), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let uploads: Vec<Value> = list(&plan["stages"])
        .iter()
        .flat_map(|stage| list(&stage["steps"]))
        .filter(|step| step["step"] == "upload")
        .collect();
    let script = uploads.iter().find(|upload| upload["what"] == "the script").unwrap();
    let text = script["entries"][0]["kind"]["file"]["source"]["text"].as_str().unwrap();
    assert_eq!(text.trim_end(), project.read("expected/04/run.sh").trim_end());
    let names = |what: &str| -> Vec<String> {
        let upload = uploads.iter().find(|upload| upload["what"] == what).unwrap();
        let entries = list(&upload["entries"]);
        entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("shared directory 0"), ["logo.bin"]);
    // It is made by the build, not by a question.
    assert_eq!(names("shared directory 1"), [""; 0]);
    assert!(!project.at("out").exists());
    assert_eq!(names("shared directory 2"), ["first-boot.sh", "issue"]);
    let sources = uploads.iter().find(|upload| upload["what"] == "shared directory 2").unwrap();
    assert_eq!(sources["entries"][0]["kind"]["file"]["mode"], 0o755);
}

/// Rows 82 and 84.
#[test]
fn sample_05_takes_partitions() {
    let project = Project::new();
    fs::create_dir(project.at("in")).unwrap();
    let mut disk = vec![0_u8; 200 << 20];
    for (index, (start, sectors)) in
        [(2048_u32, 131_072_u32), (133_120, 262_144)].iter().enumerate()
    {
        let at = 446 + 16 * index;
        disk[at + 4] = 0x83;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let raw = project.at("in/disk.raw");
    fs::write(&raw, disk).unwrap();
    let target = output::Target::new(output::format("qcow2").unwrap(), project.at("in/disk.qcow2"));
    let source = output::RawFile::open(&raw).unwrap();
    let written = output::write_disks(&source, &[target], &output::Silent).unwrap();
    output::commit(written, output::Existing::Replace).unwrap();

    let error = project.bad(&["vbuild", "plan", "b9", "-f", "05-partition.b9"]);
    assert!(error.contains("`--artifact ID` names one of part-1, part-2"), "{error}");
    let plan = project.plan(&["-f", "05-partition.b9", "--artifact", "part-1"]);
    let base = &plan["disks"][1]["base"];
    assert_eq!((&base["offset"], &base["bytes"]), (&(1 << 20).into(), &(64 << 20).into()));
    let plan = project.plan(&["-f", "05-partition.b9", "--artifact", "part-2"]);
    let base = &plan["disks"][1]["base"];
    assert_eq!((&base["offset"], &base["bytes"]), (&(65 << 20).into(), &(128 << 20).into()));
    assert_eq!(
        (stages(&plan), sizes(&plan)),
        (["images", "source sizes", "sizes"].map(str::to_owned).to_vec(), vec![256 << 20],)
    );
    // Partition 3 is empty, and the type must be that of the file.
    let sample = project.read("05-partition.b9");
    for (old, new, reason) in [
        ("(Partition 1)", "(Partition 3)", "partition 3 is empty"),
        (
            "QCow2 Ext4) (Partition 1)",
            "Raw Ext4) (Partition 1)",
            "is qcow2, and not raw as is said",
        ),
    ] {
        fs::write(project.at("wrong.b9"), sample.replace(old, new)).unwrap();
        let line = ["vbuild", "plan", "b9", "-f", "wrong.b9", "--artifact", "part-1"];
        let error = project.bad(&line);
        assert!(error.contains(reason), "{error}");
    }
}

/// Puts a revision into the folder of shared images.
pub(crate) fn share(project: &Project, name: &str, date: &str, id: &str) {
    let folder = project.home.join(".b9/repo-cache/local-repo/b9_shared_images");
    fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "SharedImage (SharedImageName \"{name}\") (SharedImageDate \"{date}\") (SharedImageBuildId \"{id}\") Raw Ext4"
    );
    fs::write(folder.join(format!("{name}_{id}.raw")), vec![7; 1 << 20]).unwrap();
    fs::write(folder.join(format!("{name}_{id}.b9si")), text).unwrap();
}

#[test]
fn samples_06_and_07_share_an_image() {
    let project = Project::new();
    project.make_base();
    let plan = project.plan(&["-f", "06-share-base.b9"]);
    let [(format, path)] = &outputs(&project, &plan)[..] else { panic!("{plan}") };
    assert!(format == "qcow2" && path.ends_with("/shared-images/0.qcow2"), "{path}");
    let line = ["vbuild", "plan", "b9", "-f", "07-matrix.b9", "--artifact", "disk-db-qa"];
    let with_argument = [&line[..], &["--", "r42"]].concat();
    let error = project.bad(&line);
    assert!(error.contains("07-matrix.b9:3:53: Invalid template parameter: \"arg_1\"."), "{error}");
    let error = project.bad(&with_argument);
    assert!(error.contains("Nothing found for SharedImageName \"demo-base\"."), "{error}");
    // A build says so before it makes anything, seeds of other artifacts included.
    let error = project.bad(&["b9c", "build", "-f", "07-matrix.b9", "r42"]);
    assert!(error.contains("Nothing found for SharedImageName"), "{error}");
    assert!(!project.at("out").exists());
    share(&project, "demo-base", "2030-01-02-03:04:05", "0A-0B");
    let plan = project.plan(&with_argument[3..]);
    assert_eq!(sizes(&plan), [1200 << 20, 16 << 20]);
    let expected = [("qcow2", "out/07/db-qa.qcow2"), ("raw", "out/07/db-qa-data.raw")];
    assert_eq!(outputs(&project, &plan), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn sample_08_has_a_fixup() {
    let project = Project::new();
    project.make_base();
    let plan = project.plan(&["-f", "08-fixup-transient.b9", "--artifact", "compile"]);
    assert_eq!(stages(&plan), ["images", "places", "script", "tidy", "shared directories"]);
    assert_eq!(outputs(&project, &plan), []);
    let plan = project.plan(&["-f", "08-fixup-transient.b9", "--artifact", "stamp"]);
    assert_eq!(stages(&plan), ["images", "sizes", "fixup", "shared directories"]);
    let text = plan.to_string();
    assert!(!text.contains("tpl/host"), "the fixup names no file");
    // What it names comes along, and what scripts name that it names.
    let sample = project.read("08-fixup-transient.b9");
    fs::write(project.at("stamp.sh"), "#!/bin/sh\ncat tpl/host.yaml\n").unwrap();
    for (command, names, leaves) in [
        ("sh stamp.sh", ["stamp.sh", "tpl/host"], "payload/logo.bin"),
        ("ls *", ["payload/logo.bin", "stamp.sh"], "in/base.raw"),
    ] {
        fs::write(project.at("f.b9"), sample.replace("e2label", &format!("{command}; e2label")))
            .unwrap();
        let text = project.plan(&["-f", "f.b9", "--artifact", "stamp"]).to_string();
        assert!(names.iter().all(|name| text.contains(name)), "{command}: {text}");
        assert!(!text.contains(leaves), "{command}: {text}");
    }
}

/// Rows 32, 72 and 42, and files of others.
#[test]
fn a_recipe_reads_and_writes_in_its_own_folder() {
    let project = Project::new();
    fs::write(project.home.join("secret"), "mine").unwrap();
    let seed = |content: &str, path: &str| {
        format!(
            "Sources [FromContent \"user-data\" ({content}), FromContent \"meta-data\" (FromString \"\")] [Artifact (IID \"a\") (CloudInit [CI_DIR] \"{path}\")]"
        )
    };
    let secret = "FromTextFile (Source NoConversion \"../secret\")";
    for (text, reason) in [
        (seed(secret, "out"), "lies outside of the recipe's own folder"),
        (seed("FromString \"x\"", "../out"), "the seed `../out` lies outside"),
        (seed("FromString \"x\"", ".hidden/out"), "is hidden"),
        (seed("FromURL \"file:///etc/passwd\"", "out"), "only http:// and https:// are fetched"),
    ] {
        fs::write(project.at("a.b9"), text).unwrap();
        let error = project.bad(&["b9c", "build", "-f", "a.b9"]);
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!project.at("out").exists());
    }
    fs::write(project.at("a.b9"), seed(secret, "out")).unwrap();
    project.good(&["vbuild", "b9", "build", "-f", "a.b9", "--allow-host-path", "../secret"]);
    assert_eq!(project.read("out/user-data"), "mine");
}

/// Rows 3, 30, 124 and 125.
#[test]
fn arguments_and_errors() {
    let project = Project::new();
    let text = "Sources [FromContent \"x\" (FromTextFile (Source ExpandVariables \"t\"))] [Artifact (IID \"a\") (CloudInit [CI_DIR] \"out/${arg_2}\")]";
    fs::write(project.at("a.b9"), text).unwrap();
    fs::write(project.at("t"), "${arg_1} ${arg_2}").unwrap();
    project.good(&["b9c", "build", "-fa.b9", "--", "-k", "--x"]);
    assert_eq!(project.read("out/--x/x"), "-k --x");
    project.good(&["b9c", "build", "one", "two", "--project-file=a.b9", "-q"]);
    assert_eq!(project.read("out/two/x"), "one two");
    fs::write(project.at("bad.b9"), "Artifact (IID \"a\")\n  (CloudInit [CI_ISO] )").unwrap();
    let error = project.bad(&["b9c", "build", "-f", "a.b9", "-f", "bad.b9", "one", "three"]);
    assert!(error.contains("bad.b9:2:"), "{error}");
    assert!(!project.at("out/three").exists());
    let error = project.bad(&["b9c", "build"]);
    assert!(error.contains("--project-file"), "{error}");
    let error = project.bad(&["b9c", "frobnicate"]);
    assert!(error.contains("frobnicate"), "{error}");
    assert!(project.good(&["b9c", "-h"]).contains("add-repo"));
}

/// Rows 116 and 117.
#[test]
fn build_directories_are_kept_when_that_is_wanted() {
    let project = Project::new();
    let built = |words: &[&str]| {
        project.good(&[&["b9c", "build", "-f", "02-seed.b9"], words].concat());
        let names = project.names("builds");
        names.into_iter().filter(|name| name.starts_with("BUILD-")).collect::<Vec<_>>()
    };
    assert_eq!(built(&["-b", "builds"]), [""; 0]);
    let kept = built(&["-b", "builds", "-k"]);
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    let id = kept.strip_prefix("BUILD-").unwrap();
    assert_eq!(id.split('-').count(), 2, "{id}");
    let file = format!("builds/{kept}/artifact-instances/seed-web-01-{id}/meta-data");
    assert_eq!(project.read(&file), project.read("expected/02/meta-data"));
    fs::remove_dir_all(project.at("builds")).unwrap();
    let first = built(&["-b", "builds", "-u"]);
    assert_eq!(first, built(&["-b", "builds", "-u"]));
    assert!(first.len() == 1 && first[0].matches('-').count() == 1, "{first:?}");
}

/// Rows 12 to 14, 119 and 127.
#[test]
fn reformat_and_version_need_no_configuration() {
    let project = Project::new();
    fs::remove_dir_all(project.home.join(".b9")).unwrap();
    fs::set_permissions(project.at("01-empty-disk.b9"), fs::Permissions::from_mode(0o640)).unwrap();
    let out = project.good(&["b9c", "reformat", "-f", "01-empty-disk.b9"]);
    let text = project.read("01-empty-disk.b9");
    assert_eq!(out, format!("{text}\n"));
    assert_eq!(project.good(&["b9c", "reformat", "-f", "01-empty-disk.b9"]), out);
    let mode = fs::metadata(project.at("01-empty-disk.b9")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    fs::write(project.at("bad.b9"), "Artifact").unwrap();
    let before = project.read("02-seed.b9");
    project.bad(&["b9c", "reformat", "-f", "02-seed.b9", "-f", "bad.b9"]);
    assert_eq!(project.read("02-seed.b9"), before);
    assert_eq!(project.good(&["b9c", "version"]), "4.0.0\n");
    let version = format!("4.0.0 (vbuild {})\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(project.good(&["vbuild", "b9", "version"]), version);
    assert!(!project.home.join(".b9").exists());
}

/// Rows 132, 133 and 136.
#[test]
fn which_configuration_counts() {
    let project = Project::new();
    fs::remove_dir_all(project.home.join(".b9")).unwrap();
    // A plan creates nothing.
    project.plan(&["-f", "01-empty-disk.b9"]);
    assert!(!project.home.join(".b9").exists());
    let (status, out, err) = project.run(&["b9c", "list"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("Showing local shared images only.\n\nTo view"), "{out}");
    assert!(out.ends_with("\n\nNO SHARED IMAGES\n\n"), "{out}");
    assert!(err.contains("B9 config file resolver: None of these files exists [\""), "{err}");
    assert!(err.contains("creating a new config file with defaults at: "), "{err}");
    let made = fs::read_to_string(project.home.join(".b9/b9.conf")).unwrap();
    assert!(made.contains("repository_cache: Just (InB9UserDir \"repo-cache\")"), "{made}");
    let (_, _, err) = project.run(&["b9c", "list"]);
    assert_eq!(err, "");
    let error = project.bad(&["b9c", "-c", "gone.conf", "list"]);
    assert!(error.contains("Please provide a valid config file path."), "{error}");
    // The name with the version counts more, and what is wrong in it is named.
    fs::write(project.at("my.conf.4.0"), "[global]\nverbosity: x\n").unwrap();
    fs::write(project.at("my.conf"), CONFIG).unwrap();
    let error = project.bad(&["b9c", "-c", "my.conf", "list"]);
    assert!(error.contains("my.conf.4.0") && error.contains("`verbosity`"), "{error}");
    project.good(&["b9c", "-c", "my.conf", "-c", "my.conf.4.0", "list"]);
}

/// Rows 128, 142, 143 and 148.
#[test]
fn shared_images_are_listed_and_cleaned() {
    let project = Project::new();
    for (date, id) in [("2030-01-01-00:00:00", "9"), ("2030-01-03-00:00:00", "10")] {
        share(&project, "base", date, id);
    }
    share(&project, "base", "2030-01-02-00:00:00", "2");
    let out = project.good(&["b9c", "list"]);
    let table = "\nName Date                ID\nbase 2030-01-01-00:00:00 9 \nbase 2030-01-02-00:00:00 2 \nbase 2030-01-03-00:00:00 10\n\n";
    assert!(out.ends_with(table), "{out}");
    project.good(&["b9c", "clean-local"]);
    let out = project.good(&["b9c", "list"]);
    assert!(!out.contains("01-01") && out.contains("01-02") && out.contains("01-03"), "{out}");
    let all =
        CONFIG.replace("max_cached_shared_images: Just 2", "max_cached_shared_images: Nothing");
    fs::write(project.home.join(".b9/b9.conf"), all).unwrap();
    let out = project.good(&["b9c", "clean-local"]);
    assert!(out.starts_with("All shared images are kept"), "{out}");
    let error = project.bad(&["b9c", "push", "base"]);
    assert!(error.contains("No repository specified! Use '-r' to specify a repo BEFORE 'push'."));
    let error = project.bad(&["b9c", "-r", "gone", "list"]);
    assert!(error.contains("selected remote repo '\"gone\"' not configured"), "{error}");
}

/// Rows 148 to 151 and 153; a program stands for ssh.
#[test]
fn images_go_to_a_repository_and_come_back() {
    let project = Project::new();
    fs::create_dir(project.home.join("bin")).unwrap();
    let ssh = project.home.join("bin/ssh");
    let script = "#!/bin/sh\necho \"$@\" >> \"$HOME/ssh.log\"\nwhile [ \"$1\" != -- ]; do shift; done\n\
                  [ \"$2\" = me@there ] || exit 255\nexec sh -c \"$3\"\n";
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(project.at("key"), "").unwrap();
    let remote = project.home.join("the repo");
    let there = remote.to_str().unwrap();
    project.good(&["b9c", "add-repo", "team", there, "key", "there", "2222", "me"]);
    project.good(&["b9c", "add-repo", "other", there, "key", "there", "you"]);
    project.good(&["b9c", "add-repo", "team", there, "key", "there", "me"]);
    let out = project.good(&["b9c", "list"]);
    assert!(out.contains("\nAvailable remote repositories:\n * other\n * team\n"), "{out}");
    share(&project, "base", "2030-01-01-00:00:00", "9");
    share(&project, "base", "2030-01-02-00:00:00", "1");
    let error = project.bad(&["b9c", "-r", "team", "push", "gone"]);
    assert!(error.contains("Nothing found for \"gone\"."), "{error}");
    project.good(&["b9c", "-r", "team", "push", "base"]);
    let images = remote.join("b9_shared_images");
    let mut names: Vec<_> =
        fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["base_1.b9si", "base_1.raw", "base_1.raw.sha256"]);
    // What a broken transfer left there is repaired.
    fs::write(images.join("base_1.raw"), "a part").unwrap();
    project.good(&["b9c", "push", "base", "-r", "team"]);
    assert_eq!(fs::metadata(images.join("base_1.raw")).unwrap().len(), 1 << 20);
    let log = fs::read_to_string(project.home.join("ssh.log")).unwrap();
    let key = format!("-i {}", project.at("key").display());
    assert!(log.contains(&key) && log.contains("-p 22 "), "{log}");
    assert!(!log.contains("StrictHostKeyChecking"), "host keys are checked: {log}");

    fs::remove_dir_all(project.home.join(".b9/repo-cache")).unwrap();
    assert!(project.good(&["b9c", "list"]).contains("NO SHARED IMAGES"));
    project.good(&["b9c", "-r", "team", "pull"]);
    let known = project.good(&["b9c", "-r", "team", "list"]);
    assert!(known.starts_with("Showing shared images on: team\n"), "{known}");
    assert!(known.contains("base 2030-01-02-00:00:00 1"), "{known}");
    assert!(project.good(&["b9c", "list"]).contains("NO SHARED IMAGES"));
    project.good(&["b9c", "-r", "team", "pull", "base"]);
    assert!(project.good(&["b9c", "list"]).contains("base 2030-01-02-00:00:00 1"));
    let error = project.bad(&["b9c", "-r", "team", "pull", "gone"]);
    assert!(error.contains("failed to pull: SharedImageName \"gone\""), "{error}");
    let error = project.bad(&["b9c", "-r", "other", "pull"]);
    assert!(error.contains("the repository `other` cannot be used"), "{error}");
    // What has vanished there is not listed any more.
    fs::remove_file(images.join("base_1.b9si")).unwrap();
    project.good(&["b9c", "-r", "team", "pull"]);
    assert!(project.good(&["b9c", "-r", "team", "list"]).contains("NO SHARED IMAGES"));
    project.good(&["b9c", "-r", "team", "pull"]);
    project.good(&["b9c", "-r", "team", "clean-remote"]);
    assert!(images.join("base_1.raw").exists(), "nothing is removed there");
    fs::remove_file(project.at("key")).unwrap();
    // A key that is missing stops what needs it, and nothing else.
    let error = project.bad(&["b9c", "-r", "team", "pull"]);
    assert!(error.contains("for repository 'team' is missing."), "{error}");
    project.good(&["b9c", "build", "-f", "02-seed.b9"]);
}

#[test]
fn a_folder_is_a_repository_too() {
    let project = Project::new();
    share(&project, "base", "2030-01-01-00:00:00", "9");
    project.good(&["b9c", "-r", "./team", "push", "base"]);
    assert_eq!(
        project.names("team/b9_shared_images"),
        ["base_9.b9si", "base_9.raw", "base_9.raw.sha256"]
    );
    fs::remove_dir_all(project.home.join(".b9/repo-cache")).unwrap();
    project.good(&["b9c", "-r", "./team", "pull", "base"]);
    for line in [&["b9c", "list"][..], &["b9c", "-r", "./team", "list"]] {
        assert!(project.good(line).contains("base 2030-01-01-00:00:00 9"), "{line:?}");
    }
    // An image that is not whole is not taken.
    fs::remove_dir_all(project.home.join(".b9/repo-cache")).unwrap();
    fs::remove_file(project.at("team/b9_shared_images/base_9.raw")).unwrap();
    let error = project.bad(&["b9c", "-r", "./team", "pull", "base"]);
    assert!(error.contains("`base_9.raw` is missing"), "{error}");
    assert!(error.contains("failed to pull"), "{error}");
}

/// Row 144: what cannot be understood stays.
#[test]
fn odd_descriptions_stay() {
    let project = Project::new();
    share(&project, "base", "2030-01-01-00:00:00", "9");
    let folder = project.home.join(".b9/repo-cache/local-repo/b9_shared_images");
    fs::write(folder.join("odd.b9si"), "SharedImage \u{1b}[2J").unwrap();
    let (status, out, err) = project.run(&["b9c", "list"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("base 2030-01-01-00:00:00 9"), "{out}");
    assert!(err.contains("odd.b9si") && !err.contains('\u{1b}'), "{err}");
    assert!(folder.join("odd.b9si").exists());
}

/// Row 31.
#[test]
fn artifacts_of_one_name_keep_their_files() {
    let project = Project::new();
    let artifact = |name: &str| {
        format!(
            "Sources [FromContent \"{name}\" (FromString \"{name}\")] [Artifact (IID \"same\") (CloudInit [CI_DIR] \"out/{name}\")]"
        )
    };
    let text = format!("Let [] [{}, {}]", artifact("one"), artifact("two"));
    fs::write(project.at("a.b9"), text).unwrap();
    project.good(&["b9c", "build", "-f", "a.b9", "-b", "builds", "-k"]);
    assert_eq!(project.names("out/one"), ["one"]);
    assert_eq!(project.names("out/two"), ["two"]);
    let kept = project.names("builds").pop().unwrap();
    assert_eq!(project.names(&format!("builds/{kept}/artifact-instances")).len(), 2);
}

/// Rows 33 and 34.
#[test]
fn files_are_copied_as_they_are() {
    let project = Project::new();
    let bytes = [0xff, 0, b'$', b'x'];
    fs::write(project.at("bytes"), bytes).unwrap();
    let text = |conversion: &str| {
        format!(
            "Sources [FromFile \"f\" (Source {conversion} \"bytes\")] [Artifact (IID \"a\") (CloudInit [CI_DIR] \"out\")]"
        )
    };
    fs::write(project.at("a.b9"), text("NoConversion")).unwrap();
    project.good(&["b9c", "build", "-f", "a.b9"]);
    assert_eq!(fs::read(project.at("out/f")).unwrap(), bytes);
    fs::write(project.at("a.b9"), text("ExpandVariables")).unwrap();
    let error = project.bad(&["b9c", "build", "-f", "a.b9"]);
    assert!(error.contains("`bytes` is not UTF-8 text"), "{error}");
}

/// Row 42.
#[test]
fn urls_give_content() {
    let project = Project::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = std::io::Read::read(&mut stream, &mut request).unwrap();
            let path = String::from_utf8_lossy(&request[..count]).into_owned();
            let answer = match path.split(' ').nth(1).unwrap() {
                "/here" => "200 OK\r\ncontent-length: 7",
                "/moved" => "302 Found\r\nlocation: /here\r\ncontent-length: 7",
                _ => "404 Gone\r\ncontent-length: 7",
            };
            let text = format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\na text\n");
            let _ = std::io::Write::write_all(&mut stream, text.as_bytes());
        }
    });
    let build = |path: &str| {
        let text = format!(
            "Sources [FromContent \"f\" (FromURL \"http://{at}{path}\")] [Artifact (IID \"a\") (CloudInit [CI_DIR] \"out{path}\")]"
        );
        fs::write(project.at("a.b9"), text).unwrap();
        project.run(&["b9c", "build", "-f", "a.b9"])
    };
    for path in ["/here", "/moved"] {
        let (status, _, err) = build(path);
        assert_eq!(status, 0, "{err}");
        assert_eq!(project.read(&format!("out{path}/f")), "a text\n");
    }
    let (status, _, err) = build("/gone");
    assert!(status == 1 && err.contains("404"), "{err}");
    assert!(!project.at("out/gone").exists());
}

/// Row 88, as far as a plan tells it.
#[test]
fn a_live_installer_has_a_folder_of_its_own() {
    let project = Project::new();
    let text = "Artifact (IID \"a\") (VmImages [ImageTarget (LiveInstallerImage \"web\" \"out\" KeepSize) (EmptyImage \"d\" Ext4 Raw (ImageSize 8 MB)) NotMounted] NoVmScript)";
    fs::write(project.at("a.b9"), text).unwrap();
    let plan = project.plan(&["-f", "a.b9"]);
    let expected = ("raw".to_owned(), "out/machines/web/disks/raw/0.raw".to_owned());
    assert_eq!(outputs(&project, &plan), [expected]);
}

/// Rows 112 and 113.
#[test]
fn limits_of_time_come_from_the_configuration() {
    let project = Project::new();
    project.make_base();
    let limits = |config: &str| {
        fs::write(project.home.join(".b9/b9.conf"), config).unwrap();
        let plan = project.plan(&["-f", "06-share-base.b9"]);
        let of = |name: &str| {
            let stages = list(&plan["stages"]);
            stages.iter().find(|stage| stage["name"] == name).unwrap()["timeout_s"].as_u64()
        };
        (of("script"), of("places"))
    };
    assert_eq!(limits(CONFIG), (Some(60), Some(60)));
    let more = format!("{CONFIG}[systemdNspawn]\nmax_lifetime_seconds: Just 100\n");
    assert_eq!(limits(&more), (Some(200), Some(60)));
    let none = CONFIG.replace("default_timeout_seconds: 30\n", "");
    assert_eq!(limits(&none), (None, None));
}

/// Rows 135 and 139.
#[test]
fn keys_of_the_configuration_count_unless_options_do() {
    let project = Project::new();
    let config = CONFIG
        .replace("verbosity: Just LogInfo", "verbosity: Nothing")
        .replace("log_file: Nothing", "log_file: Just \"said\"")
        .replace("build_dir_root: Nothing", "build_dir_root: Just \"root\"")
        .replace("keep_temp_dirs: False", "keep_temp_dirs: True")
        .replace("repository_cache: Nothing", "repository_cache: Just (Path \"cache\")")
        + "[docker]\nnetwork: Nothing\n";
    fs::write(project.home.join(".b9/b9.conf"), config).unwrap();
    let out = project.good(&["b9c", "build", "-f", "02-seed.b9", "--network", "host"]);
    assert_eq!(out, "");
    assert!(project.read("said").contains("DURATION"));
    assert_eq!(project.names("root").len(), 1);
    let line = ["b9c", "-v", "-l", "other", "-b", "there", "build", "-f", "02-seed.b9"];
    let out = project.good(&[&line[..], &["--network", "br0"]].concat());
    assert!(out.contains("sections of container engines (docker)"), "{out}");
    assert!(out.contains("`--network br0`"), "{out}");
    assert!(project.read("other").contains("DURATION"));
    assert_eq!(project.names("there").len(), 1);
}
