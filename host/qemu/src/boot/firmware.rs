//! Finds UEFI firmware on the host by the descriptors that distributions install for all users of
//! QEMU (its `docs/interop/firmware.json`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use machine::{MachineArchitecture, MachineError};
use serde_json::Value;

/// Directories of descriptors; the administrator's precede the distribution's.
const DIRECTORIES: [&str; 2] = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"];
/// Maximum size of a descriptor; real ones have about a kilobyte.
const DESCRIPTOR_MAX_BYTES: u64 = 64 * 1024;

/// Firmware of an architecture.
struct Known {
    /// The architecture's name in descriptors.
    name: &'static str,
    /// The prefix of machine types in descriptors.
    machines: &'static str,
    /// Code and variables to try if there is no descriptor.
    plain_files: &'static [(&'static str, &'static str)],
    /// How to install it.
    hint: &'static str,
}

fn known(architecture: MachineArchitecture) -> Known {
    match architecture {
        MachineArchitecture::Amd64 => Known {
            name: "x86_64",
            machines: "pc-q35",
            plain_files: &[
                ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
                ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
                ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
                ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
            ],
            hint: "install OVMF (the package `ovmf`)",
        },
        MachineArchitecture::Arm64 => Known {
            name: "aarch64",
            machines: "virt",
            plain_files: &[
                ("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
                ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
                (
                    "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
                    "/usr/share/edk2/aarch64/vars-template-pflash.raw",
                ),
            ],
            hint: "install AAVMF (the package `qemu-efi-aarch64`)",
        },
    }
}

/// A UEFI firmware: its code, and its initial variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uefi {
    /// The code, read-only.
    pub code: PathBuf,
    /// The template of the variables; the guest writes to a copy.
    pub variables: PathBuf,
}

/// Finds UEFI firmware for the standard machine of an architecture, without secure boot.
///
/// # Errors
/// Fails if there is none.
pub fn find_uefi(architecture: MachineArchitecture) -> Result<Uefi, MachineError> {
    let known = known(architecture);
    let folders = DIRECTORIES.iter().map(Path::new);
    let described = folders.flat_map(|directory| descriptors(directory, &known));
    let plain = known
        .plain_files
        .iter()
        .map(|(code, variables)| Uefi { code: code.into(), variables: variables.into() });
    described.chain(plain).find(|uefi| uefi.code.exists() && uefi.variables.exists()).ok_or_else(
        || MachineError::Unavailable {
            what: "UEFI firmware".to_owned(),
            reason: "none is installed".to_owned(),
            hint: Some(known.hint.to_owned()),
        },
    )
}

/// The firmware of all suitable descriptors in a directory, sorted by file name, which is the order
/// of preference.
fn descriptors(directory: &Path, known: &Known) -> Vec<Uefi> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let small = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= DESCRIPTOR_MAX_BYTES)
    };
    paths
        .into_iter()
        .filter(small)
        .filter_map(|path| fs::read(path).ok())
        .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
        .filter_map(|value| suitable(&value, known))
        .collect()
}

/// The firmware of a descriptor, if it suits the standard machine without secure boot.
fn suitable(descriptor: &Value, known: &Known) -> Option<Uefi> {
    let has = |list: &Value, word: &str| {
        list.as_array().is_some_and(|list| list.iter().any(|entry| entry == word))
    };
    let machine = descriptor["targets"].as_array()?.iter().any(|target| {
        target["architecture"] == known.name
            && target["machines"].as_array().is_some_and(|machines| {
                machines
                    .iter()
                    .filter_map(Value::as_str)
                    .any(|name| name.starts_with(known.machines))
            })
    });
    let features = &descriptor["features"];
    let demanding = ["requires-smm", "secure-boot", "enrolled-keys"]
        .iter()
        .any(|feature| has(features, feature));
    let mapping = &descriptor["mapping"];
    let fits = has(&descriptor["interface-types"], "uefi") && machine && !demanding;
    if !fits || mapping["device"] != "flash" || mapping["executable"]["format"] != "raw" {
        return None;
    }
    Some(Uefi {
        code: mapping["executable"]["filename"].as_str()?.into(),
        variables: mapping["nvram-template"]["filename"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(features: &[&str], machine: &str) -> Value {
        json!({
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": { "filename": "/code.fd", "format": "raw" },
                "nvram-template": { "filename": "/vars.fd", "format": "raw" },
            },
            "targets": [{ "architecture": "x86_64", "machines": [machine] }],
            "features": features,
        })
    }

    #[test]
    fn ordinary_firmware_is_taken_and_special_is_not() {
        let pc = known(MachineArchitecture::Amd64);
        let plain = Uefi { code: "/code.fd".into(), variables: "/vars.fd".into() };
        assert_eq!(suitable(&descriptor(&["acpi-s3"], "pc-q35-*"), &pc), Some(plain));
        assert_eq!(suitable(&descriptor(&["secure-boot"], "pc-q35-*"), &pc), None);
        assert_eq!(suitable(&descriptor(&[], "microvm"), &pc), None);
        assert_eq!(suitable(&json!({}), &pc), None);
        assert_eq!(suitable(&json!([1, 2]), &pc), None);
    }
}
