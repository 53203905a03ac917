//! What comes after the last step: tables, outputs, the plan as a whole.

use std::path::PathBuf;

use plan::{
    Disk, DiskName, DiskRole, DiskSize, GuestPath, ImageOutput, Layout, Node, NodeKind, Outputs,
    Plan, Stage, Step, Value,
};

use super::{Lowered, Lowering, Settings, Work};
use crate::{
    complaint::{Complaint, SpecError},
    narration::Narration,
    spec::Spec,
    table,
    yaml::Position,
};

/// The scratch disk: sparse, so this only bounds what a build may leave there
/// beside the image itself (an unpacked tarball, copied trees, caches).
const SCRATCH_BYTES: u64 = 64 * 1024 * 1024 * 1024;
const REKEY_SH: &str = include_str!("../../scripts/rekey.sh");

impl Lowering<'_> {
    pub(super) fn finish(mut self, spec: &Spec) -> Result<Lowered, SpecError> {
        if !self.failed && !self.stages.is_empty() {
            self.finish_stage();
        }
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
            disks: std::iter::once(scratch).chain(targets).collect(),
            stages: self.stages,
            outputs,
            helper_at: GuestPath::new("/build/helper").expect("a constant normal path"),
        };
        let mut warnings = spec.warnings.clone();
        warnings.extend(self.warnings);
        warnings.sort_by_key(|warning| warning.at);
        Ok(Lowered { plan, packages: self.packages.into_iter().collect(), warnings, narration })
    }

    /// What comes after the last step: keys are replaced, free blocks given
    /// back. Mounts of system directories are gone by then.
    fn finish_stage(&mut self) {
        self.binds.clear();
        self.current.0 = "finish".into();
        let mut work: Vec<Work> = Vec::new();
        for (node, old, command) in std::mem::take(&mut self.rekeys) {
            let arguments = vec![Value::Fact(format!("device.{node}")), old.into(), command.into()];
            let shown = ["cryptsetup", "luksChangeKey", &node];
            work.push(self.script("replace the key", REKEY_SH, arguments).shown(&shown).work());
        }
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

    /// Puts the tables, which are whole only now, where their labels were made.
    fn write_tables(&mut self) {
        for disk in &self.disks {
            let (Some(label), Some((stage, step))) = (disk.label, disk.table_at) else { continue };
            match table::table(disk.name.as_str(), label, disk.bytes, &disk.parts) {
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
            let (own, path) = crate::cli::format_of(&disk.path);
            let wanted: Vec<(String, PathBuf)> = if is_output && !self.settings.formats.is_empty() {
                let by_format = |format: &String| {
                    let file =
                        if *format == own { disk.path.clone() } else { format!("{path}.{format}") };
                    (format.clone(), PathBuf::from(file))
                };
                self.settings.formats.iter().map(by_format).collect()
            } else {
                vec![(own.to_owned(), PathBuf::from(&disk.path))]
            };
            images.extend(wanted.into_iter().map(|(format, path)| ImageOutput {
                disk: disk.name.clone(),
                format,
                path,
                compress: self.settings.compress,
                options: self.settings.format_options.clone(),
            }));
        }
        // vmdb2 writes over what is there.
        Outputs { images, checksums: self.settings.checksums.clone(), overwrite: true, epoch: None }
    }
}

impl Settings {
    /// The build's name: the spec's file name without its ending.
    fn build_name(&self) -> String {
        let stem = std::path::Path::new(&self.spec).file_stem();
        match stem.map(|stem| stem.to_string_lossy().into_owned()) {
            Some(name) if name != "-" => name,
            _ => "vmdb".into(),
        }
    }
}
