//! Completes the plan after the last step: partition tables, outputs, cleanup.

use std::path::PathBuf;

use plan::{
    Disk, DiskName, DiskRole, DiskSize, GuestPath, ImageOutput, Layout, Node, NodeKind, Outputs,
    Plan, Stage, Step, TreeOutput, Value,
};

use crate::{
    complaint::{Complaint, SpecError},
    formats::FormatChoice,
    lowering::{Lowered, Lowering, Settings, Work},
    narration::Narration,
    spec::Spec,
    table,
    yaml::Position,
};

/// Size of the scratch disk. It is sparse, so this only limits what a build stores there beside the
/// image: an unpacked tarball, copied trees, caches.
const SCRATCH_BYTES: u64 = 64 * 1024 * 1024 * 1024;
const REKEY_SH: &str = include_str!("../../scripts/rekey.sh");

impl Lowering<'_> {
    pub(super) fn finish(mut self, spec: &Spec) -> Result<Lowered, SpecError> {
        if !self.failed && !self.stages.is_empty() {
            self.finish_stage();
        }
        self.unseen_shares();
        self.write_tables();
        let outputs = self.outputs();
        if !self.complaints.is_empty() {
            return Err(SpecError::new(&spec.source, self.complaints));
        }
        let mut narration = self.narration;
        narration.opening =
            Narration::opening(&self.settings.spec, &spec.repr, self.settings.wording);
        let scratch = Disk {
            name: DiskName::scratch(),
            role: DiskRole::Scratch,
            size: DiskSize::Bytes(SCRATCH_BYTES),
            block_bytes: 512,
            base: None,
        };
        let targets = self.disks.iter().map(|disk| Disk {
            name: disk.name.clone(),
            role: DiskRole::Target,
            size: DiskSize::Bytes(disk.bytes),
            block_bytes: 512,
            base: disk.base.clone(),
        });
        let plan = Plan {
            format_version: plan::FORMAT_VERSION,
            name: self.settings.build_name(),
            recipe: "vmdb".into(),
            architecture: self.settings.machine.architecture(),
            disks: std::iter::once(scratch).chain(targets).collect(),
            stages: self.stages,
            outputs,
            helper_at: GuestPath::new("/build/helper").expect("a constant normal path"),
        };
        let mut warnings = spec.warnings.clone();
        warnings.extend(self.warnings);
        warnings.sort_by_key(|warning| warning.at);
        let packages = self.packages.into_iter().collect();
        Ok(Lowered { plan, packages, warnings, notes: self.notes, narration })
    }

    /// Warns about shares that no command can see.
    fn unseen_shares(&mut self) {
        if self.has_host_files || self.stages.is_empty() {
            return;
        }
        let unseen = self.settings.shares.iter().map(|share| {
            format!(
                "--share {}: only `shell` and `ansible` steps see what is shared, and the spec has \
                 none that runs",
                share.host.display()
            )
        });
        self.notes.extend(unseen);
    }

    /// Adds the last stage: removes lent files, replaces keys, archives the tree, and discards free
    /// blocks. The mounts of system directories are gone by then.
    fn finish_stage(&mut self) {
        self.binds.clear();
        self.current.0 = "finish".into();
        let mut work = self.remove_lent();
        for (node, old, command) in std::mem::take(&mut self.rekeys) {
            let arguments = vec![Value::Fact(format!("device.{node}")), old.into(), command.into()];
            let shown = ["cryptsetup", "luksChangeKey", &node];
            work.push(self.script("replace the key", REKEY_SH, arguments).shown(&shown).work());
        }
        work.extend(self.trees());
        if self.tags.iter().any(|tag| tag.mounted.is_some()) {
            work.push(Step::Trim.into());
        }
        if work.is_empty() {
            return;
        }
        let context = self.context(None, false);
        let commands = work.iter().filter_map(|w| w.command.as_ref());
        self.narration.commands.push(commands.map(|argv| Narration::command(argv)).collect());
        let steps = work.into_iter().map(|work| work.step).collect();
        self.stages.push(Stage {
            name: "finish".into(),
            context,
            steps,
            network: false,
            keep: plan::Keep::Shared,
            timeout_s: None,
        });
    }

    /// Inserts the partition tables, complete only now, at the steps that made their labels.
    fn write_tables(&mut self) {
        for disk in &self.disks {
            let (Some(label), Some((stage, step))) = (disk.label, disk.table_at) else { continue };
            match table::table(disk.name.as_str(), label, &disk.parts) {
                Ok(table) => {
                    let name = self.names.claim(&format!("table-{}", disk.name));
                    let node = Node { name, kind: NodeKind::Table(table) };
                    let place = self.stages.get_mut(stage).and_then(|s| s.steps.get_mut(step));
                    if let Some(place) = place {
                        *place = Step::CreateLayout(Layout { nodes: vec![node] });
                    }
                }
                Err(message) => self.complaints.push(Complaint {
                    at: Position { line: 1, column: 1 },
                    step: None,
                    message: format!("the partition table of `{}`: {message}", disk.path),
                    hint: None,
                }),
            }
        }
    }

    fn outputs(&self) -> Outputs {
        let mut images = Vec::new();
        for disk in &self.disks {
            let is_output = Some(&disk.path) == self.settings.output.as_ref()
                || Some(&disk.path) == self.settings.image.as_ref();
            let wanted: Vec<(String, PathBuf)> = if is_output && !self.settings.formats.is_empty() {
                let formats = self.settings.formats.iter().filter(|format| !format.is_of_tree);
                let named =
                    formats.map(|format| (format.name.clone(), self.file_of(&disk.path, format)));
                named.collect()
            } else {
                let (own, _) = crate::formats::format_of(&disk.path);
                vec![(own.to_owned(), PathBuf::from(&disk.path))]
            };
            // As in builds of elements: if qcow2 is one of several formats, the options apply to
            // it.
            let several = wanted.len() > 1 && wanted.iter().any(|(format, _)| format == "qcow2");
            images.extend(wanted.into_iter().map(|(format, path)| {
                ImageOutput {
                    disk: disk.name.clone(),
                    options: self
                        .settings
                        .format_options
                        .clone()
                        .filter(|_| is_output && (!several || format == "qcow2")),
                    format,
                    path,
                    compress: self.settings.compress,
                }
            }));
        }
        // vmdb2 overwrites existing files.
        Outputs { images, checksums: self.settings.checksums.clone(), overwrite: true, epoch: None }
    }
}

