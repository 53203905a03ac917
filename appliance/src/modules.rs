//! Kernel modules without `depmod`: Debian's kernel package has no module index, so dependencies
//! are read from the modules themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
};

use object::{Object, ObjectSection};

use crate::{
    deb::{Content, Deb, Kind},
    packed,
};

/// Maximum uncompressed size of a module, which is kept in memory; the largest real one is below 10
/// MB.
const MODULE_MAX_BYTES: u64 = 128 << 20;

/// An error while using the modules of a kernel package.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A module does not exist as a file and is not built in.
    #[error("the kernel has no module `{name}`{}", needed_by.as_ref().map(|by| format!(", which `{by}` needs")).unwrap_or_default())]
    Missing {
        /// The name of the missing module.
        name: String,
        /// The module that needs it, if it was not requested itself.
        needed_by: Option<String>,
    },
    /// A module cannot be read.
    #[error("cannot read the kernel module `{path}`")]
    Read {
        /// The path of the file in the package.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A module file of the package.
#[derive(Debug, Clone)]
struct ModuleFile {
    path: String,
    content: Content,
}

/// The modules of a kernel package.
#[derive(Debug)]
pub(crate) struct Modules<'a> {
    files: BTreeMap<String, ModuleFile>,
    builtin: BTreeSet<String>,
    spools: &'a [File],
}

/// A module, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// The name of the module in the kernel, with underscores.
    pub name: String,
    /// The path of the module in the package.
    pub path: String,
    /// The uncompressed ELF file.
    pub bytes: Vec<u8>,
}

/// Returns the name of the module at a path, if it is one. The kernel uses underscores in names,
/// whatever the file names contain.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

impl<'a> Modules<'a> {
    /// Collects the modules of an unpacked kernel package.
    ///
    /// # Errors
    /// Fails if its list of built-in modules cannot be read.
    pub(crate) fn of(deb: &Deb, spools: &'a [File]) -> Result<Self, ModuleError> {
        let mut modules = Self { files: BTreeMap::new(), builtin: BTreeSet::new(), spools };
        for entry in &deb.entries {
            let Kind::File(content) = &entry.kind else { continue };
            if entry.path.ends_with("/modules.builtin") {
                let bytes = modules.content(&entry.path, content)?;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                modules.builtin.extend(text.lines().filter_map(module_name));
            } else if let Some(name) = module_name(&entry.path) {
                let (path, content) = (entry.path.clone(), content.clone());
                modules.files.insert(name, ModuleFile { path, content });
            }
        }
        Ok(modules)
    }

    /// Returns modules with all their dependencies, in loading order, without built-in ones.
    ///
    /// # Errors
    /// Fails if a module is missing or cannot be read.
    pub(crate) fn closure(&self, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(name, None, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        needed_by: Option<&str>,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), ModuleError> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || !seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(module) = self.load(&name)? else {
            let needed_by = needed_by.map(str::to_owned);
            return Err(ModuleError::Missing { name, needed_by });
        };
        for need in depends(&module)? {
            self.visit(&need, Some(&name), seen, order)?;
        }
        order.push(module);
        Ok(())
    }

    /// Returns the paths of all modules for which `keep` is true, and of their dependencies.
    ///
    /// # Errors
    /// Fails if a module cannot be read.
    pub(crate) fn paths(
        &self,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>, ModuleError> {
        let mut pending: Vec<String> = self
            .files
            .iter()
            .filter(|(_, file)| keep(&file.path))
            .map(|(name, _)| name.clone())
            .collect();
        let mut paths = BTreeSet::new();
        while let Some(name) = pending.pop() {
            let Some(file) = self.files.get(&name) else { continue };
            if !paths.insert(file.path.clone()) {
                continue;
            }
            if let Some(module) = self.load(&name)? {
                pending.extend(depends(&module)?);
            }
        }
        Ok(paths)
    }

    fn load(&self, name: &str) -> Result<Option<Module>, ModuleError> {
        let Some(file) = self.files.get(name) else { return Ok(None) };
        let packed = self.content(&file.path, &file.content)?;
        let bytes = unpack(&file.path, packed)
            .map_err(|source| ModuleError::Read { path: file.path.clone(), source })?;
        Ok(Some(Module { name: name.to_owned(), path: file.path.clone(), bytes }))
    }

    /// Reads a file of the package, without decompressing it.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub(crate) fn content(&self, path: &str, content: &Content) -> Result<Vec<u8>, ModuleError> {
        content
            .read(self.spools)
            .map_err(|source| ModuleError::Read { path: path.to_owned(), source })
    }
}

fn unpack(path: &str, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut reader: Box<dyn Read + '_> = match path.rsplit('.').next() {
        Some("xz") => Box::new(packed::xz(&*bytes)?),
        Some("zst") => Box::new(packed::zstd(&*bytes)?),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(&*bytes)),
        _ => return Ok(bytes),
    };
    let mut module = Vec::new();
    packed::at_most(&mut reader, MODULE_MAX_BYTES).read_to_end(&mut module)?;
    Ok(module)
}

/// Returns the dependencies of a module: the `depends=` lines in its `.modinfo` section.
fn depends(module: &Module) -> Result<Vec<String>, ModuleError> {
    let bad = |why: String| ModuleError::Read {
        path: module.path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, why),
    };
    let file = object::File::parse(&*module.bytes).map_err(|error| bad(error.to_string()))?;
    let section = file
        .section_by_name(".modinfo")
        .ok_or_else(|| bad("it has no section `.modinfo`".to_owned()))?;
    let data = section.data().map_err(|error| bad(error.to_string()))?;
    Ok(parse_depends(data))
}

pub(crate) fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|byte| *byte == 0)
        .filter_map(|field| std::str::from_utf8(field).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_modules() {
        assert_eq!(module_name("a/virtio-rng.ko").as_deref(), Some("virtio_rng"));
        assert_eq!(module_name("a/x.ko.xz").as_deref(), Some("x"));
        assert_eq!(module_name("a/modules.order"), None);
        assert_eq!(module_name("a/x.kopf"), None);
    }

    #[test]
    fn dependencies_of_a_module() {
        let modinfo = b"license=GPL\0depends=vsock,vmw_vsock-common\0\0depends=\0name=x\0";
        assert_eq!(parse_depends(modinfo), ["vsock", "vmw_vsock_common"]);
    }
}
