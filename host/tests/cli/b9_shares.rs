//! Shared images of B9 when something goes wrong: kills at any moment, disks without room,
//! repositories that are damaged or not there, many at once. Whatever happens, who finds the
//! description of an image finds all of the image.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use super::b9::{Project, share};

/// How many moments are tried.
const MOMENTS: u32 = 24;
const IMAGE_BYTES: usize = 12 << 20;

fn folder(project: &Project) -> PathBuf {
    project.home.join(".b9/repo-cache/local-repo/b9_shared_images")
}

/// A revision with a large image, whose bytes tell which one it is.
fn share_large(project: &Project, id: &str, fill: u8) {
    share(project, "base", &format!("2030-01-{fill:02}-00:00:00"), id);
    fs::write(folder(project).join(format!("base_{id}.raw")), vec![fill; IMAGE_BYTES]).unwrap();
}

fn forget(project: &Project) {
    let _ = fs::remove_dir_all(project.home.join(".b9/repo-cache"));
}

/// What descriptions in a folder tell of, each with all of its image.
#[track_caller]
fn whole(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".b9si") else { continue };
        let text = fs::read_to_string(entry.path()).unwrap();
        assert!(text.contains("(SharedImageName \"base\")"), "{name}: {text}");
        let image = fs::read(folder.join(format!("{stem}.raw"))).unwrap();
        assert_eq!(image.len(), IMAGE_BYTES, "{name}");
        assert!(image.iter().all(|byte| *byte == image[0]), "{name}");
        let told = fs::read_to_string(folder.join(format!("{stem}.raw.sha256"))).unwrap();
        let digest: String =
            Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(told.starts_with(&digest), "{name}: {told}");
        found.push(stem.to_owned());
    }
    found.sort();
    found
}

