//! `ansible`: a playbook, run on the image by the appliance's Ansible.
//!
//! Of the host, only the playbook is uploaded, with what Ansible looks for beside it: its
//! directories (`roles`, `templates`, …) and the files that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use plan::{Step, UnixPath, Upload, UploadEntry, UploadKind, Value as Word};

use super::{StepKind, debootstrap::text_entry};
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, guest_path},
    yaml::{self, Node, Value},
};

/// Maximum size of a file that is searched for file names; a spec may be as large.
const YAML_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Directories beside a playbook that Ansible searches implicitly.
const NEIGHBOURS: &[&str] = &[
    "action_plugins",
    "callback_plugins",
    "collections",
    "files",
    "filter_plugins",
    "group_vars",
    "handlers",
    "host_vars",
    "library",
    "lookup_plugins",
    "module_utils",
    "roles",
    "tasks",
    "templates",
    "test_plugins",
    "vars",
];

/// Runs a playbook.
#[derive(Debug, Clone, PartialEq)]
pub struct Ansible {
    /// The tag of the root filesystem.
    pub tag: String,
    /// The playbook.
    pub playbook: String,
    /// The inventory group of the image.
    pub group: String,
    /// Tags of tasks to run.
    pub tags: String,
    /// A configuration file.
    pub config_file: Option<String>,
    /// Variables as JSON, without those that vmdb2 adds.
    pub extra_vars: serde_json::Map<String, serde_json::Value>,
}

