//! `cryptsetup`: LUKS containers. Two plugins of vmdb2 0.26 have this name, one with `tag` and a
//! key, one with `name` and a password; later versions take `name` and any one of the three. Here
//! one step accepts all forms.

use plan::{Layout, Luks, Node, NodeKind, Step};

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering},
    state::{Device, Tag},
};

/// Makes a LUKS container and opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cryptsetup {
    /// The tag of the device below.
    pub below: String,
    /// The name of the mapping, also the tag of the opened container.
    pub name: String,
    /// The key that opens it.
    pub key: Key,
}

/// The key of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A password in the spec.
    Password(String),
    /// A host file; all of its bytes are the key.
    File(String),
    /// A command; the first line of its output is the key.
    Command(String),
}

impl StepKind for Cryptsetup {
    fn read(fields: &mut Fields<'_>) -> Self {
        let below = fields.word("cryptsetup");
        let name = fields.required_alias(&["name", "tag"]);
        let keys: Vec<Key> = [
            fields.optional("password").map(Key::Password),
            fields.optional("key-file").map(Key::File),
            fields.optional("key-cmd").map(Key::Command),
        ]
        .into_iter()
        .flatten()
        .collect();
        if keys.len() != 1 {
            let message = "needs exactly one of the keys `password`, `key-file` and `key-cmd`";
            fields.fault("", message, None);
        }
        if name.contains('/') {
            fields.fault("name", format!("`{name}` is not a name of a mapping"), None);
        }
        let key = keys.into_iter().next().unwrap_or(Key::Password(String::new()));
        Self { below, name, key }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let base = lowering.tag("cryptsetup", &self.below)?.node.clone();
        if !lowering.names.reserve(&self.name) {
            return Err(Fault::new("name", format!("the name `{}` is already in use", self.name)));
        }
        let passphrase = match &self.key {
            Key::Password(password) => password.clone(),
            Key::File(path) => lowering.directories.key(path).map_err(Fault::input("key-file"))?,
            Key::Command(command) => {
                // The command must run in the guest, but stages must be able to open the container
                // without it; so the key is replaced at the end.
                let own = format!("key of {} until the build ends", self.name);
                lowering.rekeys.push((base.clone(), own.clone(), command.clone()));
                own
            }
        };
        let options = ["--pbkdf", "argon2id"].iter().map(ToString::to_string).collect();
        let kind = NodeKind::Luks(Luks { base, passphrase, options });
        let layout = Layout { nodes: vec![Node { name: self.name.clone(), kind }] };
        lowering.stage("", None, false, vec![Step::CreateLayout(layout).into()]);
        lowering.containers.push(self.name.clone());
        let device = Device::Container { below: self.below.clone() };
        let (name, node) = (self.name.clone(), self.name.clone());
        lowering.add_tag("name", Tag { name, device, node, filesystem: None, mounted: None })
    }

    fn defines(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