impl Lowering<'_> {
    /// The path of an output format.
    fn file_of(&self, output: &str, format: &FormatChoice) -> PathBuf {
        crate::formats::file_of(output, format, self.settings.formats.len() == 1)
    }

    /// Archives the tree, for formats that are made from it.
    fn trees(&mut self) -> Vec<Work> {
        let formats: Vec<FormatChoice> =
            self.settings.formats.iter().filter(|format| format.is_of_tree).cloned().collect();
        let output = self.settings.output.clone().or_else(|| self.settings.image.clone());
        let (Some(first), Some(output)) = (formats.first(), output) else { return Vec::new() };
        let root = self.root_tag().and_then(|tag| self.root_of("", &tag));
        let Ok(root) = root else {
            if self.complaints.is_empty() {
                self.complaints.push(Complaint {
                    at: Position { line: 1, column: 1 },
                    step: None,
                    message: format!(
                        "--formats: {} is made of the tree, but no step mounts a filesystem at `/`",
                        first.name
                    ),
                    hint: None,
                });
            }
            return Vec::new();
        };
        let export = |format: &FormatChoice| {
            let path = self.file_of(&output, format);
            let target = match format.name.as_str() {
                "docker" | "oci" => self.settings.docker_target.clone(),
                _ => None,
            };
            let output = TreeOutput { format: format.name.clone(), path, target };
            // lost+found is useful only to its own filesystem.
            let exclude = vec!["lost+found".to_owned()];
            Step::ExportTree { root: root.clone(), exclude, output }.into()
        };
        formats.iter().map(export).collect()
    }
}

impl Settings {
    /// The build's name: the spec's file name without its suffix.
    fn build_name(&self) -> String {
        let stem = std::path::Path::new(&self.spec).file_stem();
        match stem.map(|stem| stem.to_string_lossy().into_owned()) {
            Some(name) if name != "-" => name,
            _ => "vmdb".into(),
        }
    }
}