impl StepKind for Ansible {
    fn read(fields: &mut Fields<'_>) -> Self {
        let tag = fields.word("ansible");
        let playbook = fields.word("playbook");
        let group = fields.text_or("group", "image");
        let tags = fields.text_or("tags", "all");
        let config_file = fields.optional("config_file");
        let extra_vars = match fields.map("extra_vars").map(|node| json(&node.value)) {
            Some(serde_json::Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        Self { tag, playbook, group, tags, config_file, extra_vars }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        lowering.packages.insert("ansible".into());
        let root = lowering.root_of("ansible", &self.tag)?;
        lowering.put_host_files(false)?;
        let at = lowering.own_directory();
        let playbook =
            lowering.directories.file(&self.playbook).map_err(Fault::input("playbook"))?;
        let mut files = Files::default();
        files.insert(playbook.entry(&format!("playbook/{}", playbook.name()), 0o644));
        let beside = playbook.path.parent().unwrap_or(Path::new("")).to_owned();
        files.neighbours(lowering, &beside)?;
        files.named(lowering, &beside, &playbook.path)?;
        for warning in std::mem::take(&mut files.warnings) {
            lowering.warn("playbook", warning);
        }
        files.insert(text_entry("inventory", &format!("[{}]\n{root}\n", self.group), 0o644));
        let config = match &self.config_file {
            Some(path) => {
                let file = lowering.directories.file(path).map_err(Fault::input("config_file"))?;
                files.insert(file.entry("ansible.cfg", 0o644));
                Some(guest_path("", &format!("{at}/ansible.cfg"))?)
            }
            None => None,
        };
        let mut variables = self.extra_vars.clone();
        let tarball = lowering.settings.rootfs_tarball.clone();
        variables.insert("rootfs_tarball".into(), tarball.into());
        let words = [
            "ansible-playbook".to_owned(),
            "-c".into(),
            "chroot".into(),
            "-i".into(),
            format!("{at}/inventory"),
            "--tags".into(),
            self.tags.clone(),
            "-e".into(),
            serde_json::Value::Object(variables).to_string(),
            format!("{at}/playbook/{}", playbook.name()),
        ];
        let argv = words.into_iter().map(Word::Text).collect();
        let mut command = lowering
            .with_resolver(&root, "ansible-playbook", argv)
            .env("ANSIBLE_NOCOWS", "1")
            .env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(config) = config {
            command = command.env("ANSIBLE_CONFIG", config.as_str());
        }
        let upload = Upload { what: self.playbook.clone(), to: at, entries: files.entries() };
        let mut work = vec![Step::Upload(upload).into()];
        work.extend(lowering.preparation());
        work.push(command.work());
        work.push(Step::KillProcesses { root: root.clone() }.into());
        lowering.stage("", Some(&root), true, work);
        Ok(())
    }
}

/// A value as JSON. Types that no step takes were refused before.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null | Value::Other(..) => serde_json::Value::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(|item| json(&item.value)).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| {
                let name = key.text().map_or_else(|| key.repr(), str::to_owned);
                (name, json(&value.value))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// Files for the guest, each path once.
#[derive(Default)]
struct Files {
    entries: BTreeMap<String, UploadEntry>,
    scanned: BTreeSet<PathBuf>,
    /// Warnings about files that are left out.
    warnings: Vec<String>,
}

impl Files {
    /// Adds an entry and its parent directories.
    fn insert(&mut self, entry: UploadEntry) {
        for (at, _) in entry.path.as_str().match_indices('/') {
            let path = &entry.path.as_str()[..at];
            let kind = UploadKind::Directory(0o755);
            let directory = UploadEntry { path: path.into(), kind };
            self.entries.entry(path.to_owned()).or_insert(directory);
        }
        self.entries.insert(entry.path.as_str().to_owned(), entry);
    }

    fn tree(&mut self, lowering: &Lowering<'_>, path: &Path, name: &str) -> Result<(), Fault> {
        let path = path.to_string_lossy();
        let tree = lowering.directories.tree(&path, 0o022).map_err(Fault::input("playbook"))?;
        let kind = UploadKind::Directory(0o755);
        let top = UnixPath::from(format!("playbook/{name}").as_str());
        self.insert(UploadEntry { path: top.clone(), kind });
        for entry in tree.entries {
            self.insert(UploadEntry { path: top.join(&entry.path), ..entry });
        }
        self.warnings.extend(tree.warnings);
        Ok(())
    }

    fn neighbours(&mut self, lowering: &Lowering<'_>, beside: &Path) -> Result<(), Fault> {
        for name in NEIGHBOURS {
            let path = beside.join(name);
            if path.is_dir() {
                self.tree(lowering, &path, name)?;
            }
        }
        Ok(())
    }

    /// Adds the files that a YAML file names, recursively. A file that cannot be parsed is left to
    /// Ansible, whose message is better.
    fn named(&mut self, lowering: &Lowering<'_>, beside: &Path, file: &Path) -> Result<(), Fault> {
        if !self.scanned.insert(file.to_owned()) {
            return Ok(());
        }
        let Some(text) = lowering.directories.text(file, YAML_MAX_BYTES) else {
            return check_size(file);
        };
        let Ok(document) = yaml::read(&text) else { return Ok(()) };
        let mut names = Vec::new();
        collect_names(&document.root, &mut names);
        for name in names {
            let path = beside.join(&name);
            if path.is_file() {
                let path = path.to_string_lossy().into_owned();
                let entry = lowering.directories.file(&path).map_err(Fault::input("playbook"))?;
                self.insert(entry.entry(&format!("playbook/{name}"), entry.mode & !0o022));
                self.named(lowering, beside, &entry.path)?;
            } else if name.contains('/') && path.is_dir() {
                self.tree(lowering, &path, name.trim_end_matches('/'))?;
            }
        }
        Ok(())
    }

    fn entries(self) -> Vec<UploadEntry> {
        self.entries.into_values().collect()
    }
}

/// Refuses a YAML file that is too large to be searched: the files that it names would be missing.
fn check_size(file: &Path) -> Result<(), Fault> {
    let is_yaml = file.extension().is_some_and(|end| end == "yml" || end == "yaml");
    if is_yaml && file.metadata().is_ok_and(|metadata| metadata.len() > YAML_MAX_BYTES) {
        let (file, limit) = (file.display(), YAML_MAX_BYTES >> 20);
        let reason = "the most that is searched for names of files";
        return Err(Fault::new(
            "playbook",
            format!("`{file}` has more than {limit} MiB, {reason}"),
        ));
    }
    Ok(())
}

/// Collects texts that may be paths below the playbook's directory.
fn collect_names(node: &Node, names: &mut Vec<String>) {
    match &node.value {
        Value::Text(text) => {
            let looks_so = text.contains(['.', '/']) && !text.contains(['\n', '{', '*']);
            let stays =
                text.split('/').all(|part| !matches!(part, "." | "..")) && !text.starts_with('/');
            if looks_so && stays {
                names.push(text.clone());
            }
        }
        Value::List(items) => items.iter().for_each(|item| collect_names(item, names)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| collect_names(value, names)),
        _ => {}
    }
}