fn start(project: &Project, words: &[&str]) -> Child {
    Command::new(project.home.join(words[0]))
        .args(&words[1..])
        .current_dir(project.at(""))
        .env_clear()
        .env("HOME", &project.home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs something to its end once, and then again and again with a kill at a later moment
/// each time; `before` makes the beginning anew, `after` looks at what is there.
fn killed_at_moments(project: &Project, words: &[&str], before: &dyn Fn(), after: &dyn Fn()) {
    before();
    let began = Instant::now();
    assert!(start(project, words).wait().unwrap().success());
    let all = began.elapsed();
    for moment in 0..MOMENTS {
        before();
        let mut child = start(project, words);
        thread::sleep(all * moment / MOMENTS);
        child.kill().unwrap();
        child.wait().unwrap();
        after();
        // Whatever was left is no hindrance.
        assert!(start(project, words).wait().unwrap().success(), "moment {moment}");
    }
}

#[test]
fn a_push_can_be_killed() {
    let project = Project::new();
    share_large(&project, "9", 9);
    let team = project.at("team/b9_shared_images");
    let before = || {
        let _ = fs::remove_dir_all(project.at("team"));
    };
    let words = ["b9c", "-r", "./team", "push", "base"];
    killed_at_moments(&project, &words, &before, &|| {
        whole(&team);
    });
    assert_eq!(whole(&team), ["base_9"]);
    assert_eq!(whole(&folder(&project)), ["base_9"]);
}

#[test]
fn a_pull_can_be_killed() {
    let project = Project::new();
    share_large(&project, "9", 9);
    project.good(&["b9c", "-r", "./team", "push", "base"]);
    let before = || {
        forget(&project);
        share_large(&project, "8", 8);
        let digest: String =
            Sha256::digest(vec![8; IMAGE_BYTES]).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder(&project).join("base_8.raw.sha256"), digest).unwrap();
    };
    let words = ["b9c", "-r", "./team", "pull", "base"];
    killed_at_moments(&project, &words, &before, &|| {
        // The one that was here is here.
        assert_eq!(whole(&folder(&project))[0], "base_8");
    });
    assert_eq!(whole(&folder(&project)), ["base_8", "base_9"]);
}

/// What a kill has left is removed when it is old; what may be in work is not.
#[test]
fn what_a_kill_has_left_is_cleaned_up() {
    let project = Project::new();
    share_large(&project, "9", 9);
    let local = folder(&project);
    let day = Duration::from_secs(26 * 60 * 60);
    for name in ["base_7.qcow2", "base_7.qcow2.sha256", ".tmpAbCdEf", "notes.txt", "odd_1.raw"] {
        fs::write(local.join(name), "left").unwrap();
        let file = fs::File::options().write(true).open(local.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - day).unwrap();
    }
    fs::write(local.join("odd_1.b9si"), "what is this").unwrap();
    fs::write(local.join("base_6.raw"), "just begun").unwrap();
    project.good(&["b9c", "clean-local"]);
    for (name, stays) in [
        ("base_9.raw", true),
        ("base_7.qcow2", false),
        ("base_7.qcow2.sha256", false),
        (".tmpAbCdEf", false),
        ("notes.txt", true),
        ("odd_1.raw", true),
        ("base_6.raw", true),
    ] {
        assert_eq!(local.join(name).exists(), stays, "{name}");
    }
}

#[test]
fn many_share_one_repository_at_once() {
    let projects: Vec<Project> = (1..=3).map(|_| Project::new()).collect();
    let team = projects[0].at("team");
    let place = team.to_str().unwrap();
    for (number, project) in (1..).zip(&projects) {
        share_large(project, &number.to_string(), number);
    }
    for _ in 0..3 {
        let mut children: Vec<Child> = projects
            .iter()
            .flat_map(|project| {
                [
                    start(project, &["b9c", "-r", place, "push", "base"]),
                    start(project, &["b9c", "-r", place, "pull"]),
                    start(project, &["b9c", "list"]),
                ]
            })
            .collect();
        for child in &mut children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(whole(&team.join("b9_shared_images")), ["base_1", "base_2", "base_3"]);
    }
    // Several pulls of one image into one folder.
    let project = &projects[0];
    let words = ["b9c", "-r", place, "pull", "base"];
    let mut children: Vec<Child> = (0..4).map(|_| start(project, &words)).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(whole(&folder(project)), ["base_1", "base_3"]);
}

/// Runs b9c where no file can get larger than half an image, as on a disk without room.
#[track_caller]
fn without_room(project: &Project, words: &str) -> String {
    let script = format!("trap '' XFSZ; ulimit -f {}; exec ../b9c {words}", IMAGE_BYTES / 2 / 512);
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(project.at(""))
        .env("HOME", &project.home)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_without_room_loses_nothing() {
    let project = Project::new();
    share_large(&project, "9", 9);
    let team = project.at("team/b9_shared_images");
    let error = without_room(&project, "-r ./team push base");
    assert!(error.contains("File too large"), "{error}");
    assert_eq!(whole(&team), [""; 0]);
    assert!(!team.join("base_9.raw").exists());
    project.good(&["b9c", "-r", "./team", "push", "base"]);
    assert_eq!(whole(&team), ["base_9"]);

    forget(&project);
    let error = without_room(&project, "-r ./team pull base");
    assert!(error.contains("File too large"), "{error}");
    assert_eq!(fs::read_dir(folder(&project)).into_iter().flatten().count(), 0);
    project.good(&["b9c", "-r", "./team", "pull", "base"]);
    assert_eq!(whole(&folder(&project)), ["base_9"]);
}

/// Row 150: what is damaged there is not taken, whatever is damaged of it.
#[test]
fn a_damaged_repository_is_refused() {
    let project = Project::new();
    share_large(&project, "8", 8);
    project.good(&["b9c", "-r", "./team", "push", "base"]);
    share_large(&project, "9", 9);
    project.good(&["b9c", "-r", "./team", "push", "base"]);
    let team = project.at("team/b9_shared_images");
    let pull = ["b9c", "-r", "./team", "pull", "base"];
    for (file, bytes, reason) in [
        ("base_9.raw", vec![7; IMAGE_BYTES], "and not"),
        ("base_9.raw", vec![9; 100], "and not"),
        ("base_9.raw.sha256", b"\0\xff damaged".to_vec(), "holds none"),
        ("base_9.raw.sha256", Vec::new(), "holds none"),
    ] {
        forget(&project);
        let good = fs::read(team.join(file)).unwrap();
        fs::write(team.join(file), bytes).unwrap();
        let error = project.bad(&pull);
        assert!(error.contains("failed to pull") && error.contains(reason), "{file}: {error}");
        assert!(whole(&folder(&project)).is_empty(), "{file}");
        fs::write(team.join(file), good).unwrap();
    }
    // Of a damaged description nothing is known; the others are.
    for damaged in
        [&b"\0\xff\xfe"[..], b"", b"SharedImage (SharedImageName \"../../x\")", &[b'('; 70_000]]
    {
        forget(&project);
        fs::write(team.join("base_9.b9si"), damaged).unwrap();
        project.good(&pull);
        assert_eq!(whole(&folder(&project)), ["base_8"]);
    }
    // The next push repairs it: the image that is there is not sent again.
    share_large(&project, "9", 9);
    project.good(&["b9c", "-r", "./team", "push", "base"]);
    forget(&project);
    project.good(&pull);
    assert_eq!(whole(&folder(&project)), ["base_9"]);
    // What is damaged here is not pushed.
    fs::write(folder(&project).join("base_9.raw"), vec![1; IMAGE_BYTES]).unwrap();
    let error = project.bad(&["b9c", "-r", "./team", "push", "base"]);
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(whole(&team), ["base_8", "base_9"]);
}

/// A build number may be used again (`-u`): the image behind it is then another one.
#[test]
fn an_image_of_the_same_name_and_size_is_pushed_anew() {
    let project = Project::new();
    let push = ["b9c", "-r", "./team", "push", "base"];
    for fill in [1, 2] {
        forget(&project);
        share_large(&project, "9", fill);
        project.good(&push);
        let image = fs::read(project.at("team/b9_shared_images/base_9.raw")).unwrap();
        assert_eq!(image[0], fill);
    }
}

#[test]
fn a_repository_that_cannot_be_reached_costs_nothing() {
    let project = Project::new();
    share_large(&project, "9", 9);
    fs::write(project.at("file"), "").unwrap();
    for place in ["./file/team", "ssh://127.0.0.1:1/team"] {
        for verb in [&["push", "base"][..], &["pull"], &["pull", "base"]] {
            let error = project.bad(&[&["b9c", "-r", place][..], verb].concat());
            assert!(error.contains(place), "{error}");
        }
        assert!(project.good(&["b9c", "list"]).contains("base 2030-01-09-00:00:00 9"));
    }
    assert_eq!(fs::read(folder(&project).join("base_9.raw")).unwrap().len(), IMAGE_BYTES);
}

/// A stand-in for S3, where one is installed; see the tests of the crate `remote`.
struct Moto(Child);

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn moto() -> Option<(Moto, String)> {
    let program = std::env::var_os("VBUILD_MOTO_SERVER").unwrap_or_else(|| "moto_server".into());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let mut server = Moto(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some((server, format!("http://127.0.0.1:{port}")));
        }
        if server.0.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}

#[test]
fn a_bucket_is_a_repository_too() {
    let Some((_server, url)) = moto() else {
        println!("skipped: there is no moto_server");
        return;
    };
    let made = Command::new("curl").args(["-sf", "-X", "PUT", &format!("{url}/images")]).status();
    assert!(made.unwrap().success());
    let project = Project::new();
    share_large(&project, "9", 9);
    let run = |words: &[&str]| {
        let output = Command::new(project.home.join("b9c"))
            .args(["-r", "s3://images/team"])
            .args(words)
            .current_dir(project.at(""))
            .env("HOME", &project.home)
            .envs([
                ("AWS_ENDPOINT_URL", url.as_str()),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("AWS_REGION", "us-east-1"),
            ])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    run(&["push", "base"]);
    forget(&project);
    run(&["pull"]);
    assert!(run(&["list"]).contains("base 2030-01-09-00:00:00 9"));
    run(&["pull", "base"]);
    assert_eq!(whole(&folder(&project)), ["base_9"]);
    run(&["push", "base"]);
}
