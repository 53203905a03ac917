//! `fstab`: writes fstab and crypttab for everything mounted and opened so far, sorted by mount
//! point.

use plan::Value;

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering},
};

const SCRIPT: &str = include_str!("../../scripts/fstab.sh");

/// Writes fstab and crypttab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fstab {
    /// The tag of the filesystem that they are written to.
    pub tag: String,
}

impl StepKind for Fstab {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { tag: fields.word("fstab") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("fstab", &self.tag)?;
        let mut lines = Vec::new();
        for tag in &lowering.tags {
            if let (Some(mounted), Some((node, fstype))) = (&tag.mounted, &tag.filesystem) {
                lines.push((mounted.target.clone(), node.clone(), fstype.clone()));
            }
        }
        lines.sort();
        let mut arguments: Vec<Value> = vec![root.as_str().into()];
        for (target, node, fstype) in lines {
            let uuid = Value::Fact(format!("uuid.{node}"));
            let fstype = match fstype.as_str() {
                "" => Value::Fact(format!("fstype.{node}")),
                known => known.into(),
            };
            arguments.extend(["fs".into(), uuid, target.into(), fstype, "-".into()]);
        }
        for node in &lowering.containers {
            let uuid = Value::Fact(format!("uuid.{node}"));
            arguments.extend(["crypt".into(), uuid, node.as_str().into(), "-".into(), "-".into()]);
        }
        let command = lowering.script("write fstab", SCRIPT, arguments);
        let file = format!("{root}/etc/fstab");
        let work = command.shown(&["write", &file]).work();
        lowering.stage("", Some(&root), false, vec![work]);
        Ok(())
    }
}
